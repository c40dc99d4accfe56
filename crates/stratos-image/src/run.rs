//! Running the programs a build needs, on the host and out of a layer's own tree.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use crate::elf::Elf;
use crate::tree::resolve;

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{program} ended with {status}: {output}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it wrote.
        output: String,
    },
    /// A program of a tree is not one that the tree's own loader can run.
    #[error("{} cannot be run out of its tree: {problem}", program.display())]
    Loader {
        /// The program.
        program: PathBuf,
        /// Why not.
        problem: String,
    },
}

pub(crate) fn cannot_start(program: &str, source: io::Error) -> RunError {
    RunError::Start { program: program.to_owned(), source }
}

pub(crate) fn check_status(
    program: &str,
    status: ExitStatus,
    output: impl FnOnce() -> String,
) -> Result<(), RunError> {
    if status.success() {
        return Ok(());
    }
    Err(RunError::Failed { program: program.to_owned(), status, output: output() })
}

/// The last lines of a program's output, short enough for a message.
pub(crate) fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.trim().lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// Runs to the end and gives the output; anything but success is an error.
pub(crate) fn output(command: &mut Command) -> Result<Output, RunError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|source| cannot_start(&program, source))?;
    let all = || tail(&[output.stderr.as_slice(), output.stdout.as_slice()].concat());
    check_status(&program, output.status, all)?;
    Ok(output)
}

/// Variables that programs of a tree see: where the user's things are, and how to reach a package registry. A name that
/// ends in `_` stands for all that begin with it.
const PASSED_ON: &[&str] = &[
    "HOME",
    "PATH",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "PIP_",
    "SSL_CERT_",
    "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

fn is_passed_on(name: &OsStr) -> bool {
    // Names of proxies are written in small letters as well.
    let name = name.to_string_lossy().to_uppercase();
    PASSED_ON.iter().any(|known| name == *known || known.ends_with('_') && name.starts_with(known))
}

/// A command for a program in the tree at `root`, run by the tree's own loader with the tree's own libraries, so that
/// it neither needs root nor anything of the host.
pub(crate) fn tree_command(root: &Path, program: &str) -> Result<Command, RunError> {
    let bad = |problem: &str| RunError::Loader { program: root.join(program), problem: problem.to_owned() };
    let real = resolve(root, program).ok_or_else(|| bad("it is not there"))?;
    let place = root.join(real);
    let bytes = std::fs::read(&place).map_err(|error| bad(&error.to_string()))?;
    let elf =
        Elf::parse(&bytes).map_err(|problem| bad(problem.0))?.ok_or_else(|| bad("it is no ELF file"))?;
    let loader = elf.interpreter.ok_or_else(|| bad("it has no interpreter"))?;
    let loader = resolve(root, &loader).ok_or_else(|| bad("its interpreter is not in the tree"))?;
    let libraries = root.join("usr/lib").join(crate::arch::triplet());
    let mut command = Command::new(root.join(loader));
    command.arg("--library-path").arg(libraries).arg("--argv0").arg(program).arg(&place);
    // What is not known to be harmless may be in the bytes that come out: SOURCE_DATE_EPOCH, E2FSPROGS_FAKE_TIME and
    // their like.
    command.env_clear();
    command.envs(std::env::vars_os().filter(|(name, _)| is_passed_on(name)));
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    Ok(command)
}
