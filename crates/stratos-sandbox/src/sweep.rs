//! Ending what a predecessor left that was killed: its instances go on as orphans otherwise.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use stratos_sys::process;

/// Kills every process whose user is in `uids` and waits for their ends; for hosts without cgroup v2. The range
/// belongs to this node alone (see [`crate::uid`]).
pub(crate) fn by_user(uids: &Range<u32>) -> io::Result<usize> {
    let mut killed = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
        else {
            continue;
        };
        if let Some(pidfd) = kill_if_ours(pid, uids)? {
            killed.push(pidfd);
        }
    }
    for pidfd in &killed {
        if !process::ended_within(pidfd, Duration::from_secs(10))? {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(killed.len())
}

/// The descriptor is taken before the look at the user: then both are about the same process.
fn kill_if_ours(pid: Pid, uids: &Range<u32>) -> io::Result<Option<OwnedFd>> {
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    // Not the owner of /proc/PID, which is root for a process that is not dumpable.
    let status = match fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())) {
        Ok(status) => status,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    if !real_uid(&status).is_some_and(|uid| uids.contains(&uid)) {
        return Ok(None);
    }
    process::kill(&pidfd)?;
    Ok(Some(pidfd))
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

fn real_uid(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_read_from_the_status() {
        let status = "Name:\tnode\nUmask:\t0022\nUid:\t1879048192\t0\t0\t0\nGid:\t7\t7\t7\t7\n";
        assert_eq!(real_uid(status), Some(0x7000_0000));
        assert_eq!(real_uid("Name:\tnode\n"), None);
    }
}
