//! A PEFT adapter with a damaged configuration or damaged tensors.

#![no_main]

use libfuzzer_sys::fuzz_target;
use loriot_encoder::adapter::Adapter;
use loriot_encoder::config::Config;
use loriot_fuzz::{repository, with_one_file_replaced};

fuzz_target!(|input: &[u8]| {
    let config =
        Config::open(&repository("tests/golden/tiny_bert")).expect("the golden model opens");
    let good = repository("tests/golden/adapters/qkv");
    let Some(folder) = with_one_file_replaced(&good, input) else { return };
    let _ = Adapter::open(folder.path(), &config);
});
