//! A graph file, of Loriot or of usearch, over the stored vectors; what opens is searched.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| loriot_fuzz::targets::graph(input));
