//! A model folder with one damaged file: configuration, weights, tokeniser, pooling, settings.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| loriot_fuzz::targets::model_folder(input));
