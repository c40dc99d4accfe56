//! Processes by descriptor, and marks on our own process.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{DumpableBehavior, Signal, WaitId, WaitIdOptions};

/// How a process ended: with a code, or by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, when it ended by itself.
    pub code: Option<i32>,
    /// Number of the signal that ended it, when one did.
    pub signal: Option<i32>,
}

/// Waits for the end of a child and collects it. Blocks until the descriptor is readable.
///
/// # Errors
/// `ECHILD` when the process is no child of ours or was collected before.
pub fn wait(pidfd: impl AsFd) -> io::Result<Exit> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                return Ok(Exit { code: status.exit_status(), signal: status.terminating_signal() });
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// True when the process has ended, waiting for that at most `timeout`. Does not collect it.
///
/// # Errors
/// What poll says, except interruptions.
pub fn ended_within(pidfd: impl AsFd, timeout: Duration) -> io::Result<bool> {
    let timeout = rustix::time::Timespec::try_from(timeout).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Sends SIGKILL. A process that has ended already is no error.
///
/// # Errors
/// `EPERM` when the process is not ours to kill.
pub fn kill(pidfd: impl AsFd) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Sends a signal to every process but the caller and kernel threads. That nobody is left is no error.
///
/// # Errors
/// `EINVAL` for a number that is no signal; `EPERM` when not one of them is ours to signal.
pub fn signal_everyone(signal: Signal) -> io::Result<()> {
    // SAFETY: the call takes two numbers.
    if unsafe { libc::kill(-1, signal.as_raw()) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        error => Err(error),
    }
}

/// Marks this process as not dumpable: no core dump, no ptrace without CAP_SYS_PTRACE. The agent's memory holds
/// tenants' secrets, and a child that changes its user shares that memory for a moment (see [`crate::spawn`]).
///
/// # Errors
/// None that is known; the kernel's answer is passed on.
pub fn harden() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Makes the calling thread give way to all others: it gets the processors and disks that nobody else wants.
///
/// # Errors
/// None that is known; the kernel's answer is passed on.
pub fn give_way() -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_CLASS_IDLE: libc::c_int = 3 << 13;
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the structure, and 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameter) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call takes three numbers, and 0 is the calling thread.
    let failed = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_CLASS_IDLE) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The highest capability number that the running kernel knows.
///
/// # Errors
/// When /proc is not mounted.
pub fn last_capability() -> io::Result<u32> {
    let text = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")?;
    text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_alone_gives_way() {
        let policy = || std::fs::read_to_string("/proc/thread-self/sched").unwrap_or_default();
        let given = std::thread::spawn(move || give_way().map(|()| policy())).join().unwrap().unwrap();
        // Not every kernel has the file.
        let line = given.lines().find(|line| line.starts_with("policy"));
        assert!(line.is_none_or(|line| line.ends_with('5')), "{line:?}");
    }
}
