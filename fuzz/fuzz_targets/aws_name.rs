//! [`stratos_fuzz::aws_name`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stratos_fuzz::aws_name(data));
