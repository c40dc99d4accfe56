//! Invocations in full, in files: those that failed or were too slow.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;

use serde::{Deserialize, Serialize};
use stratos_api::InvocationRecord;

use crate::ended::{Ended, Kept};
use crate::segments::{Appended, Damage, MAX_FRAME, Place, SegmentError, Segments};

/// Most traces that are known at a time: what is known of one without reading it takes memory.
const MOST_TRACES: usize = 12_000;

/// An invocation as it stands in a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredTrace {
    /// What is known about it.
    pub record: InvocationRecord,
    /// Why it was kept.
    pub kept: Kept,
    /// The caller's span.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_span_id: Option<String>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl StoredTrace {
    /// An invocation as far as it is known now.
    pub fn of(ended: &Ended) -> Self {
        Self {
            record: ended.record_now(),
            kept: Kept::of(&ended.record),
            parent_span_id: ended.parent_span_id.clone(),
            error: ended.error.clone(),
        }
    }
}

/// What is known of a trace without reading it.
#[derive(Debug)]
struct Entry {
    id: u64,
    function: u64,
    place: Place,
    failed: bool,
}

/// The traces on disk.
#[derive(Debug)]
pub struct TraceFiles {
    segments: Segments,
    /// Oldest first.
    index: VecDeque<Entry>,
    dropped: u64,
    hasher: RandomState,
}

impl TraceFiles {
    /// Opens those of a folder.
    ///
    /// # Errors
    /// When the folder or a file in it cannot be used.
    pub fn open(dir: &Path, most_bytes: u64) -> Result<(Self, Vec<Damage>), SegmentError> {
        let hasher = RandomState::new();
        let mut index = VecDeque::new();
        let (segments, damages) = Segments::open(dir, "traces", most_bytes, |place, frame| {
            // What another version wrote that this one does not understand is not found, no more.
            if let Ok(Head { record: HeadRecord { id, function, outcome } }) = serde_json::from_slice(frame) {
                index.push_back(entry(&hasher, &id, &function, &outcome, place));
            }
        })?;
        let mut all = Self { segments, index, dropped: 0, hasher };
        all.keep_to_number()?;
        Ok((all, damages))
    }

    /// Writes traces.
    ///
    /// # Errors
    /// When they cannot all be written: those that are not there then are counted.
    pub fn append(&mut self, traces: &[StoredTrace]) -> Result<(), SegmentError> {
        let (mut frames, mut written) = (Vec::with_capacity(traces.len()), Vec::with_capacity(traces.len()));
        for trace in traces {
            match serde_json::to_vec(trace) {
                Ok(frame) if frame.len() <= MAX_FRAME => {
                    frames.push(frame);
                    written.push(trace);
                }
                _ => self.dropped += 1,
            }
        }
        let Appended { places, gone, failed } = self.segments.append(&frames);
        self.dropped += (frames.len() - places.len()) as u64;
        for (trace, place) in written.iter().zip(places) {
            let record = &trace.record;
            let entry = entry(&self.hasher, &record.id, &record.function, &record.outcome, place);
            self.index.push_back(entry);
        }
        gone.into_iter().for_each(|file| self.forget_file(file));
        self.keep_to_number()?;
        failed.map_or(Ok(()), Err)
    }

    fn forget_file(&mut self, file: u64) {
        let before = self.index.len();
        self.index.retain(|entry| entry.place.file != file);
        self.dropped += (before - self.index.len()) as u64;
    }

    fn keep_to_number(&mut self) -> Result<(), SegmentError> {
        while self.index.len() > MOST_TRACES {
            match self.segments.drop_one()? {
                Some(file) => self.forget_file(file),
                None => break,
            }
        }
        Ok(())
    }

    /// The trace of an invocation.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn find(&self, id: &str) -> Result<Option<StoredTrace>, SegmentError> {
        let wanted = self.hasher.hash_one(id);
        for entry in self.index.iter().rev().filter(|entry| entry.id == wanted) {
            if let Some(trace) = self.read(entry)?.filter(|trace| trace.record.id == id) {
                return Ok(Some(trace));
            }
        }
        Ok(None)
    }

    /// The last invocations of a function that failed, newest first.
    ///
    /// # Errors
    /// When they are there and cannot be read.
    pub fn errors(&self, function: &str, limit: usize) -> Result<Vec<InvocationRecord>, SegmentError> {
        let wanted = self.hasher.hash_one(function);
        let mut records = Vec::new();
        for entry in self.index.iter().rev().filter(|entry| entry.failed && entry.function == wanted) {
            if records.len() >= limit {
                break;
            }
            let trace = self.read(entry)?.filter(|trace| trace.record.function == function);
            records.extend(trace.map(|trace| trace.record));
        }
        Ok(records)
    }

    fn read(&self, entry: &Entry) -> Result<Option<StoredTrace>, SegmentError> {
        let frame = self.segments.read(entry.place)?;
        Ok(frame.and_then(|frame| serde_json::from_slice(&frame).ok()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// How many had to go, or could not be written.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Their files, bytes.
    pub fn disk_bytes(&self) -> u64 {
        self.segments.bytes()
    }

    /// Memory that is taken, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.index.capacity() * size_of::<Entry>()
    }
}

fn entry(hasher: &RandomState, id: &str, function: &str, outcome: &str, place: Place) -> Entry {
    Entry { id: hasher.hash_one(id), function: hasher.hash_one(function), place, failed: outcome != "ok" }
}

/// What of a stored trace is read when the files are opened, which a node that starts waits for.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    record: HeadRecord<'a>,
}

#[derive(Deserialize)]
struct HeadRecord<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    function: Cow<'a, str>,
    #[serde(borrow)]
    outcome: Cow<'a, str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ended::tests::ended;

    fn trace(function: &str, number: u64, outcome: &str) -> StoredTrace {
        StoredTrace::of(&ended(function, number, outcome))
    }

    #[test]
    fn traces_are_found_again_also_by_the_next_run() {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, _) = TraceFiles::open(dir.path(), 1 << 20).unwrap();
        let mut slow = ended("b", 7, "ok");
        slow.record.slo_breached = true;
        let slow = StoredTrace::of(&slow);
        files
            .append(&[trace("a", 1, "function_error"), trace("a", 2, "function_timeout"), slow.clone()])
            .unwrap();
        let (again, damages) = TraceFiles::open(dir.path(), 1 << 20).unwrap();
        assert!(damages.is_empty());
        for files in [files, again] {
            assert_eq!((files.len(), files.dropped()), (3, 0));
            let found = files.find(&slow.record.id).unwrap().unwrap();
            assert_eq!((found.record, found.kept), (slow.record.clone(), Kept::Slo));
            assert!(files.find("nothing").unwrap().is_none());
            let outcomes = |limit| -> Vec<String> {
                files.errors("a", limit).unwrap().into_iter().map(|record| record.outcome).collect()
            };
            assert_eq!(outcomes(9), ["function_timeout", "function_error"]);
            assert_eq!(outcomes(1), ["function_timeout"]);
            assert!(files.errors("b", 9).unwrap().is_empty());
        }
    }

    #[test]
    fn what_there_is_no_room_for_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let limit = 256 << 10;
        let (mut files, _) = TraceFiles::open(dir.path(), limit).unwrap();
        for round in 0..100 {
            let some: Vec<_> = (0..10).map(|i| trace("a", round * 10 + i, "function_error")).collect();
            files.append(&some).unwrap();
            assert!(files.disk_bytes() <= limit);
        }
        assert!(files.dropped() > 0 && files.len() > 100);
        assert_eq!(files.len() as u64 + files.dropped(), 1000);
        assert!(files.find(&trace("a", 999, "x").record.id).unwrap().is_some());
        assert!(files.find(&trace("a", 0, "x").record.id).unwrap().is_none());
    }

    #[test]
    fn what_was_written_before_a_failure_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, _) = TraceFiles::open(dir.path(), 64 << 10).unwrap();
        // A folder in the place of the second file.
        let second = dir.path().join("traces-00000002");
        std::fs::create_dir(&second).unwrap();
        let some: Vec<_> = (0..30).map(|i| trace("a", i, "function_error")).collect();
        files.append(&some).unwrap_err();
        assert!(files.len() > 5 && files.len() as u64 + files.dropped() == 30, "{}", files.len());
        assert!(files.find(&some[5].record.id).unwrap().is_some());
        std::fs::remove_dir(&second).unwrap();
        files.append(&some[29..]).unwrap();
        assert!(files.find(&some[29].record.id).unwrap().is_some());
    }
}
