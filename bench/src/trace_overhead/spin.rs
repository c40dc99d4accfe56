//! A process that makes the cheapest system call again and again: this program, started again.

use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::time::{ClockId, clock_gettime};

use super::Cost;

/// Calls of one run.
pub(super) const CALLS: u64 = 3_000_000;
/// What this program is started with to be the process.
pub(crate) const ARGUMENT: &str = "spin-getppid";

/// CPU time for a call, us, of a process in this cgroup, or in this process's own.
pub(super) fn run(cgroup: Option<PathBuf>) -> Result<Cost> {
    let own = std::env::current_exe()?;
    let mut child = Command::new(own).arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    if let Some(cgroup) = cgroup {
        std::fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).context("move a process")?;
    }
    child.stdin.take().context("a pipe")?.write_all(b"\n")?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the loop ended with {}", output.status);
    let ns: f64 = String::from_utf8(output.stdout)?.trim().parse()?;
    let us = ns / 1e3 / CALLS as f64;
    Ok((us, us))
}

/// The process: waits for a line, makes its calls, and tells the CPU time they took, ns.
///
/// # Errors
/// When nobody listens.
pub(crate) fn spin() -> Result<()> {
    std::io::stdin().lock().read_line(&mut String::new())?;
    let used = || {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
    };
    let before = used();
    for _ in 0..CALLS {
        std::hint::black_box(rustix::process::getppid());
    }
    println!("{}", used() - before);
    Ok(())
}
