//! Rows of every format, plain and gzipped: the first byte chooses.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| loriot_fuzz::targets::rows(input));
