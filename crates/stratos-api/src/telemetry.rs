//! What a node tells of its invocations over time: summaries by the minute, and traces of those worth looking at.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::InvocationRecord;

/// The function that counts those which have no row of their own: a node keeps only so many.
pub const OTHER: &str = "_other";

/// Percentiles of times, in microseconds, each within 3.2 % of the true one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Percentiles {
    /// Half were this fast.
    pub p50_us: u64,
    /// 95 %.
    pub p95_us: u64,
    /// 99 %.
    pub p99_us: u64,
    /// The slowest.
    pub max_us: u64,
}

/// Invocations of one function that ended within some time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// When the time begins (RFC 3339, UTC): of a minute, that minute.
    pub at: String,
    /// All of them.
    pub invocations: u64,
    /// Of these, those that failed, timeouts among them.
    pub errors: u64,
    /// Of these, those that took longer than the function's timeout.
    pub timeouts: u64,
    /// Those an instance was started for afresh.
    pub cold: u64,
    /// Those an instance was restored for from a checkpoint.
    pub restored: u64,
    /// From the whole request being there to its answer; nothing without invocations.
    pub duration: Option<Percentiles>,
    /// From the begin of a start, afresh or restored, until that instance could take a request; nothing without starts.
    pub start: Option<Percentiles>,
    /// CPU time of the instances during these invocations.
    pub cpu_us: u64,
    /// The highest memory high-water mark of an instance, in KiB; 0 where the kernel does not tell.
    pub memory_peak_kb: u64,
}

/// One function over time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FunctionTelemetry {
    /// Its name, or `_other` for all those that have no row of their own.
    pub function: String,
    /// The minutes in which invocations ended, oldest first; others are left out.
    pub minutes: Vec<Summary>,
    /// All of these minutes together.
    pub total: Summary,
}

/// All functions over time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FunctionsTelemetry {
    /// Minutes that were asked for, the running one among them.
    pub range_minutes: u64,
    /// Seconds from the begin of these until now: what a rate is counted over.
    #[serde(default)]
    pub range_s: u64,
    /// Functions with invocations in these, by name.
    pub functions: Vec<FunctionTelemetry>,
    /// What the telemetry itself takes and had to leave out.
    pub own: OwnTelemetry,
}

/// What the telemetry itself takes and had to leave out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OwnTelemetry {
    /// Memory of summaries and traces, bytes.
    pub memory_bytes: u64,
    /// Their files, bytes.
    pub disk_bytes: u64,
    /// Traces that can be asked for.
    pub traces: u64,
    /// Traces that were worth keeping and are gone, for want of room, since the agent started.
    pub traces_dropped: u64,
    /// Invocations that were counted under `_other`, since the agent started.
    pub folded: u64,
    /// Trace contexts of callers that were not valid and so not taken up, since the agent started.
    pub contexts_invalid: u64,
    /// Traces, and points of metrics, that were to be exported and were not, since the agent started.
    pub export_dropped: u64,
}

/// One invocation in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InvocationTrace {
    /// What is known about it.
    pub record: InvocationRecord,
    /// Why it was kept: `error`, `timeout`, `slo`, or `recent` for the last ones of a function.
    pub kept: String,
    /// Its spans: the first is the whole invocation, the others lie in it in the order of time.
    pub spans: Vec<Span>,
}

/// A piece of an invocation's time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Span {
    /// `gateway` for all of it; within: `receive`, `queue`, `sandbox` and `runtime` (or `restore`), `init`, `dispatch`,
    /// `handler`, `respond`, `post`.
    pub name: String,
    /// Its id, 16 hex digits.
    pub span_id: String,
    /// The span it lies in. Of the first, that of the caller, where it gave one.
    pub parent_span_id: Option<String>,
    /// When it began, microseconds after the request arrived.
    pub start_us: u64,
    /// How long it took, microseconds.
    pub duration_us: u64,
    /// What else is known, by OpenTelemetry's names.
    pub attributes: BTreeMap<String, String>,
}
