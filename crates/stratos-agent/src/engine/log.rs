//! A function's log: what its instances print and what StratOS says about them, on disk with a fixed cap.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use stratos_api::LogLine;
use stratos_types::FunctionKey;
use tokio::sync::broadcast;

/// Size at which the log file becomes `previous` and a new one begins: a function's log is never larger than twice
/// this on disk.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Longest line, in bytes; a longer one becomes several.
pub(super) const MAX_LINE_BYTES: usize = 16 << 10;
/// Lines a slow follower may fall behind before it misses some.
const FOLLOW_BACKLOG: usize = 1024;

/// The log of one function.
pub struct FunctionLog {
    current: PathBuf,
    previous: PathBuf,
    file: Mutex<Output>,
    followers: broadcast::Sender<LogLine>,
}

/// Where lines go.
enum Output {
    /// Nothing was written yet, or the file became `previous`.
    Closed,
    /// The file and its size in bytes.
    Open(File, u64),
    /// The function was removed: what its last instances print is dropped.
    Deleted,
}

impl FunctionLog {
    pub(super) fn new(dir: &Path, key: &FunctionKey) -> Self {
        let base = dir.join(format!("{}.{}", key.tenant, key.name));
        Self {
            current: base.with_added_extension("log"),
            previous: base.with_added_extension("previous.log"),
            file: Mutex::new(Output::Closed),
            followers: broadcast::Sender::new(FOLLOW_BACKLOG),
        }
    }

    /// Adds a line. A log that cannot be written is reported once per attempt in the agent's own log and otherwise
    /// does not stop the function.
    pub(super) fn add(&self, line: LogLine) {
        if let Err(error) = self.write(&line) {
            tracing::warn!(path = %self.current.display(), %error, "cannot write a function's log");
        }
        if self.followers.receiver_count() > 0 {
            // No receiver is left when the last follower went away just now.
            self.followers.send(line).unwrap_or_default();
        }
    }

    fn write(&self, line: &LogLine) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let mut output = super::lock(&self.file);
        if matches!(&*output, Output::Deleted) {
            return Ok(());
        }
        if matches!(&*output, Output::Open(_, size) if size + bytes.len() as u64 > MAX_FILE_BYTES) {
            *output = Output::Closed;
            std::fs::rename(&self.current, &self.previous)?;
        }
        if matches!(&*output, Output::Closed) {
            let mut file = OpenOptions::new().create(true).append(true).open(&self.current)?;
            let size = file.metadata()?.len();
            if size > 0 {
                // A killed agent may have left half a line: end it, so that this one is not lost with it.
                file.write_all(b"\n")?;
            }
            *output = Output::Open(file, size + 1);
        }
        if let Output::Open(file, size) = &mut *output {
            file.write_all(&bytes)?;
            *size += bytes.len() as u64;
        }
        Ok(())
    }

    /// The last `count` lines, oldest first. Lines cut off by a crash are left out.
    pub fn tail(&self, count: usize) -> Vec<LogLine> {
        let mut lines = std::collections::VecDeque::with_capacity(count.min(1000));
        for path in [&self.previous, &self.current] {
            let Ok(file) = File::open(path) else { continue };
            for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
                let Ok(line) = serde_json::from_slice(&line) else { continue };
                if lines.len() == count {
                    lines.pop_front();
                }
                if count > 0 {
                    lines.push_back(line);
                }
            }
        }
        lines.into()
    }

    /// Lines from now on. A follower that falls 1,024 lines behind misses lines.
    pub fn subscribe(&self) -> broadcast::Receiver<LogLine> {
        self.followers.subscribe()
    }

    pub(super) fn delete(&self) {
        *super::lock(&self.file) = Output::Deleted;
        for path in [&self.current, &self.previous] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "cannot delete a removed function's log");
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: String) -> LogLine {
        LogLine {
            at: "2026-01-01T00:00:00.000Z".into(),
            stream: "stdout".into(),
            instance: "0".into(),
            invocation: None,
            message,
        }
    }

    #[test]
    fn the_log_is_capped_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let key = FunctionKey::of_default_tenant("f".parse().unwrap());
        let log = FunctionLog::new(dir.path(), &key);
        let filler = "x".repeat(10_000);
        for i in 0..1500 {
            log.add(line(format!("{i} {filler}")));
        }
        let on_disk: u64 =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(on_disk <= 2 * MAX_FILE_BYTES, "{on_disk}");
        let tail = log.tail(2);
        assert!(tail[0].message.starts_with("1498 ") && tail[1].message.starts_with("1499 "));
        // A new agent goes on where the old one was killed, past a torn line.
        OpenOptions::new().append(true).open(&log.current).unwrap().write_all(b"{\"at\":\"20").unwrap();
        let again = FunctionLog::new(dir.path(), &key);
        again.add(line("after".into()));
        assert_eq!(again.tail(1)[0].message, "after");
        again.delete();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
