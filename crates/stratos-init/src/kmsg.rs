//! The kernel's own log, as far as it is about trouble.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read};

/// Least important level that is kept: warnings. Out of memory, damaged blocks and failing disks are below it.
const LEVEL: u32 = 4;
/// Longest record that the kernel gives.
const LONGEST: usize = 8 << 10;

/// Opens the log, from its oldest record on; `None` when the kernel gives none.
pub fn reader() -> Option<OwnedFd> {
    open("/dev/kmsg", OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Gives the next records that are kept to `each`, at most `most` records of any kind. False when there are no more.
pub fn take(reader: &OwnedFd, most: usize, mut each: impl FnMut(&str)) -> bool {
    let mut bytes = [0; LONGEST];
    for _ in 0..most {
        match read(reader, &mut bytes) {
            Ok(length) => {
                if let Some(text) = message(bytes.get(..length).unwrap_or_default()) {
                    each(&text);
                }
            }
            // Records were overwritten before they were read: go on with the oldest that is there.
            Err(Errno::PIPE | Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

/// The text of a record that is kept: `LEVEL,NUMBER,TIME,FLAGS;TEXT`, and lines with keys behind it.
fn message(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (head, text) = record.split_once(';')?;
    let mut fields = head.split(',');
    let level: u32 = fields.next()?.parse().ok()?;
    // From the kernel itself (facility 0), which programs cannot write as.
    if level >> 3 != 0 || level & 7 > LEVEL {
        return None;
    }
    let micros: u64 = fields.nth(1)?.parse().ok()?;
    let text = text.lines().next()?.trim_end();
    (!text.is_empty()).then(|| format!("[{}.{:06}] {text}", micros / 1_000_000, micros % 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_of_the_kernel_are_kept() {
        let kept = message(b"3,5,1500000,-;oom-kill:constraint\n SUBSYSTEM=x\n");
        assert_eq!(kept.unwrap(), "[1.500000] oom-kill:constraint");
        for other in [&b"6,5,1,-;info"[..], b"11,5,1,-;a program's", b"", b"3,5", b"x,5,1,-;y", b"3,5,1,-;\n"]
        {
            assert_eq!(message(other), None);
        }
    }
}
