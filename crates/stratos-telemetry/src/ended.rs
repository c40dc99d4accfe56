//! An invocation that has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stratos_api::{ErrorCode, InvocationRecord};

/// Why an invocation is kept in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kept {
    /// It failed.
    Error,
    /// It failed for want of time.
    Timeout,
    /// It took longer than the function's objective allows.
    Slo,
    /// It was one of the last.
    Recent,
}

impl Kept {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Slo => "slo",
            Self::Recent => "recent",
        }
    }

    /// Why this one is kept.
    pub fn of(record: &InvocationRecord) -> Self {
        match record.outcome.as_str() {
            "ok" if record.slo_breached => Self::Slo,
            "ok" => Self::Recent,
            _ if is_timeout(record) => Self::Timeout,
            _ => Self::Error,
        }
    }
}

/// Whether it ran out of time, its own or in line.
pub(crate) fn is_timeout(record: &InvocationRecord) -> bool {
    [ErrorCode::FunctionTimeout, ErrorCode::QueueTimeout].iter().any(|code| code.as_str() == record.outcome)
}

/// What becomes known only after the answer.
#[derive(Debug)]
pub struct Late {
    post_us: AtomicU64,
    respond_us: AtomicU64,
}

const UNKNOWN: u64 = u64::MAX;

impl Default for Late {
    fn default() -> Self {
        Self { post_us: AtomicU64::new(UNKNOWN), respond_us: AtomicU64::new(UNKNOWN) }
    }
}

impl Late {
    /// The runtime asked for its next event so long after the answer.
    pub fn posted(&self, us: u64) {
        self.post_us.store(us, Ordering::Relaxed);
    }

    /// The answer was written so long after it was there.
    pub fn responded(&self, us: u64) {
        self.respond_us.store(us, Ordering::Relaxed);
    }

    fn get(cell: &AtomicU64) -> Option<u64> {
        Some(cell.load(Ordering::Relaxed)).filter(|us| *us != UNKNOWN)
    }
}

/// An invocation that has ended, as far as it is known by then.
#[derive(Debug)]
pub struct Ended {
    /// What is known about it.
    pub record: InvocationRecord,
    /// The caller's span, 16 hex digits.
    pub parent_span_id: Option<String>,
    /// What went wrong, in words.
    pub error: Option<String>,
    /// What becomes known later.
    pub late: Arc<Late>,
}

/// Longest text of an error that is kept, bytes.
const MAX_ERROR: usize = 512;

impl Ended {
    /// An ended invocation; of a long error the begin is kept.
    pub fn new(
        record: InvocationRecord,
        parent_span_id: Option<String>,
        error: Option<&str>,
        late: Arc<Late>,
    ) -> Self {
        let error = error.map(|text| text[..text.floor_char_boundary(MAX_ERROR)].to_owned());
        Self { record, parent_span_id, error, late }
    }

    /// What is known about it by now.
    pub fn record_now(&self) -> InvocationRecord {
        let mut record = self.record.clone();
        if let Some(us) = Late::get(&self.late.respond_us) {
            record.phases.respond_us = us;
            record.phases.total_us += us;
        }
        record.post_hook_us = Late::get(&self.late.post_us);
        record
    }

    /// Memory that it takes, bytes, the allocator's own share estimated.
    pub fn bytes(&self) -> usize {
        let r = &self.record;
        let texts = [&r.id, &r.function, &r.started_at, &r.outcome, &r.trace_id, &r.span_id, &r.trigger];
        let more = [&r.instance, &self.parent_span_id, &self.error];
        let lengths = texts.into_iter().chain(more.into_iter().flatten()).map(String::capacity);
        let heap: usize = lengths.map(|length| length.next_multiple_of(16) + 16).sum();
        // Counters of the shared pointers: to itself, and to what comes late.
        size_of::<Self>() + heap + size_of::<Late>() + 64
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use stratos_api::{Blame, Phases};

    use super::*;

    /// An invocation of a function that took so long.
    pub(crate) fn ended(function: &str, handler_us: u64, outcome: &str) -> Ended {
        let record = InvocationRecord {
            id: format!("00000000-0000-4000-8000-{handler_us:012}"),
            function: function.into(),
            version: 1,
            instance: Some("0123456789abcdef".into()),
            started_at: "2026-01-02T03:04:05.678Z".into(),
            cold: false,
            restored: false,
            phases: Phases { handler_us, total_us: handler_us, ..Phases::default() },
            request_bytes: 2,
            response_bytes: 3,
            memory_peak_kb: Some(40_000),
            cpu_us: Some(handler_us / 2),
            outcome: outcome.into(),
            blame: (outcome != "ok").then_some(Blame::Function),
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
            span_id: "00f067aa0ba902b7".into(),
            trigger: "http".into(),
            ..InvocationRecord::default()
        };
        let error = (outcome != "ok").then_some("it failed");
        Ended::new(record, None, error, Arc::default())
    }

    #[test]
    fn what_comes_late_is_told_once_it_is_known() {
        let ended = ended("f", 100, "ok");
        assert_eq!((ended.record_now().post_hook_us, ended.record_now().phases.total_us), (None, 100));
        ended.late.posted(7);
        ended.late.responded(20);
        let now = ended.record_now();
        assert_eq!((now.post_hook_us, now.phases.respond_us, now.phases.total_us), (Some(7), 20, 120));
    }

    #[test]
    fn what_failed_or_was_slow_is_kept() {
        let kept = |outcome: &str, slo_breached| {
            let mut ended = ended("f", 1, outcome);
            ended.record.slo_breached = slo_breached;
            Kept::of(&ended.record)
        };
        assert_eq!(kept("ok", false), Kept::Recent);
        assert_eq!(kept("ok", true), Kept::Slo);
        assert_eq!(kept("function_crashed", true), Kept::Error);
        assert_eq!(kept("function_timeout", false), Kept::Timeout);
        assert_eq!(kept("queue_timeout", false), Kept::Timeout);
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let record = ended("f", 1, "ok").record;
        let long = Ended::new(record, None, Some(&"ü".repeat(1000)), Arc::default());
        assert_eq!(long.error.unwrap().len(), MAX_ERROR);
    }
}
