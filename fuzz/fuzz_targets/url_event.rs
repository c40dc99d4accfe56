//! [`stratos_fuzz::url_event`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stratos_fuzz::url_event(data));
