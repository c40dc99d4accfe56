//! Counters since the agent started, as monitoring systems read them.

use std::collections::BTreeMap;
use std::sync::Arc;

use stratos_api::telemetry::OTHER;
use stratos_api::{Blame, InvocationRecord};

use crate::ended::is_timeout;
use crate::summary::duration_us;

/// Upper bounds of times in seconds. OpenTelemetry's begin at 5 ms, where most invocations would be in one bucket.
pub const BOUNDS_S: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
/// Upper bounds of amounts of memory in bytes.
pub(crate) const MEMORY_BOUNDS: [f64; 8] = [
    (16 << 20) as f64,
    (32 << 20) as f64,
    (64 << 20) as f64,
    (128 << 20) as f64,
    (256 << 20) as f64,
    (512 << 20) as f64,
    (1 << 30) as f64,
    (4_u64 << 30) as f64,
];
/// Upper bounds of payloads in bytes.
pub(crate) const PAYLOAD_BOUNDS: [f64; 6] =
    [128.0, 1024.0, (16 << 10) as f64, (128 << 10) as f64, (1 << 20) as f64, (6 << 20) as f64];
/// How long a function must not have been called before another may have its row.
const IDLE_MS: u64 = 24 * 3600 * 1000;
/// How often such rows are looked for.
const LOOK_MS: u64 = 60_000;

/// An invocation that stands for a bucket.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Exemplar {
    pub(crate) trace_id: u128,
    pub(crate) value: f64,
    pub(crate) at_ms: u64,
}

/// Values by bucket: one for each bound, and one for what is above.
#[derive(Debug, Clone)]
pub(crate) struct Buckets {
    pub(crate) bounds: &'static [f64],
    pub(crate) counts: Vec<u64>,
    pub(crate) sum: f64,
    pub(crate) exemplars: Vec<Option<Exemplar>>,
}

impl Buckets {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0, exemplars: Vec::new() }
    }

    fn add(&mut self, value: f64) -> usize {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at] += 1;
        self.sum += value;
        at
    }

    fn add_with(&mut self, value: f64, trace_id: u128, at_ms: u64) {
        let at = self.add(value);
        self.exemplars.resize(self.counts.len(), None);
        self.exemplars[at] = Some(Exemplar { trace_id, value, at_ms });
    }

    fn bytes(&self) -> usize {
        self.counts.capacity() * 8 + self.exemplars.capacity() * size_of::<Option<Exemplar>>() + 32
    }
}

/// What is counted of one function.
#[derive(Debug, Clone)]
pub struct Counted {
    pub(crate) succeeded: u64,
    /// By who is to blame: client, function, platform.
    pub(crate) errors: [u64; 3],
    pub(crate) timeouts: u64,
    pub(crate) slo_breaches: u64,
    pub(crate) invoke: Buckets,
    /// Starts afresh, and restored ones.
    pub(crate) init: [Buckets; 2],
    pub(crate) cpu: Buckets,
    pub(crate) memory: Buckets,
    pub(crate) received: Buckets,
    pub(crate) sent: Buckets,
    last_ms: u64,
}

const SECOND_US: f64 = 1e6;

impl Counted {
    fn new() -> Self {
        Self {
            succeeded: 0,
            errors: [0; 3],
            timeouts: 0,
            slo_breaches: 0,
            invoke: Buckets::new(&BOUNDS_S),
            init: [Buckets::new(&BOUNDS_S), Buckets::new(&BOUNDS_S)],
            cpu: Buckets::new(&BOUNDS_S),
            memory: Buckets::new(&MEMORY_BOUNDS),
            received: Buckets::new(&PAYLOAD_BOUNDS),
            sent: Buckets::new(&PAYLOAD_BOUNDS),
            last_ms: 0,
        }
    }

    fn add(&mut self, record: &InvocationRecord, now_ms: u64) {
        self.last_ms = now_ms;
        match record.blame {
            None => self.succeeded += 1,
            Some(Blame::Client) => self.errors[0] += 1,
            Some(Blame::Function) => self.errors[1] += 1,
            Some(Blame::Platform) => self.errors[2] += 1,
        }
        self.timeouts += u64::from(is_timeout(record));
        self.slo_breaches += u64::from(record.slo_breached);
        let trace_id = u128::from_str_radix(&record.trace_id, 16).unwrap_or_default();
        self.invoke.add_with(duration_us(record) as f64 / SECOND_US, trace_id, now_ms);
        if record.cold {
            let p = &record.phases;
            let start_us = p.sandbox_us + p.runtime_us + p.init_us;
            self.init[usize::from(record.restored)].add(start_us as f64 / SECOND_US);
        }
        if let Some(us) = record.cpu_us {
            self.cpu.add(us as f64 / SECOND_US);
        }
        if let Some(kb) = record.memory_peak_kb {
            self.memory.add(kb as f64 * 1024.0);
        }
        self.received.add(record.request_bytes as f64);
        self.sent.add(record.response_bytes as f64);
    }

    fn bytes(&self) -> usize {
        let [cold, restored] = &self.init;
        let all = [&self.invoke, cold, restored, &self.cpu, &self.memory, &self.received, &self.sent];
        // What a map takes for a row besides, estimated.
        size_of::<Self>() + 96 + all.into_iter().map(Buckets::bytes).sum::<usize>()
    }
}

/// The counters of all functions. A copy shares them, and is cheap.
#[derive(Debug, Clone)]
pub struct Totals {
    rows: BTreeMap<String, Arc<Counted>>,
    most_rows: usize,
    bytes: usize,
    /// When idle ones were looked for last, since nobody found a row.
    looked_ms: u64,
}

impl Totals {
    /// Room for so many functions; others are counted together.
    pub fn new(most_rows: usize) -> Self {
        Self { rows: BTreeMap::new(), most_rows, bytes: 0, looked_ms: 0 }
    }

    /// Counts an invocation.
    pub fn add(&mut self, record: &InvocationRecord, now_ms: u64) {
        let mut name = record.function.as_str();
        if !self.rows.contains_key(name) && self.named() >= self.most_rows {
            if now_ms.abs_diff(self.looked_ms) >= LOOK_MS {
                self.looked_ms = now_ms;
                self.expire(now_ms);
            }
            if self.named() >= self.most_rows {
                name = OTHER;
            }
        }
        match self.rows.get_mut(name) {
            Some(row) => {
                Arc::make_mut(row).add(record, now_ms);
            }
            None => {
                let mut row = Counted::new();
                row.add(record, now_ms);
                self.bytes += row.bytes();
                self.rows.insert(name.to_owned(), Arc::new(row));
            }
        }
    }

    fn named(&self) -> usize {
        self.rows.len() - usize::from(self.rows.contains_key(OTHER))
    }

    fn expire(&mut self, now_ms: u64) {
        self.rows.retain(|name, row| name == OTHER || row.last_ms.saturating_add(IDLE_MS) > now_ms);
        self.bytes = self.rows.values().map(|row| row.bytes()).sum();
    }

    /// Forgets a function that was removed.
    pub fn forget(&mut self, function: &str) {
        if let Some(row) = self.rows.remove(function) {
            self.bytes -= row.bytes();
        }
    }

    /// The functions, by name.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &Counted)> {
        self.rows.iter().map(|(name, row)| (name.as_str(), &**row))
    }

    /// Memory that it takes, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ended::tests::ended;

    #[test]
    fn values_lie_in_the_bucket_of_their_bound() {
        let mut buckets = Buckets::new(&BOUNDS_S);
        for (value, at) in [(0.0, 0), (0.0005, 0), (0.0006, 1), (60.0, 15), (61.0, 16)] {
            assert_eq!(buckets.add(value), at, "{value}");
        }
        assert!(BOUNDS_S.is_sorted() && MEMORY_BOUNDS.is_sorted() && PAYLOAD_BOUNDS.is_sorted());
    }

    #[test]
    fn functions_beyond_the_limit_share_a_row() {
        let mut totals = Totals::new(4);
        for i in 0..10_000 {
            totals.add(&ended(&format!("f{i}"), 700, "ok").record, 5);
        }
        let names: Vec<_> = totals.rows().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(names, [OTHER, "f0", "f1", "f2", "f3"]);
        assert_eq!(totals.rows().next().unwrap().1.succeeded, 9996);
        // A copy stays as it is.
        let copy = totals.clone();
        totals.add(&ended("f0", 700, "ok").record, 5);
        let succeeded = |totals: &Totals| totals.rows().nth(1).unwrap().1.succeeded;
        assert_eq!((succeeded(&copy), succeeded(&totals)), (1, 2));
        totals.forget("f0");
        totals.add(&ended("new", 700, "function_error").record, 5);
        assert_eq!(totals.rows().find(|(name, _)| *name == "new").unwrap().1.errors, [0, 1, 0]);
        // After a day without calls the rows are others'.
        totals.add(&ended("late", 700, "ok").record, 5 + IDLE_MS);
        let names: Vec<_> = totals.rows().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(names, [OTHER, "late"]);
        assert_eq!(totals.bytes(), totals.rows().map(|(_, row)| row.bytes()).sum::<usize>());
    }
}
