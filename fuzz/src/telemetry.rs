//! Headers of callers that say where an invocation stands in a trace, and the node's own files of telemetry.

use http::{HeaderMap, HeaderName, HeaderValue};
use stratos_agent::http::trace_context::place;
use stratos_telemetry::segments::{MAX_FRAME, frames};
use stratos_telemetry::{Limits, StoredTrace, Telemetry, spans};
use stratos_types::TraceContext;

/// Headers, one a line, an empty line, and a body. Whatever they are, there is a span that is safe to send on.
pub fn caller_trace(data: &[u8]) {
    let end = data.windows(2).position(|two| two == b"\n\n");
    let (head, body) = end.map_or((data, &b""[..]), |at| (&data[..at], &data[at + 2..]));
    let mut headers = HeaderMap::new();
    for line in head.split(|b| *b == b'\n') {
        let Some(at) = line.iter().position(|b| *b == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..at]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line[at + 1..].trim_ascii())) {
            headers.append(name, value);
        }
    }
    let placed = place(&headers, body);
    let span = placed.span;
    assert!(!(placed.invalid && span.parent_span_id().is_some()), "a trace that is not valid was taken up");
    for value in
        [Some(span.traceparent().as_str()), span.tracestate(), Some(&span.xray())].into_iter().flatten()
    {
        assert!(value.len() <= 1024 && value.bytes().all(|b| b == b'\t' || (0x20..0x7f).contains(&b)));
    }
    let again =
        TraceContext::parse(&span.traceparent(), span.tracestate()).expect("what is sent on is valid");
    assert_eq!((again.trace_id(), again.span_id()), (span.trace_id(), span.span_id()));
    let below = TraceContext::below_xray(&span.xray()).expect("what is sent on is valid");
    assert_eq!(below.parent_span_id(), Some(span.span_id()));
}

/// A file of frames: what is taken out of it stays within the limits.
pub fn telemetry(data: &[u8]) {
    let limits = Limits { functions: 4, summary_bytes: 16 << 10, ..Limits::default() };
    let mut telemetry = Telemetry::new(limits);
    let now_ms = 1_800_000_000_000;
    // As a file, and as the frame in one.
    for frame in frames(data).into_iter().chain([data]) {
        assert!(frame.len() <= MAX_FRAME || frame.len() == data.len());
        telemetry.restore_minute(frame, now_ms);
        if let Ok(trace) = serde_json::from_slice::<StoredTrace>(frame) {
            let all = spans(&trace.record, trace.parent_span_id.as_deref(), trace.error.as_deref());
            assert!(all.len() <= 10);
        }
    }
    for function in telemetry.functions(24 * 60, now_ms, |ms| ms.to_string()) {
        let total = function.total;
        if let Some(p) = total.duration {
            assert!(p.p50_us <= p.p95_us && p.p95_us <= p.p99_us && p.p99_us <= p.max_us, "{p:?}");
        }
        assert!(function.minutes.len() <= 24 * 60);
    }
}
