//! A built image in the cache.

use std::path::{Path, PathBuf};

use stratos_types::{Digest, ImageManifest, KernelChoice};

use crate::error::{VmError, at};

/// An image that `stratos image build` left in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    cache: PathBuf,
    manifest: ImageManifest,
}

impl Image {
    /// The newest image with this kernel.
    ///
    /// # Errors
    /// When none was built.
    pub fn open(cache: &Path, kernel: KernelChoice) -> Result<Self, VmError> {
        let folder = cache.join("images");
        let path = folder.join(format!("{kernel}.json"));
        let text = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(VmError::NoImage { kernel, folder });
            }
            text => text.map_err(at("read", &path))?,
        };
        let manifest = serde_json::from_slice(&text).map_err(|source| VmError::Manifest { path, source })?;
        Ok(Self { cache: cache.to_owned(), manifest })
    }

    /// What it is.
    pub fn manifest(&self) -> &ImageManifest {
        &self.manifest
    }

    /// The cache it is in.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Whether it has a file of this name.
    pub fn has(&self, name: &str) -> bool {
        self.manifest.files.iter().any(|file| file.name == name)
    }

    /// One of its files.
    ///
    /// # Errors
    /// When it has none of this name.
    pub fn file(&self, name: &str) -> Result<PathBuf, VmError> {
        match self.has(name) {
            true => Ok(self.cache.join("images").join(&self.manifest.folder).join(name)),
            false => Err(VmError::NoFile { kernel: self.manifest.kernel, name: name.to_owned() }),
        }
    }

    /// The debug layer: its disk and its root hash.
    ///
    /// # Errors
    /// When the image was built without it.
    pub fn debug(&self) -> Result<(PathBuf, Digest), VmError> {
        match self.manifest.debug_root_hash {
            Some(root_hash) => Ok((self.file("debug.img")?, root_hash)),
            None => Err(VmError::NoDebug { kernel: self.manifest.kernel }),
        }
    }

    /// The kernel for direct boot that is loaded fastest: without its own decompression where there is such a one.
    ///
    /// # Errors
    /// When it has none.
    pub fn kernel(&self) -> Result<PathBuf, VmError> {
        self.file(if self.has("vmlinux") { "vmlinux" } else { "vmlinuz" })
    }
}

#[cfg(test)]
mod tests {
    use stratos_types::ImageFile;

    use super::*;

    #[test]
    fn an_image_is_found_by_its_kernel() {
        let cache = tempfile::tempdir().unwrap();
        let missing = Image::open(cache.path(), KernelChoice::Debian).unwrap_err();
        assert_eq!(missing.hint().unwrap(), "build it with `stratos image build --kernel debian`");
        let file = |name: &str| ImageFile {
            name: name.into(),
            size: 1,
            compressed: 1,
            digest: Digest::of(name.as_bytes()),
        };
        let manifest = ImageManifest {
            version: "0.1.0".into(),
            arch: "amd64".into(),
            kernel: KernelChoice::Debian,
            kernel_version: "6.12".into(),
            inputs_digest: Digest::of(b"inputs"),
            folder: "debian-0".into(),
            root_hash: Digest::of(b"root"),
            debug_root_hash: None,
            cmdline: "quiet".into(),
            files: vec![file("disk.img"), file("vmlinuz")],
        };
        let images = cache.path().join("images");
        std::fs::create_dir(&images).unwrap();
        std::fs::write(images.join("debian.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
        let image = Image::open(cache.path(), KernelChoice::Debian).unwrap();
        assert_eq!(image.manifest(), &manifest);
        assert_eq!(image.kernel().unwrap(), images.join("debian-0/vmlinuz"));
        assert!(image.debug().unwrap_err().hint().unwrap().ends_with("--kernel debian --debug`"));
        assert_eq!(
            image.file("vmlinux").unwrap_err().to_string(),
            "the image with the debian kernel has no vmlinux"
        );
    }
}
