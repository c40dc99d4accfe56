//! What becomes of invocations that have ended: counted, kept where they are worth it, written once a minute.
//!
//! [`Recorder`] is told of each, off the way of its answer, and never waits for a disk or for whom it is exported to. What
//! is kept, and the limits of all of it, are `stratos-telemetry`'s.

mod export;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stratos_api::InvocationRecord;
use stratos_api::telemetry::{FunctionsTelemetry, InvocationTrace, OwnTelemetry};
use stratos_telemetry::exposition::Format;
use stratos_telemetry::segments::{Appended, Damage, SegmentError, Segments};
use stratos_telemetry::{
    Ended, Limits, NodeFigures, StoredMinute, StoredTrace, Telemetry, Totals, TraceFiles, spans,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub use self::export::{Collector, CollectorHeaders, ExportConfig, ExportError, Exporter};

use crate::clock::{now_ms, rfc3339_ms};
use crate::engine::chain;

/// How often what is new is written.
const WRITE_PERIOD: Duration = Duration::from_secs(60);
/// Least time between two writes: traces that come faster wait in memory, or make room there.
const WRITE_PAUSE: Duration = Duration::from_secs(1);
/// Most minutes that can be asked for.
pub const MOST_MINUTES: u64 = 24 * 60;
/// Disk for summaries: a share of all, and the most that is of use.
const SUMMARY_SHARE: u64 = 4;
const MOST_SUMMARY_BYTES: u64 = 4 << 20;

/// Takes in invocations that have ended, and tells of them.
#[derive(Debug)]
pub struct Recorder {
    state: Mutex<Telemetry>,
    /// Taken before `state` where both are. Without files what is kept is kept in memory alone.
    files: Mutex<Option<Files>>,
    contexts_invalid: AtomicU64,
    wake: Notify,
    exporter: Option<Arc<Exporter>>,
}

#[derive(Debug)]
struct Files {
    summaries: Segments,
    traces: TraceFiles,
}

/// A poisoned lock means that a thread died in the middle of counting: going on with what is there is better than none.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    /// What was kept in this folder, and goes on to be kept there within so many bytes; with 0 in memory alone. A folder that
    /// cannot be used is said, and no reason not to run functions.
    ///
    /// With an exporter, traces and metrics are sent to a collector as well.
    pub fn open(dir: &Path, disk_bytes: u64, exporter: Option<Exporter>) -> Self {
        let mut state = Telemetry::new(Limits::default());
        let files = match disk_bytes {
            0 => None,
            bytes => match Files::open(dir, bytes, &mut state) {
                Ok(files) => Some(files),
                Err(error) => {
                    tracing::warn!(reason = %chain(&error), "telemetry is kept in memory alone");
                    None
                }
            },
        };
        Self {
            state: Mutex::new(state),
            files: Mutex::new(files),
            contexts_invalid: AtomicU64::new(0),
            wake: Notify::new(),
            exporter: exporter.map(Arc::new),
        }
    }

    /// Takes in an invocation that has ended; `sampled`: its caller said so of its trace.
    pub fn ended(&self, ended: Ended, sampled: bool) {
        let ended = Arc::new(ended);
        if let Some(exporter) = &self.exporter {
            exporter.offer(&ended, sampled);
        }
        let write_soon = lock(&self.state).add(&ended, now_ms());
        if write_soon {
            self.wake.notify_one();
        }
    }

    /// A caller's trace context was not valid.
    pub fn context_invalid(&self) {
        self.contexts_invalid.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets functions that were removed and are in files still.
    pub fn keep(&self, is_there: impl Fn(&str) -> bool) {
        lock(&self.state).keep(is_there);
    }

    /// Forgets a function that was removed.
    pub fn forget(&self, function: &str) {
        lock(&self.state).forget(function);
    }

    /// Begins to write and to export in the background.
    pub fn start(self: &Arc<Self>) -> Running {
        let writing = tokio::spawn(Arc::clone(self).write_now_and_then());
        let exporting =
            self.exporter.as_ref().map(|exporter| tokio::spawn(Arc::clone(exporter).run(Arc::clone(self))));
        Running { recorder: Arc::clone(self), writing, exporting }
    }

    /// Writes what is new, once a minute or when there is much of it. Never ends.
    async fn write_now_and_then(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(WRITE_PERIOD) => {}
                () = self.wake.notified() => {}
            }
            let recorder = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || recorder.write(false)).await {
                tracing::error!(%error, "writing telemetry failed");
            }
            tokio::time::sleep(WRITE_PAUSE).await;
        }
    }

    /// Writes what is new; with `all` also of the minute that runs. Blocks.
    pub fn write(&self, all: bool) {
        let mut files = lock(&self.files);
        let Some(files) = files.as_mut() else { return };
        let (ended, minutes) = {
            let mut state = lock(&self.state);
            (state.unwritten(), state.unwritten_minutes(now_ms(), all))
        };
        let traces: Vec<_> = ended.iter().map(|ended| StoredTrace::of(ended)).collect();
        if let Err(error) = files.traces.append(&traces) {
            tracing::warn!(reason = %chain(&error), "traces were lost");
        }
        let frames: Vec<_> = minutes.iter().map(StoredMinute::frame).collect();
        let Appended { places, failed, .. } = files.summaries.append(&frames);
        if let Some(error) = failed {
            tracing::warn!(reason = %chain(&error), "summaries are not written yet");
        }
        let mut state = lock(&self.state);
        state.written(&ended);
        state.not_written(&minutes[places.len()..]);
    }

    /// The last invocations of a function, newest first.
    pub fn recent(&self, function: &str, limit: usize) -> Vec<InvocationRecord> {
        let newest: Vec<_> = lock(&self.state).recent().newest(function).take(limit).cloned().collect();
        newest.iter().map(|ended| ended.record_now()).collect()
    }

    /// The last invocations of a function that failed, newest first. Blocks.
    ///
    /// # Errors
    /// When files with some cannot be read.
    pub fn errors(&self, function: &str, limit: usize) -> Result<Vec<InvocationRecord>, SegmentError> {
        let files = lock(&self.files);
        let unwritten = lock(&self.state).unwritten_errors(function);
        let mut records: Vec<_> = unwritten.iter().take(limit).map(|ended| ended.record_now()).collect();
        if let Some(files) = files.as_ref() {
            records.extend(files.traces.errors(function, limit - records.len())?);
        }
        Ok(records)
    }

    /// One invocation in full, where it was kept. Blocks.
    ///
    /// # Errors
    /// When it is in a file that cannot be read.
    pub fn trace(&self, id: &str) -> Result<Option<InvocationTrace>, SegmentError> {
        let files = lock(&self.files);
        let in_memory = lock(&self.state).find(id);
        let found = match (in_memory, files.as_ref()) {
            (None, Some(files)) => files.traces.find(id)?,
            (found, _) => found.map(|ended| StoredTrace::of(&ended)),
        };
        Ok(found.map(|StoredTrace { record, kept, parent_span_id, error }| InvocationTrace {
            spans: spans(&record, parent_span_id.as_deref(), error.as_deref()),
            kept: kept.as_str().to_owned(),
            record,
        }))
    }

    /// The last `range` minutes of all functions.
    pub fn functions(&self, range: u64) -> FunctionsTelemetry {
        let now = now_ms();
        // Every answer waits for this lock: what takes long is done without it.
        let minutes = lock(&self.state).minutes(range, now);
        let functions = minutes.iter().map(|function| function.told(rfc3339_ms)).collect();
        let range_s = (range - 1) * 60 + now / 1000 % 60;
        FunctionsTelemetry { range_minutes: range, range_s, functions, own: self.own() }
    }

    /// The node and its functions as metrics; what is not known here of the node is given.
    pub fn metrics(&self, node: NodeFigures, format: Format) -> String {
        let node = NodeFigures { own: self.own(), ..node };
        stratos_telemetry::render(&self.totals(), &node, format)
    }

    /// A copy of the counters.
    fn totals(&self) -> Totals {
        lock(&self.state).totals().clone()
    }

    /// What the telemetry itself takes and had to leave out.
    pub fn own(&self) -> OwnTelemetry {
        let files = lock(&self.files);
        let state = lock(&self.state);
        let mut own = OwnTelemetry {
            memory_bytes: state.bytes() as u64,
            traces: state.pending() as u64,
            traces_dropped: state.traces_dropped(),
            folded: state.folded(),
            contexts_invalid: self.contexts_invalid.load(Ordering::Relaxed),
            export_dropped: self.exporter.as_ref().map_or(0, |exporter| exporter.dropped()),
            ..OwnTelemetry::default()
        };
        own.memory_bytes += self.exporter.as_ref().map_or(0, |exporter| exporter.bytes());
        if let Some(files) = files.as_ref() {
            own.memory_bytes += files.traces.memory_bytes() as u64;
            own.disk_bytes = files.traces.disk_bytes() + files.summaries.bytes();
            own.traces += files.traces.len() as u64;
            own.traces_dropped += files.traces.dropped();
        }
        own
    }
}

/// What is done in the background.
#[derive(Debug)]
pub struct Running {
    recorder: Arc<Recorder>,
    writing: JoinHandle<()>,
    exporting: Option<JoinHandle<()>>,
}

impl Running {
    /// Ends it, when no invocation comes any more: the last ones are written and sent.
    pub async fn stop(self) {
        let Self { recorder, writing, exporting } = self;
        writing.abort();
        if let Some(exporter) = &recorder.exporter {
            exporter.stop();
        }
        if let Some(Err(error)) = match exporting {
            Some(exporting) => Some(exporting.await),
            None => None,
        } {
            tracing::error!(%error, "exporting telemetry failed");
        }
        if let Err(error) = tokio::task::spawn_blocking(move || recorder.write(true)).await {
            tracing::error!(%error, "writing telemetry failed");
        }
    }
}

impl Files {
    fn open(dir: &Path, bytes: u64, state: &mut Telemetry) -> Result<Self, SegmentError> {
        let summary_bytes = (bytes / SUMMARY_SHARE).min(MOST_SUMMARY_BYTES);
        let now = now_ms();
        let (summaries, damaged) = Segments::open(dir, "summaries", summary_bytes, |_, frame| {
            state.restore_minute(frame, now);
        })?;
        tell(&damaged);
        let (traces, damaged) = TraceFiles::open(dir, bytes - summary_bytes)?;
        tell(&damaged);
        Ok(Self { summaries, traces })
    }
}

fn tell(damaged: &[Damage]) {
    for Damage { set_aside, whole, lost } in damaged {
        tracing::warn!(
            "a file of telemetry is damaged after {whole} bytes: the {lost} after these are lost, and kept as {}",
            set_aside.display()
        );
    }
}

/// The folder for telemetry below that of the state.
pub fn folder(state: &Path) -> PathBuf {
    state.join("telemetry")
}

#[cfg(test)]
mod tests {
    use stratos_api::{Blame, Phases};

    use super::*;

    fn ended(number: u64, outcome: &str) -> Ended {
        let record = InvocationRecord {
            id: format!("00000000-0000-4000-8000-{number:012}"),
            function: "f".into(),
            version: 1,
            instance: None,
            started_at: "2026-01-02T03:04:05.678Z".into(),
            cold: false,
            restored: false,
            phases: Phases { handler_us: 5, total_us: 5, ..Phases::default() },
            request_bytes: 0,
            response_bytes: 0,
            memory_peak_kb: None,
            cpu_us: None,
            outcome: outcome.into(),
            blame: (outcome != "ok").then_some(Blame::Function),
            trace_id: String::new(),
            span_id: "00f067aa0ba902b7".into(),
            trigger: "http".into(),
            ..InvocationRecord::default()
        };
        Ended::new(record, None, None, Arc::default())
    }

    #[test]
    fn what_was_written_is_there_in_the_next_run() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::open(dir.path(), 1 << 20, None);
        for number in 0..10 {
            let outcome = if number % 3 == 0 { "function_error" } else { "ok" };
            recorder.ended(ended(number, outcome), false);
        }
        let ids = |recorder: &Recorder| -> Vec<String> {
            recorder.errors("f", 9).unwrap().into_iter().map(|record| record.id).collect()
        };
        let before = (ids(&recorder), recorder.functions(5).functions);
        assert_eq!((before.0.len(), before.1[0].total.invocations), (4, 10));
        let failed = ended(9, "").record.id;
        assert_eq!(recorder.trace(&failed).unwrap().unwrap().kept, "error");
        recorder.write(true);
        assert_eq!(ids(&recorder), before.0);
        let again = Recorder::open(dir.path(), 1 << 20, None);
        assert_eq!((ids(&again), again.functions(5).functions), before);
        assert_eq!(again.trace(&failed).unwrap().unwrap().spans.len(), 2);
        assert_eq!((again.own().traces, recorder.own().traces), (4, 4));
        // Those that went well were only among the last ones.
        assert!(again.trace(&ended(8, "").record.id).unwrap().is_none());
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_no_reason_to_fail() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "").unwrap();
        for recorder in [Recorder::open(&path, 1 << 20, None), Recorder::open(dir.path(), 0, None)] {
            recorder.ended(ended(1, "function_error"), false);
            recorder.write(true);
            assert_eq!((recorder.errors("f", 9).unwrap().len(), recorder.own().disk_bytes), (1, 0));
        }
    }
}
