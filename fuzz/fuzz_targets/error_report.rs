//! [`stratos_fuzz::error_report`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stratos_fuzz::error_report(data));
