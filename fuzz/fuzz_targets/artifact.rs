//! [`stratos_fuzz::artifact`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stratos_fuzz::artifact(data));
