//! A catalogue with one damaged file: manifest, products, vectors or graph.

#![no_main]

use libfuzzer_sys::fuzz_target;
use loriot_fuzz::{repository, with_one_file_replaced};
use loriot_kernels::Isa;
use loriot_search::catalogue::{Catalogue, OpenOptions};

fuzz_target!(|input: &[u8]| {
    let good = repository("crates/loriot-search/tests/formats/catalogue_v1");
    let Some(folder) = with_one_file_replaced(&good, input) else { return };
    let options = OpenOptions { exact: false, n_threads: 1, isa: Isa::best() };
    let _ = Catalogue::open(folder.path(), &options);
});
