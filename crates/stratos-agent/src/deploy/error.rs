//! What ends a deploy, and what a client is told.

use std::io;
use std::path::{Path, PathBuf};

use stratos_api::{ApiError, ErrorCode};
use stratos_artifact::ArtifactError;
use stratos_sandbox::JobError;
use stratos_sandbox::seccomp::SeccompError;
use stratos_store::StoreError;
use stratos_types::spec::SpecError;

use super::package::PackageError;
use crate::layers::LayersError;

/// Why a deploy did not happen. Nothing is changed then.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The package cannot be unpacked.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The function's configuration is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The function with its dependencies is too large.
    #[error("the function with its dependencies holds more than {limit}")]
    TooLarge {
        /// The limit with its unit.
        limit: &'static str,
    },
    /// The dependencies cannot be resolved.
    #[error("the dependencies in {file} cannot be resolved")]
    Dependencies {
        /// The file that names them.
        file: &'static str,
        /// The end of what pip or npm said.
        tail: Vec<String>,
        /// What to do.
        hint: String,
    },
    /// A build job could not be run.
    #[error("cannot run {what}")]
    Job {
        /// Which one.
        what: &'static str,
        /// Why.
        source: JobError,
    },
    /// The image could not be made.
    #[error("the function's image cannot be made: {output}")]
    Image {
        /// The end of what mkfs.erofs said.
        output: String,
    },
    /// A layer is missing or damaged.
    #[error("the layer of {what} is not usable")]
    Layer {
        /// What needs it.
        what: &'static str,
        /// Why.
        source: LayersError,
    },
    /// An artifact is damaged, or none.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// This node lacks the layer of an artifact, and does not take the one in it.
    #[error("this node has no runtime layer `{name}`, and {reason}")]
    ArtifactLayer {
        /// Which layer.
        name: String,
        /// Why it is not taken from the artifact.
        reason: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// The node's build settings cannot be used.
    #[error("the node's build settings cannot be used: {reason}")]
    Settings {
        /// Why.
        reason: String,
    },
    /// The system call profile of builds is not usable.
    #[error("the system call profile of builds is not usable")]
    Profile(#[from] SeccompError),
    /// The node's state could not be changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node's disk failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl DeployError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<DeployError> for ApiError {
    fn from(error: DeployError) -> Self {
        const ANEW: &str = "fetch it again, or make it anew with `stratos build`";
        const FREE: &str = "free space on the disk of the node's state, then deploy again";
        let text = error.to_string();
        match &error {
            DeployError::Package(PackageError::Entry { entry, hint, .. }) => {
                Self { file: Some(entry.clone()), ..Self::new(ErrorCode::InvalidFunction, text).hint(*hint) }
            }
            DeployError::Package(PackageError::Format { hint }) => {
                Self::new(ErrorCode::InvalidFunction, text).hint(*hint)
            }
            DeployError::Package(PackageError::Damaged { source }) => {
                Self::new(ErrorCode::InvalidFunction, text).caused_by(source).hint("send the package again")
            }
            DeployError::Package(PackageError::TooLarge { .. }) | DeployError::TooLarge { .. } => {
                let hint =
                    "leave out what the function does not need at run time, or fetch large data from a store";
                Self::new(ErrorCode::PayloadTooLarge, text).hint(hint)
            }
            DeployError::Package(PackageError::Io { source, .. }) | DeployError::Io { source, .. } => {
                match is_full(source) {
                    true => Self::new(ErrorCode::StorageFailed, "the node's disk is full").hint(FREE),
                    false => Self::new(ErrorCode::Internal, text),
                }
                .caused_by(source)
            }
            DeployError::Spec(SpecError { file, key, message, hint }) => {
                let error = Self::new(ErrorCode::InvalidFunction, message.clone()).hint(hint.clone());
                Self { file: Some(file.clone()), key: key.clone(), ..error }
            }
            DeployError::Dependencies { file, tail, hint } => {
                let error = Self::new(ErrorCode::DependencyFailed, text).hint(hint.clone());
                Self { file: Some((*file).to_owned()), causes: tail.clone(), ..error }
            }
            DeployError::Store(StoreError::DiskFull { .. }) => {
                Self::new(ErrorCode::StorageFailed, text).hint(FREE)
            }
            DeployError::Store(source) => {
                Self::new(ErrorCode::StorageFailed, "the node's state cannot be read or written")
                    .caused_by(source)
            }
            DeployError::Image { output } if output.contains("No space left") => {
                Self::new(ErrorCode::StorageFailed, "the node's disk is full").hint(FREE)
            }
            DeployError::Layer { source, .. } => {
                Self::new(ErrorCode::Internal, text).caused_by(source).hint(source.hint())
            }
            DeployError::Artifact(ArtifactError::Io { source, .. }) if is_full(source) => {
                Self::new(ErrorCode::StorageFailed, "the node's disk is full").hint(FREE)
            }
            DeployError::Artifact(source @ ArtifactError::Io { .. }) => {
                Self::new(ErrorCode::Internal, "the artifact cannot be read").caused_by(source)
            }
            DeployError::Artifact(ArtifactError::Manifest { source }) => {
                Self::new(ErrorCode::InvalidFunction, text).caused_by(source).hint(ANEW)
            }
            DeployError::Artifact(_) => Self::new(ErrorCode::InvalidFunction, text).hint(ANEW),
            DeployError::ArtifactLayer { hint, .. } => {
                Self::new(ErrorCode::InvalidFunction, text).hint(*hint)
            }
            DeployError::Job { source, .. } => Self::new(ErrorCode::Internal, text).caused_by(source),
            DeployError::Profile(source) => Self::new(ErrorCode::Internal, text).caused_by(source),
            DeployError::Image { .. } | DeployError::Settings { .. } => Self::new(ErrorCode::Internal, text),
        }
    }
}
