//! [`stratos_fuzz::prelude`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stratos_fuzz::prelude(data));
