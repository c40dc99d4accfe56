//! [`stratos_fuzz::egress_rule`] under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stratos_fuzz::egress_rule(data));
