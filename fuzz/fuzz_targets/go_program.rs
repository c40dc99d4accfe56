//! [`stratos_fuzz::go_program`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stratos_fuzz::go_program(data));
