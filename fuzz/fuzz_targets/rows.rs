//! Rows of every format, plain and gzipped, under several options: the first two bytes choose.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| loriot_fuzz::targets::rows(input));
