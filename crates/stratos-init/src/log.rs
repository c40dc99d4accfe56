//! What the node prints: one line a [`NodeLogLine`], kept in files of the state that have a size limit.
//!
//! PID 1 hands lines over and goes on; a thread writes them, so that a disk that hangs holds up nobody. What it cannot
//! take in time is dropped and counted. Until the state is there, some lines wait in memory.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use stratos_api::node::NodeLogLine;

use crate::clock;
use crate::console::Console;
use crate::{files, record};

/// Longest line; the rest of a longer one becomes a line of its own.
pub const LINE: usize = 8 << 10;
/// Bytes of a log before it becomes the older half.
const FILE_BYTES: u64 = 1 << 20;
/// Lines that wait in memory for the state, and jobs that wait for the thread.
const WAITING: usize = 512;
/// Bytes of the writing thread's stack.
const STACK: usize = 128 << 10;

/// What the writing thread does.
enum Job {
    Line(NodeLogLine),
    /// Keep the record of a boot.
    Record(u64, Vec<u8>),
    /// Bring everything to the disk and say so.
    Flush(SyncSender<()>),
}

/// Where lines go: the console, and the files.
#[derive(Default)]
pub struct Journal {
    console: Console,
    waiting: VecDeque<NodeLogLine>,
    writer: Option<SyncSender<Job>>,
    dropped: u64,
}

impl Journal {
    /// Opens the console; to be done once /dev is there.
    pub fn open_console(&mut self) {
        self.console = Console::open();
    }

    /// PID 1 says something on the console and in its log.
    pub fn say(&mut self, message: &str) {
        self.console.print(message);
        self.note(message);
    }

    /// PID 1 says something in its log.
    pub fn note(&mut self, message: &str) {
        self.line("init", message);
    }

    /// `source` said something.
    pub fn line(&mut self, source: &str, message: &str) {
        let line = NodeLogLine {
            at: clock::rfc3339(clock::wall_ms()),
            source: source.to_owned(),
            message: message.to_owned(),
        };
        if self.writer.is_none() {
            if self.waiting.len() == WAITING {
                self.waiting.pop_front();
                self.dropped += 1;
            }
            self.waiting.push_back(line);
            return;
        }
        if self.dropped > 0 {
            let lost = NodeLogLine {
                message: format!("{} lines were lost: the disk was too slow", self.dropped),
                source: "init".to_owned(),
                ..line.clone()
            };
            if self.job(Job::Line(lost)) {
                self.dropped = 0;
            }
        }
        if !self.job(Job::Line(line)) {
            self.dropped += 1;
        }
    }

    /// Keeps the record of boot `number`, some time soon. False when the thread cannot take it.
    pub fn record(&mut self, number: u64, text: Vec<u8>) -> bool {
        self.job(Job::Record(number, text))
    }

    fn job(&mut self, job: Job) -> bool {
        match self.writer.as_ref().map(|writer| writer.try_send(job)) {
            Some(Ok(())) => true,
            Some(Err(TrySendError::Disconnected(_))) => {
                self.writer = None;
                false
            }
            Some(Err(TrySendError::Full(_))) | None => false,
        }
    }

    /// Starts the thread that writes into `folder`, with the lines that wait.
    ///
    /// # Errors
    /// When the folder cannot be made or there can be no thread; lines go on waiting in memory then.
    pub fn keep_in(&mut self, folder: &Path) -> Result<(), crate::error::InitError> {
        files::folder(folder)?;
        let (writer, jobs) = sync_channel(WAITING);
        let folder = folder.to_owned();
        let thread = std::thread::Builder::new().name("log".to_owned()).stack_size(STACK);
        thread
            .spawn(move || write_all(&folder, &jobs))
            .map_err(|source| crate::error::InitError::system("start the log's thread", source))?;
        self.writer = Some(writer);
        for line in std::mem::take(&mut self.waiting) {
            if !self.job(Job::Line(line)) {
                self.dropped += 1;
            }
        }
        Ok(())
    }

    /// Has everything brought to the disk and stops writing there. False when that takes longer than `deadline`.
    pub fn close(&mut self, deadline: Duration) -> bool {
        let (done, flushed) = sync_channel(1);
        let asked = self.job(Job::Flush(done));
        self.writer = None;
        asked && flushed.recv_timeout(deadline).is_ok()
    }
}

/// The thread: takes jobs until nobody can give any.
fn write_all(folder: &Path, jobs: &Receiver<Job>) {
    let mut logs = BTreeMap::new();
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Line(line) => {
                let log = logs.entry(line.source.clone()).or_insert_with(|| Log::new(folder, &line.source));
                // A disk that is full or read-only takes nothing; what is said on the console has to do then.
                drop(log.write(&line));
            }
            Job::Record(number, text) => {
                if let Err(error) = record::write(number, &text) {
                    // Nobody waits for it; it is told where the log can be read.
                    let line = NodeLogLine {
                        at: clock::rfc3339(clock::wall_ms()),
                        source: "init".to_owned(),
                        message: error.chain(),
                    };
                    let log =
                        logs.entry(line.source.clone()).or_insert_with(|| Log::new(folder, &line.source));
                    drop(log.write(&line));
                }
            }
            Job::Flush(done) => {
                for log in logs.values() {
                    drop(log.file.as_ref().map(File::sync_data));
                }
                let _ = done.send(());
            }
        }
    }
}

/// The log of one source.
struct Log {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
}

impl Log {
    fn new(folder: &Path, source: &str) -> Self {
        Self { path: folder.join(format!("{source}.log")), file: None, bytes: 0 }
    }

    fn write(&mut self, line: &NodeLogLine) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        if self.file.is_some() && self.bytes + text.len() as u64 > FILE_BYTES {
            self.file = None;
            let older = self.path.with_extension("log.1");
            std::fs::rename(&self.path, older)?;
        }
        if self.file.is_none() {
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
            self.bytes = file.metadata()?.len();
            self.file = Some(file);
        }
        if let Some(file) = &mut self.file {
            file.write_all(&text)?;
            self.bytes += text.len() as u64;
        }
        Ok(())
    }
}

/// Parts what a process prints into lines of at most [`LINE`] bytes.
#[derive(Debug, Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// Takes bytes and gives every line that ends in them to `each`.
    pub fn take(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            for piece in text.chunks(LINE) {
                if self.0.len() + piece.len() > LINE {
                    self.end(&mut each);
                }
                self.0.extend_from_slice(piece);
            }
            if ended {
                self.end(&mut each);
            }
        }
    }

    /// Gives what is there of a line to `each`.
    pub fn end(&mut self, mut each: impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.0);
        let text = text.trim_end();
        if !text.is_empty() {
            each(text);
        }
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_with_their_source_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::default();
        journal.note("before the state was there");
        journal.keep_in(dir.path()).unwrap();
        journal.line("stratosd", "hello");
        journal.note("after");
        assert!(journal.close(Duration::from_secs(10)));
        let read = |name: &str| {
            let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
            let line = |line: &str| serde_json::from_str::<NodeLogLine>(line).unwrap();
            text.lines().map(line).map(|line| (line.source, line.message)).collect::<Vec<_>>()
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(read("init.log"), [pair("init", "before the state was there"), pair("init", "after")]);
        assert_eq!(read("stratosd.log"), [pair("stratosd", "hello")]);
    }

    #[test]
    fn a_log_has_at_most_two_files_of_limited_size() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(dir.path(), "loud");
        let message = "x".repeat(LINE);
        let line = NodeLogLine { at: String::new(), source: "loud".to_owned(), message };
        for _ in 0..400 {
            log.write(&line).unwrap();
        }
        assert_eq!(files::names(dir.path(), 9).unwrap(), ["loud.log", "loud.log.1"]);
        for name in ["loud.log", "loud.log.1"] {
            assert!(std::fs::metadata(dir.path().join(name)).unwrap().len() <= FILE_BYTES);
        }
    }

    #[test]
    fn memory_holds_some_lines_only() {
        let mut journal = Journal::default();
        for number in 0..2 * WAITING {
            journal.note(&number.to_string());
        }
        assert_eq!(journal.waiting.len(), WAITING);
        assert_eq!(journal.dropped, WAITING as u64);
    }

    #[test]
    fn what_is_printed_becomes_lines() {
        let mut lines = Lines::default();
        let mut got = Vec::new();
        for bytes in [&b"one\ntw"[..], b"o\r\n\n", b"\xff", b"\n", b"end"] {
            lines.take(bytes, |line| got.push(line.to_owned()));
        }
        lines.end(|line| got.push(line.to_owned()));
        assert_eq!(got, ["one", "two", "\u{fffd}", "end"]);
        let mut long = Vec::new();
        lines.take(&vec![b'x'; 3 * LINE + 1], |line| long.push(line.len()));
        lines.end(|line| long.push(line.len()));
        assert_eq!(long, [LINE, LINE, LINE, 1]);
    }
}
