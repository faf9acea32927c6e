//! A catalogue of version 1 or 2 with one damaged file; what opens is searched.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| loriot_fuzz::targets::catalogue(input));
