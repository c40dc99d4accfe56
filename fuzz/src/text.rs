//! Short texts that become types: what is accepted prints as text that means the same.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use stratos_api::Endpoint;
use stratos_sandbox::egress::IpRange;
use stratos_types::{
    Digest, EgressRule, EgressTarget, FunctionName, InvocationId, MemorySize, Runtime, TenantId, Timeout,
    TraceContext,
};

/// The value of `text`, when it is one, after checking that it prints as text of the same value.
fn round_trip<T>(text: &str) -> Option<T>
where
    T: FromStr<Err: Display> + Display + PartialEq + Debug,
{
    match text.parse::<T>() {
        Ok(value) => {
            let printed = value.to_string();
            assert_eq!(printed.parse::<T>().ok().as_ref(), Some(&value), "{text:?} prints as {printed:?}");
            Some(value)
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.len() <= 4 * text.len() + 200, "{} bytes about {}", said.len(), text.len());
            None
        }
    }
}

/// Names, ids, digests and quantities.
pub fn identifiers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let label = |name: &str| {
        assert_eq!(name, text);
        assert!((1..=63).contains(&name.len()));
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{name:?}");
        assert!(!name.starts_with('-') && !name.ends_with('-'), "{name:?}");
    };
    if let Some(name) = round_trip::<FunctionName>(text) {
        label(name.as_str());
    }
    if let Some(tenant) = round_trip::<TenantId>(text) {
        label(tenant.as_str());
    }
    // One thing has one spelling: these are keys of the store, and names of files.
    if let Some(digest) = round_trip::<Digest>(text) {
        assert_eq!(digest.to_string(), text);
    }
    if let Some(id) = round_trip::<InvocationId>(text) {
        assert_eq!(id.to_string(), text);
    }
    if let Some(runtime) = round_trip::<Runtime>(text) {
        assert_eq!(runtime.as_str(), text);
    }
    if let Some(memory) = round_trip::<MemorySize>(text) {
        assert!((32 << 20..=64 << 30).contains(&memory.bytes()), "{memory}");
        assert!(text.starts_with(|c: char| c.is_ascii_digit()), "{text:?}");
    }
    if let Some(timeout) = round_trip::<Timeout>(text) {
        assert!((1..=15 * 60 * 1000).contains(&timeout.duration().as_millis()), "{timeout}");
        assert!(text.starts_with(|c: char| c.is_ascii_digit()), "{text:?}");
    }
}

/// `traceparent` on the first line, `tracestate` on the second.
pub fn trace_context(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (parent, state) = match text.split_once('\n') {
        Some((parent, state)) => (parent, Some(state)),
        None => (text, None),
    };
    let Some(context) = TraceContext::parse(parent, state) else { return };
    assert_eq!(context.trace_id(), parent[3..35]);
    let printed = context.traceparent();
    let again = TraceContext::parse(&printed, context.tracestate()).expect("what is printed is valid");
    assert_eq!(again.traceparent(), printed);
    assert_eq!(again.tracestate(), context.tracestate());
    assert_eq!(context.child().trace_id(), context.trace_id());
    // All three go into headers.
    for value in [Some(printed.as_str()), context.tracestate(), Some(&context.xray())].into_iter().flatten() {
        assert!(value.len() <= 1024 && value.bytes().all(|b| b == b'\t' || (0x20..0x7f).contains(&b)));
    }
}

/// Egress rules, one a line, and the ranges of addresses that an operator denies.
pub fn egress_rule(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for line in text.lines() {
        round_trip::<IpRange>(line);
        let Some(rule) = round_trip::<EgressRule>(line) else { continue };
        assert!(*rule.ports.start() != 0 && rule.ports.start() <= rule.ports.end(), "{rule}");
        match &rule.target {
            EgressTarget::Host(host) => {
                assert!(!host.is_empty() && host.len() <= 253, "{host:?}");
                assert!(!host.ends_with('.') && !host.contains(|c: char| c.is_uppercase()), "{host:?}");
                assert!(host.parse::<std::net::IpAddr>().is_err(), "{host:?} is an address");
            }
            EgressTarget::Cidr { addr, prefix } => {
                assert!(*prefix <= 32);
                let host_bits = u32::MAX.checked_shr(u32::from(*prefix)).unwrap_or(0);
                assert_eq!(addr.to_bits() & host_bits, 0, "{rule}");
            }
            EgressTarget::AnyHost => panic!("`{line}` opens every host"),
        }
    }
}

/// The address of a node.
pub fn endpoint(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match round_trip::<Endpoint>(text) {
        Some(Endpoint::Unix(path)) => assert!(path.is_absolute(), "{path:?}"),
        Some(Endpoint::Http(authority) | Endpoint::Https(authority)) => {
            let (host, port) = authority.rsplit_once(':').expect("there is always a port");
            assert!(!host.is_empty() && !host.contains('@'), "{authority:?}");
            assert!(port.parse::<u16>().is_ok_and(|port| port != 0), "{authority:?}");
        }
        None => {}
    }
}
