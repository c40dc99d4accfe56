//! Checkpoints that came with artifacts, on the word of a key.

use std::sync::Arc;
use std::time::Duration;

use stratos_artifact::KeyId;
use stratos_types::{FunctionKey, Version};
use tempfile::NamedTempFile;

use super::OfVersion;
use super::images::OnDisk;
use crate::engine::deployed::Deployed;
use crate::engine::invoke::platform_line;
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
    /// Keeps a checkpoint that came with an artifact, as that of the version which was made of it, while that is current.
    pub fn keep_checkpoint(&self, key: &FunctionKey, version: Version, taken: TakenCheckpoint) {
        let image = OnDisk { key: key.clone(), version, signed_by: Some(taken.signed_by) };
        let path = self.0.checkpoints.path(&image);
        let placed = {
            let _alone = lock(&self.0.checkpoints.placing);
            taken.file.persist(&path)
        };
        if let Err(error) = placed {
            tracing::warn!(path = %path.display(), error = %error.error, "an artifact's checkpoint cannot be kept");
            let message =
                format!("CHECKPOINT not taken from the artifact: it cannot be kept: {}", error.error);
            return platform_line(&self.log(key), "-", None, message);
        }
        // Who removed the function, or made another version current, may have looked before it was here.
        let current = self.0.store.function(key).map(|record| record.map(|record| record.current));
        if !matches!(current, Ok(Some(current)) if current == version) {
            return self.0.checkpoints.remove_images(|other| *other == image);
        }
        // Somebody may have asked for the version already, and one be on its way.
        let mut versions = lock(&self.0.checkpoints.versions);
        let asked = versions.get(key).is_some_and(|of| of.version == version);
        let made = if asked { versions.remove(key) } else { None };
        drop(versions);
        if let Some(made) = made {
            made.discard();
        }
    }

    /// Waits until it is known whether there is a checkpoint, one that came with an artifact: it need only be read.
    pub async fn checkpoint_read(&self, key: &FunctionKey) {
        let of = lock(&self.0.checkpoints.versions).get(key).cloned();
        if let Some(of) = of {
            // What then is still on its way is a new one, which nobody waits for.
            tokio::time::timeout(READ_WAIT, of.settled()).await.unwrap_or_default();
        }
    }

    /// [`Engine::prepare`], once the keys were looked at that the version's checkpoints are used on the word of: they may
    /// be files that somebody has deleted.
    pub(super) async fn prepare_believed(&self, deployed: &Arc<Deployed>) -> Option<Arc<OfVersion>> {
        let of = self.prepare(deployed)?;
        let mut is_believed = true;
        for key in of.signers() {
            if !self.0.checkpoints.trusted.is_trusted(key) {
                tracing::info!(function = %deployed.key, %key, "a key is not trusted any more");
                self.key_removed(key).await;
                is_believed = false;
            }
        }
        if is_believed { Some(of) } else { self.prepare(deployed) }
    }

    /// A key is not trusted any more: nothing goes on from what it signed, and checkpoints are made anew.
    pub async fn key_removed(&self, key: KeyId) {
        let (signed, renewed) = {
            let mut versions = lock(&self.0.checkpoints.versions);
            let signed: Vec<_> = versions.extract_if(|_, of| of.signed_by.get() == Some(&key)).collect();
            // Their own checkpoints stay; what was restored before these were made does not.
            let renewed = versions.iter().filter(|(_, of)| {
                let mut before = lock(&of.signed_before);
                before.take_if(|before| *before == key).is_some()
            });
            let renewed: Vec<FunctionKey> = renewed.map(|(function, _)| function.clone()).collect();
            (signed, renewed)
        };
        // Before anything that takes time: these are what goes on from it.
        for function in signed.iter().map(|(function, _)| function).chain(&renewed) {
            self.function_changed(function);
        }
        signed.iter().for_each(|(_, of)| of.discard());
        self.0.checkpoints.remove_images(|image| image.signed_by == Some(key));
        for function in signed.into_iter().map(|(function, _)| function).chain(renewed) {
            self.prepare_checkpoint(&function).await;
        }
    }
}

impl OfVersion {
    /// The keys on whose word it, or one before it, is used.
    fn signers(&self) -> impl Iterator<Item = KeyId> {
        let before = *lock(&self.signed_before);
        self.signed_by.get().copied().into_iter().chain(before)
    }
}
