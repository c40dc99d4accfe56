//! The runtime layers on this node: verified once, mounted once, shared by every instance.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use stratos_api::LayerInfo;
use stratos_sandbox::{Image, MountError, Sandbox};
use stratos_types::{Digest, LayerManifest};

/// A layer, ready to be an instance's root.
pub struct Layer {
    /// What it is.
    pub manifest: LayerManifest,
    /// Its mounted image.
    pub image: Arc<Image>,
}

/// Why a layer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LayersError {
    /// There is no manifest of that name.
    #[error("the layer `{name}` is not in {dir}")]
    Missing {
        /// Which layer.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest is not what a manifest should be.
    #[error("{path} is not a layer manifest")]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The manifest names an image outside its folder.
    #[error("{path} names the image `{image}`, which is not a file name")]
    ImageName {
        /// Which manifest.
        path: PathBuf,
        /// What it names.
        image: String,
    },
    /// The image was changed since it was built.
    #[error("{path} has the digest {found}, its manifest says {expected}")]
    Digest {
        /// The image.
        path: PathBuf,
        /// What the manifest says.
        expected: Digest,
        /// What the file has.
        found: Digest,
    },
    /// The image cannot be mounted.
    #[error("cannot mount {path}")]
    Mount {
        /// The image.
        path: PathBuf,
        /// Why.
        source: MountError,
    },
}

/// The layers in one folder.
pub struct Layers {
    dir: PathBuf,
    sandbox: Arc<Sandbox>,
    mounted: Mutex<HashMap<String, Arc<Layer>>>,
}

impl Layers {
    /// The layers of a folder; nothing is read before it is asked for.
    pub fn new(dir: PathBuf, sandbox: Arc<Sandbox>) -> Self {
        Self { dir, sandbox, mounted: Mutex::default() }
    }

    /// A layer by its name. The first call reads and verifies the whole image, which takes a moment: not for a
    /// thread that must not block.
    ///
    /// # Errors
    /// When it is missing, damaged or cannot be mounted.
    pub fn get(&self, name: &str) -> Result<Arc<Layer>, LayersError> {
        // Held while verifying: two functions that start at the same time need it read only once.
        let mut mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = mounted.get(name) {
            return Ok(Arc::clone(layer));
        }
        let manifest = self.manifest(name)?;
        let path = self.dir.join(&manifest.image);
        let read = |source| LayersError::Read { path: path.clone(), source };
        let found = Digest::of_reader(File::open(&path).map_err(read)?).map_err(read)?;
        if found != manifest.image_digest {
            return Err(LayersError::Digest { path, expected: manifest.image_digest, found });
        }
        let image = self
            .sandbox
            .mount_image(&path)
            .map_err(|source| LayersError::Mount { path: path.clone(), source })?;
        let layer = Arc::new(Layer { manifest, image });
        mounted.insert(name.to_owned(), Arc::clone(&layer));
        Ok(layer)
    }

    /// All layers that are there, by name.
    pub fn list(&self) -> Vec<LayerInfo> {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_suffix(".json").map(str::to_owned)
        });
        let mut layers: Vec<LayerInfo> = names
            .filter_map(|name| self.manifest(&name).ok())
            .map(|m| LayerInfo { name: m.name, version: m.version, digest: m.image_digest.to_string() })
            .collect();
        layers.sort_by(|a, b| a.name.cmp(&b.name));
        layers
    }

    fn manifest(&self, name: &str) -> Result<LayerManifest, LayersError> {
        let path = self.dir.join(name).with_added_extension("json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LayersError::Missing { name: name.into(), dir: self.dir.clone() });
            }
            Err(source) => return Err(LayersError::Read { path, source }),
        };
        let manifest: LayerManifest = serde_json::from_slice(&text)
            .map_err(|source| LayersError::Manifest { path: path.clone(), source })?;
        if Path::new(&manifest.image).file_name() != Some(manifest.image.as_ref()) {
            return Err(LayersError::ImageName { path, image: manifest.image });
        }
        Ok(manifest)
    }
}
