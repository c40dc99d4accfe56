//! [`stratos_fuzz::function_spec`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stratos_fuzz::function_spec(data));
