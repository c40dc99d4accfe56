//! Checkpoints of functions that are built for somewhere else: nothing of them stays on this node.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratos_types::{Digest, FunctionKey, FunctionSpec};

use super::deployed::Parts;
use super::log::FunctionLog;
use super::{Engine, checkpoint};
use crate::layers::Layer;

/// A function that was built.
pub struct Built {
    /// Its name.
    pub key: FunctionKey,
    /// Its specification.
    pub spec: FunctionSpec,
    /// The layer it runs on.
    pub layer: Arc<Layer>,
    /// Its image.
    pub image: PathBuf,
    /// The image's digest.
    pub digest: Digest,
}

impl Engine {
    /// Starts an instance of a function that is not deployed, lets it initialise, and writes its checkpoint to a file in
    /// `folder`, where also the log of that is.
    ///
    /// # Errors
    /// Why there can be none, in words for the function's author.
    pub async fn checkpoint_of(&self, built: Built, folder: &Path) -> Result<PathBuf, String> {
        let Built { key, spec, layer, image, digest } = built;
        let sandbox = Arc::clone(&self.0.sandbox);
        let mounted = tokio::task::spawn_blocking(move || sandbox.mount_image(&image)).await;
        let mounted = mounted.map_err(|error| error.to_string())?;
        let function = mounted.map_err(|error| checkpoint::chain(&error))?;
        let parts = Parts { spec, layer, function, function_digest: digest };
        let deployed = self.assemble(&key, None, parts).map_err(|error| checkpoint::chain(&error))?;
        let deployed = Arc::new(deployed);
        let path = folder.join("checkpoint");
        let log = Arc::new(FunctionLog::new(folder, &key));
        let made = self.make_checkpoint_of(&deployed, &path, log).await;
        // The last owner of the image unmounts it.
        let dropped = tokio::task::spawn_blocking(move || drop(deployed)).await;
        dropped.map_err(|error| error.to_string())?;
        made.map(|()| path)
    }
}
