//! The node and its functions as metrics, by OpenTelemetry's names for functions as Prometheus spells them.

use crate::exposition::{Format, Kind, Labels, Writer};
use crate::totals::{Counted, Totals};

/// The node's own figures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFigures {
    /// Its version.
    pub version: String,
    /// Instances that run.
    pub instances: u64,
    /// Requests that wait for one.
    pub queued: u64,
    /// Seconds since the agent started.
    pub uptime_s: u64,
    /// Resident memory of the agent, bytes.
    pub agent_bytes: u64,
    /// What the telemetry takes and had to leave out.
    pub own: stratos_api::telemetry::OwnTelemetry,
}

/// All of it as text.
pub fn render(totals: &Totals, node: &NodeFigures, format: Format) -> String {
    let mut out = Writer::new(format);
    counters(&mut out, totals);
    distributions(&mut out, totals);
    of_node(&mut out, node);
    out.finish()
}

fn counters(out: &mut Writer, totals: &Totals) {
    let name = "faas_invocations_total";
    out.family(name, Kind::Counter, "Invocations that succeeded.");
    each(totals, |labels, row| out.value(name, labels, row.succeeded));
    let name = "faas_errors_total";
    out.family(name, Kind::Counter, "Invocations that failed, by who is to blame.");
    for (function, row) in totals.rows() {
        for (blame, count) in ["client", "function", "platform"].iter().zip(row.errors) {
            out.value(name, &[("faas_name", function), ("blame", blame)], count);
        }
    }
    let name = "faas_timeouts_total";
    out.family(name, Kind::Counter, "Invocations that ran out of time; they are errors as well.");
    each(totals, |labels, row| out.value(name, labels, row.timeouts));
    let name = "faas_coldstarts_total";
    out.family(
        name,
        Kind::Counter,
        "Invocations that an instance was started for, afresh (cold) or restored.",
    );
    for (function, row) in totals.rows() {
        for (start, buckets) in STARTS.iter().zip(&row.init) {
            out.value(name, &[("faas_name", function), ("start", start)], buckets.counts.iter().sum());
        }
    }
    let name = "stratos_slo_breaches_total";
    out.family(name, Kind::Counter, "Invocations that took longer than the function's objective.");
    each(totals, |labels, row| out.value(name, labels, row.slo_breaches));
}

const STARTS: [&str; 2] = ["cold", "restored"];

fn distributions(out: &mut Writer, totals: &Totals) {
    let name = "faas_invoke_duration_seconds";
    out.family(name, Kind::Histogram, "From the whole request being there to its answer.");
    each(totals, |labels, row| out.histogram(name, labels, &row.invoke));
    let name = "faas_init_duration_seconds";
    out.family(name, Kind::Histogram, "From the begin of a start until the instance could take a request.");
    for (function, row) in totals.rows() {
        for (start, buckets) in STARTS.iter().zip(&row.init) {
            out.histogram(name, &[("faas_name", function), ("start", start)], buckets);
        }
    }
    let name = "faas_cpu_usage_seconds";
    out.family(name, Kind::Histogram, "CPU time of the instance during an invocation.");
    each(totals, |labels, row| out.histogram(name, labels, &row.cpu));
    let name = "faas_mem_usage_bytes";
    out.family(name, Kind::Histogram, "Memory high-water mark of the instance at the end of an invocation.");
    each(totals, |labels, row| out.histogram(name, labels, &row.memory));
    let name = "faas_net_io_bytes";
    out.family(name, Kind::Histogram, "Payload of an invocation, received or sent by the function.");
    for (function, row) in totals.rows() {
        for (direction, buckets) in [("receive", &row.received), ("transmit", &row.sent)] {
            out.histogram(name, &[("faas_name", function), ("direction", direction)], buckets);
        }
    }
}

fn each(totals: &Totals, mut write: impl FnMut(Labels<'_>, &Counted)) {
    for (function, row) in totals.rows() {
        write(&[("faas_name", function)], row);
    }
}

fn of_node(out: &mut Writer, node: &NodeFigures) {
    out.family("stratos_node_info", Kind::Gauge, "The node's version.");
    out.value("stratos_node_info", &[("version", &node.version)], 1);
    let own = &node.own;
    let gauges = [
        ("stratos_instances", "Instances that run.", node.instances),
        ("stratos_requests_queued", "Requests that wait for an instance.", node.queued),
        ("stratos_agent_uptime_seconds", "Time since the agent started.", node.uptime_s),
        ("stratos_agent_memory_bytes", "Resident memory of the agent.", node.agent_bytes),
        ("stratos_telemetry_memory_bytes", "Memory of summaries and traces.", own.memory_bytes),
        ("stratos_telemetry_disk_bytes", "Files of summaries and traces.", own.disk_bytes),
        ("stratos_traces", "Traces that can be asked for.", own.traces),
    ];
    for (name, help, value) in gauges {
        out.family(name, Kind::Gauge, help);
        out.value(name, &[], value);
    }
    let counters = [
        ("stratos_traces_dropped_total", "Traces that there was no room for.", own.traces_dropped),
        ("stratos_telemetry_folded_total", "Invocations that are counted under _other.", own.folded),
        (
            "stratos_trace_contexts_invalid_total",
            "Trace contexts of callers that are not valid.",
            own.contexts_invalid,
        ),
        (
            "stratos_export_dropped_total",
            "Traces and points of metrics that were not exported.",
            own.export_dropped,
        ),
    ];
    for (name, help, value) in counters {
        out.family(name, Kind::Counter, help);
        out.value(name, &[], value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ended::tests::ended;

    #[test]
    fn functions_are_told_by_opentelemetrys_names() {
        let mut totals = Totals::new(5);
        totals.add(&ended("hello", 700, "ok").record, 1_000);
        totals.add(&ended("hello", 3_000_000, "function_timeout").record, 2_000);
        let mut restored = ended("hello", 5, "ok").record;
        (restored.cold, restored.restored, restored.phases.sandbox_us) = (true, true, 2_000);
        totals.add(&restored, 3_000);
        let node = NodeFigures { version: "1".into(), queued: 4, ..NodeFigures::default() };
        let text = render(&totals, &node, Format::OpenMetrics);
        for line in [
            "faas_invocations_total{faas_name=\"hello\"} 2",
            "faas_errors_total{faas_name=\"hello\",blame=\"function\"} 1",
            "faas_timeouts_total{faas_name=\"hello\"} 1",
            "faas_coldstarts_total{faas_name=\"hello\",start=\"restored\"} 1",
            "faas_coldstarts_total{faas_name=\"hello\",start=\"cold\"} 0",
            "faas_invoke_duration_seconds_bucket{faas_name=\"hello\",le=\"0.001\"} 2 # \
             {trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\"} 0.0007 1.000",
            "faas_invoke_duration_seconds_bucket{faas_name=\"hello\",le=\"5.0\"} 3 # \
             {trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\"} 3 2.000",
            "faas_init_duration_seconds_bucket{faas_name=\"hello\",start=\"restored\",le=\"0.0025\"} 1",
            "faas_cpu_usage_seconds_count{faas_name=\"hello\"} 3",
            "faas_mem_usage_bytes_bucket{faas_name=\"hello\",le=\"67108864.0\"} 3",
            "faas_net_io_bytes_sum{faas_name=\"hello\",direction=\"receive\"} 6",
            "stratos_requests_queued 4",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(!render(&totals, &node, Format::Prometheus).contains(" # {"));
    }
}
