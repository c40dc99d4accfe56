//! Where an invocation stands in a caller's trace: W3C headers, CloudEvents, or AWS's trace header.
//!
//! Pure, and public so that it can be fuzzed: callers may send anything.

use http::{HeaderMap, HeaderName, header};
use serde::Deserialize;
use stratos_types::TraceContext;

/// W3C `traceparent`.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// W3C `tracestate`.
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// AWS's trace header.
pub(super) const XRAY: HeaderName = HeaderName::from_static("x-amzn-trace-id");
/// The same as W3C's in CloudEvents of binary mode (their extension for distributed tracing).
const CE_TRACEPARENT: HeaderName = HeaderName::from_static("ce-traceparent");
const CE_TRACESTATE: HeaderName = HeaderName::from_static("ce-tracestate");
/// A CloudEvent of structured mode.
const STRUCTURED: &[u8] = b"application/cloudevents+json";

/// An invocation's span, and whether it would stand in a caller's trace had that been valid.
#[derive(Debug, PartialEq, Eq)]
pub struct Placed {
    /// The span: below the caller's, or the root of a trace.
    pub span: TraceContext,
    /// The caller sent a context that is none.
    pub invalid: bool,
}

/// This invocation's span. The first context that the caller gives counts: `traceparent`, a CloudEvent's, AWS's. `body` is
/// the request's, where it is there already.
pub fn place(headers: &HeaderMap, body: &[u8]) -> Placed {
    let above = if headers.contains_key(TRACEPARENT) {
        Some(w3c(headers, &TRACEPARENT, &TRACESTATE))
    } else if headers.contains_key(CE_TRACEPARENT) {
        Some(w3c(headers, &CE_TRACEPARENT, &CE_TRACESTATE))
    } else {
        structured(headers, body).or_else(|| xray(headers))
    };
    match above {
        Some(Some(span)) => Placed { span, invalid: false },
        Some(None) => Placed { span: TraceContext::root(), invalid: true },
        None => Placed { span: TraceContext::root(), invalid: false },
    }
}

/// The only value of a header. Two are as invalid as none (W3C Trace Context, 3.2).
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

fn w3c(headers: &HeaderMap, parent: &HeaderName, state: &HeaderName) -> Option<TraceContext> {
    let states: Vec<_> = headers.get_all(state).iter().filter_map(|v| v.to_str().ok()).collect();
    let state = (!states.is_empty()).then(|| states.join(","));
    Some(TraceContext::parse(only(headers, parent)?, state.as_deref())?.child())
}

/// What of a CloudEvent is read here.
#[derive(Deserialize)]
struct CloudEvent<'a> {
    #[serde(borrow)]
    traceparent: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    tracestate: Option<std::borrow::Cow<'a, str>>,
}

/// The context in a CloudEvent; nothing when there is no such event, or none in it.
fn structured(headers: &HeaderMap, body: &[u8]) -> Option<Option<TraceContext>> {
    let kind = headers.get(header::CONTENT_TYPE)?.as_bytes();
    let kind = kind.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    if !kind.eq_ignore_ascii_case(STRUCTURED) || body.is_empty() {
        return None;
    }
    match serde_json::from_slice::<CloudEvent<'_>>(body) {
        Ok(CloudEvent { traceparent: None, .. }) => None,
        Ok(CloudEvent { traceparent: Some(parent), tracestate }) => {
            Some(TraceContext::parse(&parent, tracestate.as_deref()).map(|above| above.child()))
        }
        // Not text where it should be, or no JSON at all.
        Err(_) => Some(None),
    }
}

fn xray(headers: &HeaderMap) -> Option<Option<TraceContext>> {
    headers.contains_key(XRAY).then(|| TraceContext::below_xray(only(headers, &XRAY)?))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const OTHER: &str = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-00f067aa0ba902b7-01";
    const AWS: &str = "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn the_callers_trace_goes_on_however_it_is_said() {
        let event =
            format!(r#"{{"specversion":"1.0","traceparent":"{PARENT}","tracestate":"a=1","data":[1,"ü"]}}"#);
        let json = ("content-type", "application/CloudEvents+json; charset=utf-8");
        for (given, body, state) in [
            (
                vec![("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")],
                "",
                Some("a=1,b=2"),
            ),
            (vec![("traceparent", PARENT), ("ce-traceparent", OTHER), ("x-amzn-trace-id", "no")], "", None),
            (vec![("ce-traceparent", PARENT), ("ce-tracestate", "a=1")], "", Some("a=1")),
            (vec![json, ("x-amzn-trace-id", "no")], event.as_str(), Some("a=1")),
            (vec![("x-amzn-trace-id", AWS)], "", None),
        ] {
            let placed = place(&headers(&given), body.as_bytes());
            assert_eq!((placed.span.trace_id().as_str(), placed.invalid), (TRACE, false), "{given:?}");
            assert_eq!(placed.span.parent_span_id().as_deref(), Some("00f067aa0ba902b7"), "{given:?}");
            assert_eq!(placed.span.tracestate(), state, "{given:?}");
            assert!(placed.span.is_sampled_above(), "{given:?}");
        }
        let root = place(&headers(&[("x-amzn-trace-id", "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736")]), b"");
        assert_eq!((root.span.trace_id().as_str(), root.span.parent_span_id()), (TRACE, None));
    }

    #[test]
    fn what_is_no_context_is_dropped_and_told() {
        let json = ("content-type", "application/cloudevents+json");
        for (given, body, invalid) in [
            (vec![], "", false),
            (vec![], r#"{"traceparent":"x"}"#, false),
            (vec![json], r#"{"data":{"traceparent":"x"}}"#, false),
            (vec![json], "", false),
            (vec![json], r#"{"traceparent":"x"}"#, true),
            (vec![json], r#"{"traceparent":7}"#, true),
            (vec![json], "[", true),
            (vec![("traceparent", "00-0")], "", true),
            (vec![("traceparent", PARENT), ("traceparent", PARENT)], "", true),
            (vec![("traceparent", "\u{fc}")], "", true),
            (vec![("traceparent", ""), ("x-amzn-trace-id", AWS)], "", true),
            (vec![("ce-traceparent", &PARENT.to_uppercase())], "", true),
            (vec![("x-amzn-trace-id", "Root=1;Parent")], "", true),
        ] {
            let placed = place(&headers(&given), body.as_bytes());
            assert_eq!((placed.invalid, placed.span.parent_span_id()), (invalid, None), "{given:?} {body}");
            assert_ne!(placed.span.trace_id(), TRACE, "{given:?} {body}");
        }
    }
}
