//! Headers that stand on many answers and requests: trace context, timings, and what a proxy must not pass on.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use stratos_api::{Phases, header as names};
use stratos_types::TraceContext;

use super::trace_context::{self, Placed, TRACEPARENT};
use crate::engine::{Engine, Meta};

/// This invocation's span: below the caller's, or the root of a trace when the caller sent no valid context, which is
/// counted. `body` is the request's, where it is there already.
pub(super) fn span(engine: &Engine, headers: &HeaderMap, body: &[u8]) -> TraceContext {
    let Placed { span, invalid } = trace_context::place(headers, body);
    if invalid {
        engine.recorder().context_invalid();
    }
    span
}

/// The phases as a `Server-Timing` value, durations in ms (W3C Server Timing).
pub(super) fn server_timing(phases: &Phases) -> HeaderValue {
    let mut text = String::with_capacity(192);
    // It is said before it is known how long the answer takes to be written.
    let known = phases.named().into_iter().filter(|(name, _)| *name != "respond");
    for (name, us) in known.chain([("total", phases.total_us)]) {
        let comma = if text.is_empty() { "" } else { ", " };
        write!(text, "{comma}{name};dur={}.{:03}", us / 1000, us % 1000).expect("a String takes every write");
    }
    HeaderValue::from_str(&text).expect("names and digits are a header value")
}

/// Adds what every answer of an invocation tells: its id, how it was run and how long each phase took.
pub(super) fn add_meta(headers: &mut HeaderMap, meta: &Meta) {
    let text = |text: String| HeaderValue::from_str(&text).expect("ids and digits are a header value");
    headers.insert(names::INVOCATION, text(meta.id.to_string()));
    if meta.instance.is_some() {
        headers.insert(
            names::START,
            HeaderValue::from_static(match (meta.cold, meta.restored) {
                (false, _) => "warm",
                (true, false) => "fresh",
                (true, true) => "restored",
            }),
        );
    }
    if let Some(version) = meta.version {
        headers.insert(names::VERSION, HeaderValue::from(version));
    }
    // A `$PORT` function may have timings of its own; both are kept.
    headers.append(names::SERVER_TIMING, server_timing(&meta.phases));
    headers.insert(TRACEPARENT, text(meta.trace.traceparent()));
}

/// Removes what concerns one connection only (RFC 9110, 7.6.1), the headers that `Connection` names included.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    const ALWAYS: [HeaderName; 8] = [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in ALWAYS.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Removes from a function's answer what would let its page reach beyond its own URL, to the node's page at `/ui`: a
/// service worker for other paths than its own would come between that page and the node, and a page with the same
/// opener policy would keep hold of its window.
pub(super) fn remove_what_reaches_beyond(headers: &mut HeaderMap) {
    for name in ["service-worker-allowed", "cross-origin-opener-policy"] {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn timings_are_in_milliseconds() {
        let phases = Phases {
            receive_us: 30,
            queue_us: 100,
            sandbox_us: 2_345,
            runtime_us: 20_000,
            init_us: 7,
            dispatch_us: 40,
            handler_us: 1_000_001,
            respond_us: 0,
            total_us: 0,
        };
        assert_eq!(
            server_timing(&phases),
            "receive;dur=0.030, queue;dur=0.100, sandbox;dur=2.345, runtime;dur=20.000, init;dur=0.007, \
             dispatch;dur=0.040, handler;dur=1000.001, total;dur=0.000"
        );
    }

    #[test]
    fn connection_headers_stay_on_their_connection() {
        let mut some = headers(&[
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("keep-alive", "timeout=5"),
            ("host", "h"),
            ("content-length", "3"),
        ]);
        remove_hop_by_hop(&mut some);
        let mut left: Vec<_> = some.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-length", "host"]);
    }
}
