//! A PEFT adapter with a damaged configuration or damaged tensors.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| loriot_fuzz::targets::adapter(input));
