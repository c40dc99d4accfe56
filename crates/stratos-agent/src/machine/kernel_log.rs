//! The kernel's log, from its own buffer in memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use stratos_api::node::NodeLogLine;

use crate::clock::rfc3339;

/// The largest record there is (CONSOLE_EXT_LOG_MAX).
const MAX_RECORD: usize = 8192;
/// Most records read at once; the largest buffer that is in use holds fewer.
const MAX_RECORDS: usize = 100_000;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Microseconds since the kernel started.
    pub at_us: u64,
    /// The text of its first line.
    pub message: String,
}

/// Reads `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS..;MESSAGE`, which lines ` KEY=VALUE` may follow (dev-kmsg, "Documentation/
/// ABI/testing").
pub fn parse(record: &[u8]) -> Option<Record> {
    let semicolon = record.iter().position(|b| *b == b';')?;
    let head = std::str::from_utf8(record.get(..semicolon)?).ok()?;
    let at_us = head.split(',').nth(2)?.parse().ok()?;
    let message = record.get(semicolon + 1..)?.split(|b| *b == b'\n').next()?;
    Some(Record { at_us, message: String::from_utf8_lossy(message).into_owned() })
}

/// The kernel's log, read on from where it was left.
#[derive(Debug)]
pub(super) struct KernelLog(File);

impl KernelLog {
    /// At the oldest record; `None` where it is not to be read.
    pub(super) fn open() -> Option<Self> {
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(nonblocking).open("/dev/kmsg");
        file.inspect_err(|error| tracing::debug!(%error, "the kernel's log cannot be read")).ok().map(Self)
    }

    /// Gives each record that has come since the last call.
    pub(super) fn read(&mut self, mut each: impl FnMut(NodeLogLine)) {
        let started = started_at();
        let mut buffer = [0; MAX_RECORD];
        for _ in 0..MAX_RECORDS {
            let read = match self.0.read(&mut buffer) {
                Ok(read) => read,
                // Records were overwritten before they were read: the next one is the oldest that is left.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => continue,
                Err(_) => return,
            };
            let Some(record) = buffer.get(..read).and_then(parse) else { continue };
            each(NodeLogLine {
                at: rfc3339(started + Duration::from_micros(record.at_us.min(1 << 50))),
                source: "kernel".to_owned(),
                message: record.message,
            });
        }
    }
}

/// The wall clock when the kernel's own clock was at 0. That one stands still while the machine sleeps.
fn started_at() -> SystemTime {
    let awake = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let awake = Duration::try_from(awake).unwrap_or_default();
    SystemTime::now().checked_sub(awake).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read() {
        let record = parse(b"6,339,5140900,-;NET: Registered\n SUBSYSTEM=net\n DEVICE=+x\n").unwrap();
        assert_eq!(record, Record { at_us: 5_140_900, message: "NET: Registered".into() });
        assert_eq!(parse(b"30,1,0,-,caller=T1;a;b").unwrap().message, "a;b");
        for wrong in [&b""[..], b"6,339;x", b"6,339,x,-;y", b"6,339,5140900,-"] {
            assert_eq!(parse(wrong), None);
        }
    }

    #[test]
    fn the_buffer_is_read_once() {
        let Some(mut log) = KernelLog::open() else { return };
        let mut lines = Vec::new();
        log.read(|line| lines.push(line));
        assert!(lines.iter().all(|line| line.source == "kernel" && line.at.ends_with('Z')));
        let before = lines.len();
        log.read(|line| lines.push(line));
        // Whatever the kernel had to say meanwhile, it was little.
        assert!(lines.len() - before < 100);
    }
}
