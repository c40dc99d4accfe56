//! [`stratos_fuzz::package_entry`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stratos_fuzz::package_entry(data));
