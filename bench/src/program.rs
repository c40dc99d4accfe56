//! Programs that prepare a run.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::interrupt::Interrupt;

/// Pause between two looks whether a program has ended.
const POLL: Duration = Duration::from_millis(50);

/// Runs a program, and ends it when somebody wants the run to end.
///
/// # Errors
/// When it cannot be started or fails; the end of what it wrote is in the message.
pub(crate) fn run(command: &mut Command, interrupt: &Interrupt) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let log = tempfile::NamedTempFile::new()?;
    let (stdout, stderr) = (log.reopen()?, log.reopen()?);
    command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    let mut child = command.spawn().with_context(|| format!("start {name}"))?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if let Err(interrupted) = interrupt.check() {
            // It takes down what it has mounted; SIGKILL would leave that.
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            child.wait()?;
            return Err(interrupted);
        }
        std::thread::sleep(POLL);
    };
    if status.success() {
        return Ok(());
    }
    let text = fs::read_to_string(log.path()).unwrap_or_default();
    let lines: Vec<&str> = text.trim().lines().collect();
    bail!("{name} failed ({status}): {}", lines[lines.len().saturating_sub(12)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_fail_say_why() {
        let interrupt = Interrupt::default();
        run(&mut Command::new("true"), &interrupt).unwrap();
        let failed = run(Command::new("sh").args(["-c", "echo no space >&2; exit 3"]), &interrupt);
        assert!(failed.unwrap_err().to_string().ends_with("no space"));
    }
}
