//! [`stratos_fuzz::caller_trace`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stratos_fuzz::caller_trace(data));
