//! [`stratos_fuzz::boot_nocloud`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stratos_fuzz::boot_nocloud(data));
