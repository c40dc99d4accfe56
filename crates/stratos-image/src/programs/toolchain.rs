//! The host's Rust toolchain: where it is, which it is, and fetching crates with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{self, RunError};
use crate::watch;

/// Why the toolchain could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ToolchainError {
    /// cargo or rustc did not do what was asked.
    #[error("cannot {action}")]
    Run {
        /// What it was asked for.
        action: &'static str,
        /// How it failed.
        source: RunError,
    },
    /// The toolchain cannot be used at another path than its own.
    #[error("the Rust toolchain at {} cannot be moved into a build: {problem}", sysroot.display())]
    Fixed {
        /// Where it is.
        sysroot: PathBuf,
        /// Why not.
        problem: &'static str,
    },
}

impl ToolchainError {
    /// What the user can do.
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Run { source: RunError::Start { program, .. }, .. } => {
                Some(format!("install Rust with rustup; `{program}` has to be on the PATH"))
            }
            Self::Fixed { .. } => {
                Some("install Rust with rustup, which keeps it in a folder of its own".to_owned())
            }
            Self::Run { .. } => None,
        }
    }
}

/// A toolchain in a folder of its own.
#[derive(Debug)]
pub(super) struct Toolchain {
    /// The folder.
    pub(super) sysroot: PathBuf,
    /// What rustc tells of itself.
    pub(super) version: String,
}

impl Toolchain {
    /// The one that the host would compile this repository with.
    pub(super) fn find(repository: &Path) -> Result<Self, ToolchainError> {
        let rustc = |arguments: &[&str], action| {
            let mut command = Command::new("rustc");
            let output = run::output(command.args(arguments).current_dir(repository));
            let output = output.map_err(|source| ToolchainError::Run { action, source })?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let sysroot = PathBuf::from(rustc(&["--print", "sysroot"], "find the Rust toolchain")?);
        let version = rustc(&["--version", "--verbose"], "tell the version of the Rust toolchain")?;
        let fixed = |problem| ToolchainError::Fixed { sysroot: sysroot.clone(), problem };
        if ["/", "/usr", "/usr/local"].iter().any(|system| sysroot == Path::new(system)) {
            return Err(fixed("it is part of the system"));
        }
        if !sysroot.join("bin/cargo").is_file() {
            return Err(fixed("it has no cargo"));
        }
        Ok(Self { sysroot, version })
    }
}

/// Fetches the source of every crate that `Cargo.lock` pins, the way the host's cargo is configured to.
pub(super) fn vendor(
    repository: &Path,
    folder: &Path,
    log: &Path,
    shown: impl FnMut(&str),
) -> Result<(), ToolchainError> {
    let mut command = Command::new("cargo");
    command.args(["vendor", "--locked", "--versioned-dirs"]).arg(folder).current_dir(repository);
    watch::logged(&mut command, log, shown)
        .map_err(|source| ToolchainError::Run { action: "fetch the crates that Cargo.lock pins", source })
}
