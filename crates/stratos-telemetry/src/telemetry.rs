//! All that is kept about invocations, and its limits.

use std::collections::VecDeque;
use std::sync::Arc;

use stratos_api::Blame;
use stratos_api::telemetry::FunctionTelemetry;

use crate::ended::{Ended, Kept};
use crate::limiter::SharedLimiter;
use crate::recent::Recent;
use crate::summary::{FunctionMinutes, StoredMinute, Summaries};
use crate::totals::Totals;

/// How much is kept.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Functions with rows of their own.
    pub functions: usize,
    /// Memory of the summaries, bytes.
    pub summary_bytes: usize,
    /// Memory of the last invocations, bytes.
    pub recent_bytes: usize,
    /// Memory of traces that are not in a file yet, bytes.
    pub pending_bytes: usize,
    /// Traces a second that are kept in the long run; of one function a quarter of it at most, and of what clients are to
    /// blame for a 200th.
    pub traces_per_s: u64,
    /// Traces that are kept at once after a quiet time; of one function a quarter, of clients' a 20th.
    pub traces_burst: u64,
}

impl Default for Limits {
    /// Together with the counters and what is known of the traces on disk they stay below 8 MiB.
    fn default() -> Self {
        Self {
            functions: 200,
            summary_bytes: 3 << 20,
            recent_bytes: 2 << 20,
            pending_bytes: 1 << 20,
            traces_per_s: 20,
            traces_burst: 1000,
        }
    }
}

/// What is kept in memory.
#[derive(Debug)]
pub struct Telemetry {
    limits: Limits,
    summaries: Summaries,
    totals: Totals,
    recent: Recent,
    pending: VecDeque<Arc<Ended>>,
    pending_bytes: usize,
    limiter: SharedLimiter,
    traces_dropped: u64,
}

/// Minutes since 1970.
fn minute(now_ms: u64) -> u64 {
    now_ms / 60_000
}

impl Telemetry {
    /// Nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            summaries: Summaries::new(limits.functions, limits.summary_bytes),
            totals: Totals::new(limits.functions),
            recent: Recent::new(limits.recent_bytes),
            pending: VecDeque::new(),
            pending_bytes: 0,
            limiter: SharedLimiter::new(limits.traces_per_s, limits.traces_burst, limits.functions),
            traces_dropped: 0,
            limits,
        }
    }

    /// Takes an invocation in that has ended now. Says whether traces should be written soon.
    pub fn add(&mut self, ended: &Arc<Ended>, now_ms: u64) -> bool {
        self.summaries.add(&ended.record, minute(now_ms));
        self.totals.add(&ended.record, now_ms);
        self.recent.add(Arc::clone(ended));
        let record = &ended.record;
        if Kept::of(record) != Kept::Recent {
            // What strangers send wrong may not push out what functions and the node do wrong.
            let client = record.blame == Some(Blame::Client);
            match self.limiter.pass(&record.function, client, now_ms) {
                true => self.keep_trace(Arc::clone(ended)),
                false => self.traces_dropped += 1,
            }
        }
        self.pending_bytes > self.limits.pending_bytes / 2
    }

    fn keep_trace(&mut self, ended: Arc<Ended>) {
        self.pending_bytes += ended.bytes();
        self.pending.push_back(ended);
        while self.pending_bytes > self.limits.pending_bytes {
            let Some(oldest) = self.pending.pop_front() else { break };
            self.pending_bytes -= oldest.bytes();
            self.traces_dropped += 1;
        }
    }

    /// Traces that are to be written. They stay findable here until [`Telemetry::written`].
    pub fn unwritten(&self) -> Vec<Arc<Ended>> {
        self.pending.iter().cloned().collect()
    }

    /// These were written, or there is no writing them.
    pub fn written(&mut self, traces: &[Arc<Ended>]) {
        for trace in traces {
            // Some may have made room meanwhile: those are the oldest.
            if self.pending.front().is_some_and(|oldest| Arc::ptr_eq(oldest, trace)) {
                self.pending_bytes -= trace.bytes();
                self.pending.pop_front();
            }
        }
    }

    /// What is to be written of summaries: the minutes before this one, or with `all` also the running one. It is taken for
    /// written until [`Telemetry::not_written`] says otherwise.
    pub fn unwritten_minutes(&mut self, now_ms: u64, all: bool) -> Vec<StoredMinute> {
        self.summaries.unstored(if all { u64::MAX } else { minute(now_ms) })
    }

    /// These could not be written, and are tried again the next time.
    pub fn not_written(&mut self, minutes: &[StoredMinute]) {
        self.summaries.not_stored(minutes);
    }

    /// Takes a minute back in from a file; what cannot be one is left out.
    pub fn restore_minute(&mut self, frame: &[u8], now_ms: u64) {
        if let Ok(stored) = serde_json::from_slice::<StoredMinute>(frame) {
            self.summaries.restore(stored, minute(now_ms));
        }
    }

    /// The last `range` minutes of each function. `at` writes a time, given in ms since 1970.
    pub fn functions(&self, range: u64, now_ms: u64, at: impl Fn(u64) -> String) -> Vec<FunctionTelemetry> {
        self.minutes(range, now_ms).iter().map(|function| function.told(&at)).collect()
    }

    /// The same, not added up yet: cheap, for whoever holds a lock.
    pub fn minutes(&self, range: u64, now_ms: u64) -> Vec<FunctionMinutes> {
        self.summaries.minutes(range, minute(now_ms))
    }

    /// The last invocations of each function.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// Counters for monitoring systems.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// An invocation that is in memory still.
    pub fn find(&self, id: &str) -> Option<Arc<Ended>> {
        let pending = || self.pending.iter().rev().find(|ended| ended.record.id == id);
        self.recent.find(id).or_else(pending).cloned()
    }

    /// Failed invocations of a function that are in no file yet, newest first.
    pub fn unwritten_errors(&self, function: &str) -> Vec<Arc<Ended>> {
        let failed = |ended: &&Arc<Ended>| ended.record.function == function && ended.record.outcome != "ok";
        self.pending.iter().rev().filter(failed).cloned().collect()
    }

    /// Forgets functions that are not there any more, after minutes were put back.
    pub fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.summaries.keep(is_there);
    }

    /// Forgets a function that was removed. Its traces on disk stay until there is no room for them.
    pub fn forget(&mut self, function: &str) {
        self.summaries.forget(function);
        self.totals.forget(function);
        self.recent.forget(function);
    }

    /// Traces that are not in a file yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Traces that were worth keeping and were not kept, besides those that files had no room for.
    pub fn traces_dropped(&self) -> u64 {
        self.traces_dropped
    }

    /// Invocations that are counted under `_other`.
    pub fn folded(&self) -> u64 {
        self.summaries.folded()
    }

    /// Memory that it takes, bytes.
    pub fn bytes(&self) -> usize {
        self.summaries.bytes()
            + self.totals.bytes()
            + self.recent.bytes()
            + self.pending_bytes
            + self.limiter.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ended::tests::ended;

    /// Errors of one function are there after a storm of wrong requests, and of another function's errors.
    #[test]
    fn a_stranger_does_not_push_out_the_errors_of_others() {
        let mut telemetry = Telemetry::new(Limits::default());
        let wrong = |function: &str, number: u64| {
            let mut wrong = ended(function, number, "payload_too_large");
            wrong.record.blame = Some(Blame::Client);
            wrong
        };
        for number in 0..5000 {
            telemetry.add(&Arc::new(wrong(&format!("f{}", number % 50), number)), 1_000_000);
        }
        assert_eq!((telemetry.pending(), telemetry.traces_dropped()), (50, 4950));
        for number in 0..5000 {
            telemetry.add(&Arc::new(ended("loop", number, "function_crashed")), 1_000_000);
        }
        assert_eq!((telemetry.pending(), telemetry.traces_dropped()), (300, 9700));
        telemetry.add(&Arc::new(ended("quiet", 1, "function_error")), 1_000_000);
        assert_eq!(telemetry.unwritten_errors("quiet").len(), 1);
    }
}
