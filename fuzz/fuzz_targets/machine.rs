//! [`stratos_fuzz::machine`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stratos_fuzz::machine(data));
