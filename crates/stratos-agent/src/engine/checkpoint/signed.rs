//! Checkpoints that came with artifacts, on the word of a key.

use std::sync::Arc;
use std::time::Duration;

use stratos_artifact::KeyId;
use stratos_types::{FunctionKey, Version};
use tempfile::NamedTempFile;

use super::images::OnDisk;
use super::{OfVersion, State};
use crate::engine::{Engine, lock};

/// How long a checkpoint that came with an artifact is waited for.
const READ_WAIT: Duration = Duration::from_secs(10);
/// A checkpoint that came with an artifact: verified, and of the version that it is kept for.
#[derive(Debug)]
pub struct TakenCheckpoint {
    /// Its image, on the file system of the node's state.
    pub file: NamedTempFile,
    /// The key that signed the artifact.
    pub signed_by: KeyId,
}

impl Engine {
    /// Keeps a checkpoint that came with an artifact, as that of the version which was made of it.
    pub fn keep_checkpoint(&self, key: &FunctionKey, version: Version, taken: TakenCheckpoint) {
        let image = OnDisk { key: key.clone(), version, signed_by: Some(taken.signed_by) };
        let path = self.0.checkpoints.path(&image);
        if let Err(error) = taken.file.persist(&path) {
            tracing::warn!(path = %path.display(), error = %error.error, "an artifact's checkpoint cannot be kept");
            return;
        }
        // Somebody may have asked for the version already, and one be on its way.
        let mut versions = lock(&self.0.checkpoints.versions);
        let asked = versions.get(key).is_some_and(|of| of.version == version);
        let made = if asked { versions.remove(key) } else { None };
        drop(versions);
        drop(made);
    }

    /// Waits until it is known whether there is a checkpoint, one that came with an artifact: it need only be read.
    pub async fn checkpoint_read(&self, key: &FunctionKey) {
        let of = lock(&self.0.checkpoints.versions).get(key).cloned();
        if let Some(of) = of {
            let mut state = of.state.subscribe();
            let settled = state.wait_for(|state| !matches!(state, State::Making));
            // What then is still on its way is a new one, which nobody waits for.
            tokio::time::timeout(READ_WAIT, settled).await.map(drop).unwrap_or_default();
        }
    }

    /// A key is not trusted any more: nothing goes on from what it signed, and checkpoints are made anew.
    pub async fn key_removed(&self, key: KeyId) {
        let signed = |of: &Arc<OfVersion>| of.signed_by.get() == Some(&key);
        let functions: Vec<FunctionKey> = {
            let mut versions = lock(&self.0.checkpoints.versions);
            versions.extract_if(|_, of| signed(of)).map(|(function, _)| function).collect()
        };
        self.0.checkpoints.remove_images(|image| image.signed_by == Some(key));
        for function in functions {
            self.function_changed(&function);
            self.prepare_checkpoint(&function).await;
        }
    }
}
