//! An invocation as spans of a trace.

use std::collections::BTreeMap;

use stratos_api::InvocationRecord;
use stratos_api::telemetry::Span;

/// The spans of an invocation: the first is all of it, each other one a phase of it, in their order. The same invocation
/// gives the same ids, so that spans that are asked for here are those that were exported.
pub fn spans(record: &InvocationRecord, parent_span_id: Option<&str>, error: Option<&str>) -> Vec<Span> {
    let mut all = vec![Span {
        name: "gateway".into(),
        span_id: record.span_id.clone(),
        parent_span_id: parent_span_id.map(str::to_owned),
        start_us: 0,
        duration_us: record.phases.total_us,
        attributes: attributes(record, error),
    }];
    let mut start_us = 0;
    for (number, (phase, duration_us)) in record.phases.named().into_iter().enumerate() {
        if duration_us > 0 {
            let name = if phase == "sandbox" && record.restored { "restore" } else { phase };
            all.push(within(record, number, name, start_us, duration_us));
        }
        start_us = start_us.saturating_add(duration_us);
    }
    if let Some(post_us) = record.post_hook_us {
        // The runtime goes on while the answer is on its way.
        let answered = start_us.saturating_sub(record.phases.respond_us);
        all.push(within(record, record.phases.named().len(), "post", answered, post_us));
    }
    all
}

fn within(record: &InvocationRecord, number: usize, name: &str, start_us: u64, duration_us: u64) -> Span {
    Span {
        name: name.into(),
        span_id: format!("{:016x}", derived(&record.span_id, number as u64)),
        parent_span_id: Some(record.span_id.clone()),
        start_us,
        duration_us,
        attributes: BTreeMap::new(),
    }
}

/// An id that belongs to the span's number in this invocation: splitmix64 of both, whose bits are as good as random.
fn derived(span_id: &str, number: u64) -> u64 {
    let seed = u64::from_str_radix(span_id, 16).unwrap_or_default();
    let mut z = seed.wrapping_add((number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).max(1)
}

/// What is known, by OpenTelemetry's names for functions, and StratOS's own for the rest.
fn attributes(record: &InvocationRecord, error: Option<&str>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut set = |name: &str, value: String| drop(all.insert(name.to_owned(), value));
    set("faas.name", record.function.clone());
    set("faas.version", record.version.to_string());
    set("faas.invocation_id", record.id.clone());
    set("faas.coldstart", record.cold.to_string());
    set("faas.trigger", record.trigger.clone());
    set("stratos.start", record.start().to_owned());
    set("stratos.request_bytes", record.request_bytes.to_string());
    set("stratos.response_bytes", record.response_bytes.to_string());
    let optional = [
        ("faas.instance", record.instance.clone()),
        ("stratos.memory_peak_kb", record.memory_peak_kb.map(|kb| kb.to_string())),
        ("stratos.cpu_us", record.cpu_us.map(|us| us.to_string())),
        ("stratos.pre_hook_us", record.pre_hook_us.map(|us| us.to_string())),
        ("stratos.slo_breached", record.slo_breached.then(|| "true".to_owned())),
        ("stratos.blame", record.blame.map(|blame| blame.to_string())),
        ("error.type", (record.outcome != "ok").then(|| record.outcome.clone())),
        ("exception.message", error.map(str::to_owned)),
    ];
    for (name, value) in optional {
        value.into_iter().for_each(|value| set(name, value));
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use stratos_api::Phases;

    use super::*;
    use crate::ended::tests::ended;

    #[test]
    fn phases_become_spans_without_a_gap() {
        let mut record = ended("f", 1, "function_error").record;
        record.phases = Phases {
            receive_us: 1,
            queue_us: 2,
            sandbox_us: 30,
            runtime_us: 0,
            init_us: 5,
            dispatch_us: 6,
            handler_us: 70,
            respond_us: 8,
            total_us: 122,
        };
        record.post_hook_us = Some(9);
        record.restored = true;
        let all = spans(&record, Some("00000000000000aa"), Some("no"));
        let shown: Vec<_> = all.iter().map(|s| (s.name.as_str(), s.start_us, s.duration_us)).collect();
        let want = [
            ("gateway", 0, 122),
            ("receive", 0, 1),
            ("queue", 1, 2),
            ("restore", 3, 30),
            ("init", 33, 5),
            ("dispatch", 38, 6),
            ("handler", 44, 70),
            ("respond", 114, 8),
            ("post", 114, 9),
        ];
        assert_eq!(shown, want);
        assert_eq!(all[0].parent_span_id.as_deref(), Some("00000000000000aa"));
        assert_eq!(all[0].attributes["exception.message"], "no");
        assert_eq!(all[0].attributes["error.type"], "function_error");
        let ids: BTreeSet<_> = all.iter().map(|span| span.span_id.clone()).collect();
        assert_eq!(ids.len(), all.len());
        assert!(all[1..].iter().all(|span| span.parent_span_id.as_ref() == Some(&all[0].span_id)));
        assert_eq!(spans(&record, Some("00000000000000aa"), Some("no")), all);
    }
}
