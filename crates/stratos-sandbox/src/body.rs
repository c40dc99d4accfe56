//! A running process and everything that it holds: what instances and jobs have in common.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use stratos_sys::process::{self, Exit};

use crate::cgroup::Leaf;
use crate::egress::{EgressGateway, EgressStats};
use crate::network::Network;
use crate::reaper::Remains;
use crate::sandbox::Node;
use crate::uid::UidLease;

/// How long the steps of a start took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartTimings {
    /// Taking a network namespace, from the pool if one was ready, and opening egress.
    pub network: Duration,
    /// Making and limiting the cgroup.
    pub cgroup: Duration,
    /// From the clone to the exec of the program: namespaces, mounts, privileges.
    pub clone_to_exec: Duration,
}

/// The process. Dropping it kills it and hands the rest to the reaper.
pub(crate) struct Body {
    node: Arc<Node>,
    pid: i32,
    exit: Mutex<Option<Exit>>,
    /// High-water mark last seen in /proc, bytes, for hosts without the memory controller.
    peak: AtomicU64,
    timings: StartTimings,
    end_kill: bool,
    held: Arc<Held>,
}

/// What goes back to its owners after the process has ended.
pub(crate) struct Held {
    pub(crate) pidfd: OwnedFd,
    pub(crate) cgroup: Option<Leaf>,
    pub(crate) uid: UidLease,
    pub(crate) network: Network,
    pub(crate) gateway: Option<EgressGateway>,
}

impl Body {
    /// `end_kill`: its end kills what is in it, as it always should.
    pub(crate) fn new(node: &Arc<Node>, pid: i32, held: Held, timings: StartTimings, end_kill: bool) -> Self {
        Self {
            node: Arc::clone(node),
            pid,
            exit: Mutex::new(None),
            peak: AtomicU64::new(0),
            timings,
            end_kill,
            held: Arc::new(held),
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    pub(crate) fn timings(&self) -> &StartTimings {
        &self.timings
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.held.pidfd.as_fd()
    }

    pub(crate) fn network(&self) -> &Network {
        &self.held.network
    }

    pub(crate) fn egress_stats(&self) -> Option<EgressStats> {
        self.held.gateway.as_ref().map(EgressGateway::stats)
    }

    /// Kills everything in it. The process's own end is seen on its descriptor.
    pub(crate) fn kill(&self) -> io::Result<()> {
        if self.exit.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.sample_peak();
            // Both: the descriptor also where there is no cgroup, the cgroup also where there is no PID namespace.
            process::kill(&self.held.pidfd)?;
        }
        match &self.held.cgroup {
            Some(leaf) => leaf.kill(),
            None => Ok(()),
        }
    }

    pub(crate) fn wait(&self) -> io::Result<Exit> {
        let mut exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(exit) = *exit {
            return Ok(exit);
        }
        let ended = process::wait(&self.held.pidfd)?;
        *exit = Some(ended);
        Ok(ended)
    }

    fn leaf(&self) -> Option<&Leaf> {
        self.held.cgroup.as_ref()
    }

    pub(crate) fn cgroup(&self) -> Option<u64> {
        self.leaf()?.number()
    }

    pub(crate) fn oom_killed(&self) -> bool {
        self.leaf().is_some_and(Leaf::oom_killed)
    }

    pub(crate) fn memory_peak(&self) -> Option<u64> {
        if let Some(peak) = self.leaf().and_then(Leaf::memory_peak) {
            return Some(peak);
        }
        self.sample_peak();
        Some(self.peak.load(Ordering::Relaxed)).filter(|peak| *peak > 0)
    }

    /// The process's own file in /proc, unless it was collected, when its pid may be somebody else's.
    fn proc_file(&self, name: &str) -> Option<String> {
        let exit = self.exit.lock().unwrap_or_else(PoisonError::into_inner);
        if exit.is_some() {
            return None;
        }
        std::fs::read_to_string(format!("/proc/{}/{name}", self.pid)).ok()
    }

    fn sample_peak(&self) {
        let Some(status) = self.proc_file("status") else { return };
        if let Some(bytes) = own_bytes(&status, "VmHWM:") {
            self.peak.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    pub(crate) fn rss(&self) -> Option<u64> {
        own_bytes(&self.proc_file("status")?, "VmRSS:")
    }

    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        if let Some(time) = self.leaf().and_then(Leaf::cpu_time) {
            return Some(time);
        }
        stat_cpu_time(&self.proc_file("stat")?)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.end_kill {
            return;
        }
        if let Err(error) = self.kill() {
            tracing::error!(pid = self.pid, %error, "cannot kill an instance");
        }
        let collected = self.exit.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        self.node.reaper.accept(Remains { held: Arc::clone(&self.held), collected, since: Instant::now() });
    }
}

/// The same without the files that are mapped now: their pages are the node's, shared by all instances, and the large ones
/// count whole as soon as one byte is touched.
fn own_bytes(status: &str, name: &str) -> Option<u64> {
    Some(status_bytes(status, name)?.saturating_sub(status_bytes(status, "RssFile:")?))
}

/// A `Name:   123 kB` line of /proc/PID/status, in bytes.
fn status_bytes(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// User and system time (fields 14 and 15) of /proc/PID/stat. Field 2, the name, may hold anything but ends at the
/// last parenthesis.
fn stat_cpu_time(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1000 / rustix::param::clock_ticks_per_second()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_proc() {
        let status = "Name:\tnode\nVmHWM:\t   43008 kB\nVmRSS:\t   1 kB\nRssFile:\t 40000 kB\n";
        assert_eq!(status_bytes(status, "VmHWM:"), Some(43008 * 1024));
        assert_eq!(status_bytes(status, "VmSwap:"), None);
        assert_eq!((own_bytes(status, "VmHWM:"), own_bytes(status, "VmRSS:")), (Some(3008 * 1024), Some(0)));
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 3 4 0 0 20 0 1 0 1 1 1\n";
        assert_eq!(stat_cpu_time(stat), Some(Duration::from_millis(70)));
    }
}
