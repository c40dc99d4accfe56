//! Running a program that takes long while telling how far it is.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::run::{self, RunError};

/// How often a running program is looked at.
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
    let status = wait(command, output, || arrived(folders.iter().map(|folder| size(folder)).sum()));
    let status = status.map_err(fail)?;
    let text = std::fs::read(&log).map_err(fail)?;
    run::check_status(&program, status, || run::tail(&text))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Runs to the end, its output added to the file `log`; calls `lines` with the whole lines that came since the last
/// call, while it runs.
pub(crate) fn logged(command: &mut Command, log: &Path, mut lines: impl FnMut(&str)) -> Result<(), RunError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let fail = |source| run::cannot_start(&program, source);
    let output = File::options().create(true).append(true).open(log).map_err(fail)?;
    let mut reader = File::open(log).map_err(fail)?;
    let begin = reader.seek(SeekFrom::End(0)).map_err(fail)?;
    let mut partial = Vec::new();
    let status = wait(command, output, || {
        // A log that cannot be read for a moment shows nothing; the program's end tells whether all is well.
        if reader.read_to_end(&mut partial).is_ok()
            && let Some(end) = partial.iter().rposition(|byte| *byte == b'\n')
        {
            lines(&String::from_utf8_lossy(&partial[..end]));
            partial.drain(..=end);
        }
    });
    let status = status.map_err(fail)?;
    run::check_status(&program, status, || {
        let mut text = Vec::new();
        let read = reader.seek(SeekFrom::Start(begin)).and_then(|_| reader.read_to_end(&mut text));
        read.map_or_else(|error| format!("its output cannot be read: {error}"), |_| run::tail(&text))
    })
}

/// Runs to the end with its output in a file; calls `tick` now and then, and once after the end.
fn wait(command: &mut Command, output: File, mut tick: impl FnMut()) -> std::io::Result<ExitStatus> {
    let errors = output.try_clone()?;
    let mut child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn()?;
    let status = std::thread::scope(|scope| {
        let (ended, end) = std::sync::mpsc::channel::<()>();
        let waiter = scope.spawn(move || {
            let status = child.wait();
            // The receiver lives until this scope ends.
            drop(ended);
            status
        });
        while end.recv_timeout(INTERVAL) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            tick();
        }
        waiter.join().expect("waiting for a child does not panic")
    });
    tick();
    status
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_logged_shown_by_lines_and_told_on_failure() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let sh = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        logged(&mut sh("echo before"), &log, |_| {}).unwrap();
        let mut seen = String::new();
        let failed = logged(&mut sh("echo one; echo two >&2; printf thr; exit 3"), &log, |lines| {
            seen.push_str(lines);
            seen.push('\n');
        });
        assert_eq!(seen, "one\ntwo\n");
        assert!(
            matches!(failed, Err(RunError::Failed { ref output, .. }) if output == "one\ntwo\nthr"),
            "{failed:?}"
        );
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "before\none\ntwo\nthr");
    }
}
