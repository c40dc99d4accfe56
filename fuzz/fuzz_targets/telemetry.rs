//! [`stratos_fuzz::telemetry`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stratos_fuzz::telemetry(data));
