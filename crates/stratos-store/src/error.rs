//! What can go wrong with the state, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the state could not be read or changed. Cheap to clone: one failed commit answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk is full. Nothing was changed; the store works again once there is space.
    #[error("no space left on the disk of {}", path.display())]
    DiskFull {
        /// The file or folder that could not grow.
        path: PathBuf,
    },
    /// Another process uses the folder.
    #[error("{} is in use by another agent", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The database file is damaged or is something else.
    #[error(
        "{} is not a readable state file ({detail}): restore it from a backup, or move it away to start \
         without functions", path.display()
    )]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Reading or writing failed for another reason.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, such as `create`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: Arc<io::Error>,
    },
    /// The database refused for a reason that is neither damage nor I/O.
    #[error("the state file {} cannot be used: {detail}", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// What the database said.
        detail: String,
    },
    /// There is no such function, version or invocation.
    #[error("{what} does not exist")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// An invocation with this id is stored already.
    #[error("{what} exists already")]
    Exists {
        /// What was given.
        what: String,
    },
    /// The invocation is in a state from which this step does not lead.
    #[error("{what} is {state}")]
    State {
        /// Which invocation.
        what: String,
        /// The state it is in: `queued`, `running`, `succeeded` or `dead`.
        state: &'static str,
    },
    /// The thread that writes the queue has ended.
    #[error("the state of {} is closed", path.display())]
    Closed {
        /// The database file.
        path: PathBuf,
    },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match is_full(&source) {
            true => Self::DiskFull { path: path.to_owned() },
            false => Self::Io { action, path: path.to_owned(), source: Arc::new(source) },
        }
    }
}

/// True for "no space left", and for a quota, which asks for the same remedy.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
