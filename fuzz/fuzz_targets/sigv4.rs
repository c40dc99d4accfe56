//! [`stratos_fuzz::sigv4`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stratos_fuzz::sigv4(data));
