//! Running a downloading program while telling how much has arrived.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::run::{self, RunError};

/// How often arrived bytes are counted.
const INTERVAL: Duration = Duration::from_millis(100);

/// Runs to the end, its output kept in `scratch`; calls `arrived` with the number of bytes in `folders` while it runs.
/// Gives what it wrote.
pub(crate) fn run(
    command: &mut Command,
    scratch: &tempfile::TempDir,
    folders: &[&Path],
    arrived: impl Fn(u64),
) -> Result<String, RunError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let fail = |source| run::cannot_start(&program, source);
    let log = scratch.path().join("output");
    let output = File::create(&log).map_err(fail)?;
    let errors = output.try_clone().map_err(fail)?;
    let mut child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().map_err(fail)?;
    let status = std::thread::scope(|scope| {
        let (ended, end) = std::sync::mpsc::channel::<()>();
        let waiter = scope.spawn(move || {
            let status = child.wait();
            // The receiver lives until this scope ends.
            drop(ended);
            status
        });
        while end.recv_timeout(INTERVAL) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            arrived(folders.iter().map(|folder| size(folder)).sum());
        }
        waiter.join().expect("waiting for a child does not panic")
    });
    let status = status.map_err(fail)?;
    arrived(folders.iter().map(|folder| size(folder)).sum());
    let text = std::fs::read(&log).map_err(fail)?;
    run::check_status(&program, status, || run::tail(&text))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Bytes in the files under a folder. Files that vanish meanwhile count nothing: this is for a progress bar only.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
