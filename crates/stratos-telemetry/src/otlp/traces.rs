//! Invocations as spans.

use std::collections::BTreeMap;

use prost::Message as _;
use stratos_api::InvocationRecord;
use stratos_api::telemetry::Span as ApiSpan;

use super::message::{
    ERROR, INTERNAL, KeyValue, ResourceSpans, SERVER, ScopeSpans, Span, Status, TracesRequest, Value,
};
use super::{Sender, attribute, resource, scope, text};
use crate::spans;
use crate::traces::StoredTrace;

/// Attributes that stand in the resource, since they are the same for all spans of a version.
const OF_RESOURCE: [&str; 2] = ["faas.name", "faas.version"];

/// A request with the spans of these invocations. `started_ns` reads when one began.
pub fn traces(
    all: &[StoredTrace],
    sender: &Sender,
    started_ns: impl Fn(&InvocationRecord) -> u64,
) -> Vec<u8> {
    let mut by_version: BTreeMap<(&str, u64), Vec<Span>> = BTreeMap::new();
    for trace in all {
        let record = &trace.record;
        let row = by_version.entry((&record.function, record.version)).or_default();
        row.extend(of_invocation(trace, started_ns(record)));
    }
    let of_version = |((function, version), spans): ((&str, u64), Vec<Span>)| ResourceSpans {
        resource: resource(vec![
            text("service.name", function),
            text("faas.name", function),
            text("faas.version", &version.to_string()),
            text("host.name", &sender.host),
        ]),
        scope_spans: vec![ScopeSpans { scope: scope(sender), spans }],
    };
    TracesRequest { resource_spans: by_version.into_iter().map(of_version).collect() }.encode_to_vec()
}

fn of_invocation(trace: &StoredTrace, started_ns: u64) -> Vec<Span> {
    let StoredTrace { record, parent_span_id, error, .. } = trace;
    let trace_id = bytes(&record.trace_id);
    let spans = spans(record, parent_span_id.as_deref(), error.as_deref());
    let one = |(number, span): (usize, ApiSpan)| {
        let start = started_ns.saturating_add(span.start_us.saturating_mul(1000));
        let failed = number == 0 && record.outcome != "ok";
        let message = error.as_deref().unwrap_or(&record.outcome);
        let attributes = span.attributes.iter().filter(|(name, _)| !OF_RESOURCE.contains(&name.as_str()));
        Span {
            trace_id: trace_id.clone(),
            span_id: bytes(&span.span_id),
            parent_span_id: span.parent_span_id.as_deref().map(bytes).unwrap_or_default(),
            name: span.name,
            kind: if number == 0 { SERVER } else { INTERNAL },
            start_time_unix_nano: start,
            end_time_unix_nano: start.saturating_add(span.duration_us.saturating_mul(1000)),
            attributes: attributes.map(|(name, value)| typed(name, value)).collect(),
            status: failed.then(|| Status { message: message.to_owned(), code: ERROR }),
        }
    };
    spans.into_iter().enumerate().map(one).collect()
}

/// An attribute with the type that its name asks for.
fn typed(name: &str, value: &str) -> KeyValue {
    let number = ["_us", "_kb", "_bytes"].iter().any(|unit| name.ends_with(unit));
    let typed = match value.parse::<i64>() {
        Ok(value) if number => Value::Int(value),
        _ => match (name, value.parse::<bool>()) {
            ("faas.coldstart" | "stratos.slo_breached", Ok(value)) => Value::Bool(value),
            _ => Value::String(value.to_owned()),
        },
    };
    attribute(name, typed)
}

/// The bytes of hex digits; what is none is left out.
fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks_exact(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.filter_map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ended::tests::ended;

    #[test]
    fn invocations_are_spans_of_their_function() {
        let all = [("b", "ok"), ("a", "function_error"), ("b", "ok")];
        let all = all.map(|(function, outcome)| StoredTrace::of(&ended(function, 500, outcome)));
        let request = traces(&all, &Sender { host: "h".into(), version: "1".into() }, |_| 1_000_000);
        let request = TracesRequest::decode(&*request).unwrap();
        let spans = |at: usize| &request.resource_spans[at].scope_spans[0].spans;
        assert_eq!((request.resource_spans.len(), spans(0).len(), spans(1).len()), (2, 2, 4));
        let root = &spans(0)[0];
        assert_eq!(
            (root.name.as_str(), root.kind, root.trace_id.len(), root.span_id.len()),
            ("gateway", SERVER, 16, 8)
        );
        assert_eq!((root.start_time_unix_nano, root.end_time_unix_nano), (1_000_000, 1_500_000));
        assert_eq!(root.status, Some(Status { message: "it failed".into(), code: ERROR }));
        assert_eq!(spans(0)[1].parent_span_id, root.span_id);
        assert_eq!(spans(1)[0].status, None);
        assert_eq!(typed("stratos.cpu_us", "5"), attribute("stratos.cpu_us", Value::Int(5)));
        assert_eq!(typed("faas.coldstart", "true"), attribute("faas.coldstart", Value::Bool(true)));
        assert_eq!(typed("faas.name", "true"), text("faas.name", "true"));
    }
}
