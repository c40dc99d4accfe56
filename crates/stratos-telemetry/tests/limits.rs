//! How much telemetry takes, by the allocator's own account. One test, for the allocator counts for the whole process.

use std::alloc::System;
use std::path::Path;
use std::sync::Arc;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use stratos_api::{Blame, InvocationRecord, Phases};
use stratos_telemetry::segments::Segments;
use stratos_telemetry::{Ended, Limits, StoredMinute, StoredTrace, Telemetry, TraceFiles};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What all telemetry may take.
const MEMORY: usize = 8 << 20;
const TRACE_DISK: u64 = 12 << 20;
const SUMMARY_DISK: u64 = 4 << 20;
const BEGIN_MS: u64 = 1_800_000_000_000;

struct Node<'a> {
    telemetry: Telemetry,
    traces: TraceFiles,
    summaries: Segments,
    written_ms: u64,
    region: Region<'a, System>,
    most: usize,
}

fn open(dir: &Path) -> Node<'static> {
    let region = Region::new(ALLOCATOR);
    let mut telemetry = Telemetry::new(Limits::default());
    let (summaries, _) = Segments::open(dir, "summaries", SUMMARY_DISK, |_, frame| {
        telemetry.restore_minute(frame, BEGIN_MS + 1_000_000);
    })
    .unwrap();
    let (traces, _) = TraceFiles::open(dir, TRACE_DISK).unwrap();
    Node { telemetry, traces, summaries, written_ms: 0, region, most: 0 }
}

impl Node<'_> {
    fn write(&mut self, now_ms: u64) {
        let ended = self.telemetry.unwritten();
        let stored: Vec<_> = ended.iter().map(|ended| StoredTrace::of(ended)).collect();
        self.traces.append(&stored).unwrap();
        self.telemetry.written(&ended);
        let minutes = self.telemetry.unwritten_minutes(now_ms, false);
        let frames: Vec<_> = minutes.iter().map(StoredMinute::frame).collect();
        assert!(self.summaries.append(&frames).failed.is_none());
        self.written_ms = now_ms;
    }

    fn add(&mut self, ended: Ended, now_ms: u64) {
        let soon = self.telemetry.add(&Arc::new(ended), now_ms);
        if soon && now_ms > self.written_ms + 1000 || now_ms > self.written_ms + 60_000 {
            self.write(now_ms);
        }
    }

    /// Memory as the allocator counts it; the structures' own account may not be far from that.
    fn check(&mut self) {
        let change = self.region.change();
        let taken = change.bytes_allocated.saturating_sub(change.bytes_deallocated);
        self.most = self.most.max(taken);
        assert!(taken < MEMORY, "{taken}");
        let said = self.telemetry.bytes() + self.traces.memory_bytes();
        assert!(taken as f64 <= said as f64 * 1.1 + 65_536.0, "{taken} is taken, {said} is said to be");
        assert!(self.traces.disk_bytes() <= TRACE_DISK && self.summaries.bytes() <= SUMMARY_DISK);
    }
}

/// One of many, of those that nothing is special about or that failed.
fn ended(number: u64, function: String, failed: bool) -> Ended {
    // Spread as latencies are: most about a millisecond, some far above.
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    let handler_us = 600 + spread + if spread > 1000 { spread * 40 } else { 0 };
    let record = InvocationRecord {
        id: format!("00000000-0000-4000-8000-{number:012}"),
        function,
        version: 1,
        instance: Some("0123456789ab".into()),
        started_at: "2026-01-02T03:04:05.678Z".into(),
        cold: number.is_multiple_of(97),
        restored: number.is_multiple_of(2),
        phases: Phases { sandbox_us: spread, handler_us, total_us: handler_us + spread, ..Phases::default() },
        request_bytes: 20,
        response_bytes: 300,
        memory_peak_kb: Some(40_000),
        cpu_us: Some(handler_us / 2),
        outcome: if failed { "function_error" } else { "ok" }.into(),
        blame: failed.then_some(Blame::Function),
        trace_id: format!("{number:032x}"),
        span_id: format!("{number:016x}"),
        trigger: "http".into(),
        ..InvocationRecord::default()
    };
    let error = failed.then_some("the function returned an error: TypeError: boom");
    Ended::new(record, Some("00f067aa0ba902b7".into()), error, Arc::default())
}

#[test]
fn a_million_invocations_stay_within_the_limits() {
    const ALL: u64 = 1_000_000;
    let dir = tempfile::tempdir().unwrap();
    let mut node = open(dir.path());
    // 5,000 a second, of 41 functions, one of a thousand fails.
    for number in 0..ALL {
        let failed = number % 1000 == 7;
        node.add(ended(number, format!("f{}", number % 41), failed), BEGIN_MS + number / 5);
        if number % 10_000 == 0 {
            node.check();
        }
    }
    let now = BEGIN_MS + ALL / 5;
    let all = node.telemetry.functions(60, now, |ms| ms.to_string());
    assert_eq!(all.iter().map(|f| f.total.invocations).sum::<u64>(), ALL);
    assert_eq!(all.iter().map(|f| f.total.errors).sum::<u64>(), ALL / 1000);
    // Every error is there, in memory or on disk.
    assert_eq!((node.telemetry.traces_dropped(), node.traces.dropped()), (0, 0));
    node.write(now);
    for number in (0..ALL).filter(|number| number % 1000 == 7) {
        let id = format!("00000000-0000-4000-8000-{number:012}");
        assert_eq!(node.traces.find(&id).unwrap().unwrap().record.outcome, "function_error");
    }
    let errors = (0..41).map(|f| node.traces.errors(&format!("f{f}"), 1000).unwrap().len());
    assert_eq!(errors.sum::<usize>() as u64, ALL / 1000);

    // 10,000 names, each of them called some times; and all of it fails.
    let storm = 200_000;
    for number in ALL..ALL + storm {
        node.add(ended(number, format!("storm-{}", number % 10_000), true), BEGIN_MS + number / 5);
        if number % 10_000 == 0 {
            node.check();
        }
    }
    let kept = (node.traces.len() + node.telemetry.pending()) as u64;
    let dropped = node.traces.dropped() + node.telemetry.traces_dropped();
    assert_eq!(kept + dropped, ALL / 1000 + storm);
    assert!(dropped > storm / 2 && kept > 1000, "{kept} {dropped}");
    assert!(node.telemetry.folded() > 0);

    // An hour of 300 functions, every minute of it full, and then the next run on what was written.
    for minute in 0..60 {
        for number in 0..3000_u64 {
            let at = BEGIN_MS + 300_000 + minute * 60_000 + number;
            node.add(ended(number * 7919, format!("hour-{}", number % 300), number % 1000 == 0), at);
        }
        node.check();
    }
    eprintln!(
        "at most {} KiB of memory, {} KiB of disk",
        node.most >> 10,
        (node.traces.disk_bytes() + node.summaries.bytes()) >> 10
    );
    drop(node);
    let mut again = open(dir.path());
    again.check();
    assert!(!again.traces.is_empty());
    assert!(again.telemetry.functions(1440, BEGIN_MS + 1_000_000, |ms| ms.to_string()).len() > 100);
}
