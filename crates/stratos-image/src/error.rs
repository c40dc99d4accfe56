//! What can go wrong while a layer is built, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use stratos_types::Digest;

use crate::apt::AptError;
use crate::elf::ElfError;
use crate::kernel::KernelError;
use crate::lock::LockError;
use crate::os::ImageError;
use crate::pip::PipError;
use crate::programs::ProgramsError;
use crate::run::RunError;
use crate::spec::SpecError;
use crate::tree::TreeError;

/// The one command that writes the layer lock anew.
pub const RELOCK_COMMAND: &str = "stratos layer lock";

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    /// What was tried, such as `read`.
    pub action: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// Adds the file and the action to an I/O error.
pub(crate) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { action, path, source }
}

/// Why a layer was not built or the lock was not written.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A layer description is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The lock file is wrong.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The Debian archive could not be used.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// A wheel could not be fetched.
    #[error(transparent)]
    Pip(#[from] PipError),
    /// A package's content does not fit the layer.
    #[error("layer {layer} cannot be assembled")]
    Tree {
        /// The layer's name.
        layer: String,
        /// What did not fit.
        source: TreeError,
    },
    /// A program or library of the layer would not load.
    #[error("layer {layer} is not complete")]
    Elf {
        /// The layer's name.
        layer: String,
        /// Which file lacks what.
        source: ElfError,
    },
    /// A program that takes part in the build failed.
    #[error("layer {layer}: {step} failed")]
    Run {
        /// The layer's name.
        layer: String,
        /// What the program was run for.
        step: &'static str,
        /// How it failed.
        source: RunError,
    },
    /// The runtime inside the layer is not the one the description asks for.
    #[error("layer {layer} holds version `{found}`, its description expects `{expected}`")]
    Version {
        /// The layer's name.
        layer: String,
        /// What the runtime reported.
        found: String,
        /// The prefix it had to begin with.
        expected: String,
    },
    /// `--locked`, and the lock lacks an entry.
    #[error("layer {layer}: {package} is not in {}", lock.display())]
    NotLocked {
        /// The layer's name.
        layer: String,
        /// The package or wheel without an entry.
        package: String,
        /// The lock file.
        lock: PathBuf,
    },
    /// `--locked`, and a locked version is gone from its archive and from the cache.
    #[error("layer {layer}: {package} {version}, locked in {}, is no longer in its archive", lock.display())]
    Vanished {
        /// The layer's name.
        layer: String,
        /// The package or wheel.
        package: String,
        /// The locked version.
        version: String,
        /// The lock file.
        lock: PathBuf,
    },
    /// The archive offers a locked version with other content. Never accepted.
    #[error(
        "{package} {version} has digest {found}, but {locked} is locked: the same version with other content"
    )]
    DigestChanged {
        /// The package or wheel.
        package: String,
        /// The locked version.
        version: String,
        /// The digest in the lock.
        locked: Digest,
        /// The digest the archive offers now.
        found: Digest,
    },
    /// An operating system image cannot be put together.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A program of a long build inside a build tree failed.
    #[error("{what}: {step} failed; all of its output is in {}", log.display())]
    Inside {
        /// What was being built.
        what: String,
        /// What the program was run for.
        step: &'static str,
        /// Everything it wrote.
        log: PathBuf,
        /// How it failed.
        source: RunError,
    },
    /// The own kernel's configuration is wrong.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The static programs could not be built.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// A file of the cache or the repository could not be used.
    #[error(transparent)]
    File(#[from] FileError),
}

impl BuildError {
    /// What the user can do, for the line after `hint:`.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotLocked { .. } | Self::Vanished { .. } => Some(format!(
                "run `{RELOCK_COMMAND}` and commit distro/stratos.lock, or build without --locked"
            )),
            Self::DigestChanged { .. } => Some(format!(
                "find out why the archive changed it; only then accept it with `{RELOCK_COMMAND}`"
            )),
            Self::Elf { source: ElfError::Missing { .. }, layer } => {
                Some(format!("add the package that holds it to distro/layers/{layer}.toml, with a reason"))
            }
            Self::Inside { source: RunError::Start { program, .. }, .. } => {
                Some(format!("install the package that holds `{program}`"))
            }
            Self::Inside { source: RunError::Failed { output, .. }, .. } if output.contains("unshare: ") => {
                Some("run it as root, or where users may make namespaces".to_owned())
            }
            Self::Programs(error) => error.hint(),
            Self::Apt(error) => error.hint(),
            Self::Pip(error) => error.hint(),
            _ => None,
        }
    }
}
