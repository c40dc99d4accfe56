//! The runtime layers on this node: verified, mounted once, shared by every instance.
//!
//! A layer that is a file is read and compared with its digest before it is mounted. A layer of a StratOS disk is a
//! device of which the kernel checks every block as it is read (dm-verity), so its digest need not be; a block that is not what
//! it should be is a read error, then or later. Of both, large programs are read whole where there is memory for that.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use stratos_api::LayerInfo;
use stratos_sandbox::{Image, MountError, Sandbox};
use stratos_types::{Digest, LayerManifest};
use tempfile::NamedTempFile;

use crate::warm::recording::Owner;
use crate::warm::{Source, text};
use stratos_sys::pages::huge_pages_fit;

/// Where the devices of packed layers are.
const DEVICES: &str = "/dev/mapper";
/// How the names of files begin that are being written.
const PARTIAL: &str = ".layer-";

/// A layer, ready to be an instance's root.
pub struct Layer {
    /// What it is.
    pub manifest: LayerManifest,
    /// Its mounted image.
    pub image: Arc<Image>,
}

impl Layer {
    /// Its image, for what is read ahead.
    pub fn source(&self) -> Source {
        let of = Owner::Layer(self.manifest.name.clone());
        Source { of, digest: self.manifest.image_digest, image: Arc::clone(&self.image) }
    }

    /// True when the kernel has met blocks of it that are not what its manifest stands for.
    pub fn is_damaged(&self) -> bool {
        self.manifest.packed.is_some()
            && stratos_sys::verity::is_damaged(&device_name(&self.manifest.name)).unwrap_or_else(|error| {
                tracing::warn!(layer = self.manifest.name, %error, "cannot tell whether a layer is damaged");
                false
            })
    }
}

/// The device that PID 1 makes of a packed layer.
fn device_name(layer: &str) -> String {
    format!("layer-{layer}")
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
    /// The manifest is that of another layer.
    #[error("{path} is the manifest of the layer `{name}`")]
    Name {
        /// Which manifest.
        path: PathBuf,
        /// What it says it is.
        name: String,
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
    /// PID 1 made no device of a packed layer.
    #[error("the layer `{name}` has no device {path}")]
    Device {
        /// Which layer.
        name: String,
        /// Where its device should be.
        path: PathBuf,
    },
    /// A layer from elsewhere cannot be kept.
    #[error("cannot keep the layer `{name}` in {dir}")]
    Install {
        /// Which layer.
        name: String,
        /// Where.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
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

impl LayersError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Device { .. } => "`stratos node boot` tells why PID 1 made none",
            Self::Mount { path, .. } if path.starts_with(DEVICES) => {
                "`stratos node logs --source kernel` tells what is wrong with it"
            }
            Self::Install { .. } => "free space, or make the folder writable (--layers)",
            _ => "`stratos layer build` makes the layers",
        }
    }
}

/// A layer once it is mounted. Each has a lock of its own, so that one is not waited for while another is verified.
type Slot = Arc<Mutex<Option<Arc<Layer>>>>;

/// The layers in one folder.
pub struct Layers {
    dir: PathBuf,
    devices: PathBuf,
    sandbox: Arc<Sandbox>,
    mounted: Mutex<HashMap<String, Slot>>,
    /// Whether this machine has the memory to keep programs whole.
    large_pages: bool,
}

impl Layers {
    /// The layers of a folder; nothing is read before it is asked for.
    pub fn new(dir: PathBuf, sandbox: Arc<Sandbox>) -> Self {
        Self {
            dir,
            devices: DEVICES.into(),
            sandbox,
            mounted: Mutex::default(),
            large_pages: huge_pages_fit(),
        }
    }

    /// The same with another folder for the devices of packed layers.
    #[must_use]
    pub fn with_devices(self, devices: PathBuf) -> Self {
        Self { devices, ..self }
    }

    /// A layer by its name. The first call reads and verifies the whole image of a layer that is a file, which takes a
    /// moment: not for a thread that must not block.
    ///
    /// # Errors
    /// When it is missing, damaged or cannot be mounted.
    pub fn get(&self, name: &str) -> Result<Arc<Layer>, LayersError> {
        let known = self.mounted.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        // The manifest first: names that are none take no place.
        let slot = match known {
            Some(slot) => slot,
            None => {
                self.manifest(name)?;
                let mut mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(mounted.entry(name.to_owned()).or_default())
            }
        };
        // Held while verifying: two functions that start at the same time need it read only once.
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = &*slot {
            return Ok(Arc::clone(layer));
        }
        let manifest = self.manifest(name)?;
        let path = match &manifest.packed {
            Some(_) => self.device(&manifest)?,
            None => self.verified(&manifest)?,
        };
        let image = self
            .sandbox
            .mount_image(&path)
            .map_err(|source| LayersError::Mount { path: path.clone(), source })?;
        if self.large_pages {
            match text::read(image.mount_point()) {
                Ok(bytes) => tracing::debug!(layer = name, bytes, "read programs in large pages"),
                // Everything works without, a little slower. A block that cannot be read is met again by who needs it.
                Err(error) => tracing::debug!(layer = name, %error, "programs are read in small pages"),
            }
        }
        let layer = Arc::new(Layer { manifest, image });
        *slot = Some(Arc::clone(&layer));
        Ok(layer)
    }

    /// A layer's image, to be read. What it gives is to be compared with the layer's manifest.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_image(&self, layer: &Layer) -> Result<File, LayersError> {
        let path = match &layer.manifest.packed {
            Some(_) => self.device(&layer.manifest)?,
            None => self.dir.join(&layer.manifest.image),
        };
        File::open(&path).map_err(|source| LayersError::Read { path, source })
    }

    /// Removes what is left of layers that were being added when an agent ended.
    pub fn sweep(&self) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if !entry.file_name().as_encoded_bytes().starts_with(PARTIAL.as_bytes()) {
                continue;
            }
            let path = entry.path();
            // One that is locked is being written, by another agent that uses the folder.
            let removed = File::open(&path).and_then(|file| {
                file.try_lock()?;
                std::fs::remove_file(&path)
            });
            if let Err(error) = removed {
                tracing::warn!(path = %path.display(), %error, "a part of a layer is left in its folder");
            }
        }
    }

    /// Adds a layer that is not here yet. What `image` gives must be what `manifest` says; it is compared once more before
    /// it is mounted.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn install(&self, manifest: &LayerManifest, image: &mut impl Read) -> Result<(), LayersError> {
        let mut write = || -> io::Result<()> {
            std::fs::create_dir_all(&self.dir)?;
            let mut file = partial(&self.dir)?;
            io::copy(image, &mut file)?;
            persist(file, &self.dir.join(&manifest.image))?;
            // The manifest is what makes the layer exist, so it comes last.
            let mut file = partial(&self.dir)?;
            file.write_all(&serde_json::to_vec_pretty(manifest)?)?;
            persist(file, &self.dir.join(&manifest.name).with_added_extension("json"))?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(|source| LayersError::Install {
            name: manifest.name.clone(),
            dir: self.dir.clone(),
            source,
        })
    }

    /// The device of a packed layer. What it gives is what the manifest says, or an error.
    fn device(&self, manifest: &LayerManifest) -> Result<PathBuf, LayersError> {
        let path = self.devices.join(device_name(&manifest.name));
        match path.exists() {
            true => Ok(path),
            false => Err(LayersError::Device { name: manifest.name.clone(), path }),
        }
    }

    /// The image of a layer that is a file, once all of it is what the manifest says.
    fn verified(&self, manifest: &LayerManifest) -> Result<PathBuf, LayersError> {
        let path = self.dir.join(&manifest.image);
        let read = |source| LayersError::Read { path: path.clone(), source };
        let found = Digest::of_reader(File::open(&path).map_err(read)?).map_err(read)?;
        match found == manifest.image_digest {
            true => Ok(path),
            false => Err(LayersError::Digest { path, expected: manifest.image_digest, found }),
        }
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

    /// True when there is a layer of this name, usable or not.
    pub fn has(&self, name: &str) -> bool {
        !matches!(self.manifest(name), Err(LayersError::Missing { .. }))
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
        if manifest.name != name {
            return Err(LayersError::Name { path, name: manifest.name });
        }
        if Path::new(&manifest.image).file_name() != Some(manifest.image.as_ref()) {
            return Err(LayersError::ImageName { path, image: manifest.image });
        }
        Ok(manifest)
    }
}

/// A file that is not yet what it will be, and no agent's left-over while it is open.
fn partial(dir: &Path) -> io::Result<NamedTempFile> {
    let file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(dir)?;
    file.as_file().lock()?;
    Ok(file)
}

fn persist(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}
