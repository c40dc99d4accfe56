//! Running other programs from the repository's top folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The repository's top folder.
pub(crate) fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository")
}

/// cargo, the one that runs this.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from);
    let mut command = Command::new(cargo);
    command.args(args).current_dir(top());
    command
}

/// A program of this workspace, built in `profile` (`debug` or `release`). Called by its path and not by `cargo run`,
/// which would build its dependencies again with the features that this one package needs.
pub(crate) fn built(profile: &str, program: &str) -> Result<Command> {
    let this = std::env::current_exe().context("cannot tell where this program lies")?;
    let target = this.parent().and_then(Path::parent).context("this program lies in no target folder")?;
    let mut command = Command::new(target.join(profile).join(program));
    command.current_dir(top());
    Ok(command)
}

/// Runs a program with this one's stdout and stderr.
pub(crate) fn run(mut command: Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start {program}"))?;
    if !status.success() {
        let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        bail!("`{program} {}` failed ({status})", args.join(" "));
    }
    Ok(())
}

/// Runs a program and gives its stdout.
pub(crate) fn read(mut command: Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("`{program}` failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{program}` did not print UTF-8"))
}

/// How this process can do what only root may.
pub(crate) enum Root {
    /// It is root.
    Already,
    /// By `sudo -E`.
    Sudo,
    /// Not at all.
    No,
}

impl Root {
    /// Finds out; sudo may ask for a password.
    pub(crate) fn find() -> Result<Self> {
        let mut id = Command::new("id");
        id.arg("-u");
        if read(id)?.trim() == "0" {
            return Ok(Self::Already);
        }
        let mut sudo = Command::new("sudo");
        sudo.arg("true");
        Ok(if run(sudo).is_ok() { Self::Sudo } else { Self::No })
    }
}

/// `cargo xtask setup`.
pub(crate) fn setup(list: bool, purpose: &str) -> Result<()> {
    let mut command = Command::new("sh");
    command.arg("scripts/setup.sh").current_dir(top());
    if list {
        command.arg("--list");
    }
    command.arg(purpose);
    run(command)
}
