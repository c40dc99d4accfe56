//! Debian's kernel for virtual machines, which images have by default and tests boot.
//!
//! Its package is named after its version, so no description can list it as it would another. The lock's entry names
//! it; when the archive no longer has that one, Debian's metapackage does, which depends on the newest.

use std::path::{Path, PathBuf};

use super::Kernel;
use crate::arch;
use crate::build::{BuildOptions, Builder};
use crate::error::{BuildError, FileError, at};
use crate::spec::{Deb, LayerSpec, VersionSource};

/// What the packages of all kernels are named by.
pub(crate) const PREFIX: &str = "linux-image-";

/// Fetches the locked kernel package, unless the cache has it, and gives the folder of its files: the kernel in
/// `boot`, its modules in `usr/lib/modules`.
///
/// # Errors
/// As [`build_kernel`](crate::build_kernel).
pub fn fetch_kernel(options: &BuildOptions<'_>) -> Result<PathBuf, BuildError> {
    let mut builder = Builder::open(options)?;
    let package = builder.kernel_package()?;
    builder.unpacked(&spec(&package))
}

impl Builder<'_> {
    /// Debian's kernel, fetched unless the cache has it.
    pub(super) fn debian_kernel(&mut self) -> Result<Kernel, BuildError> {
        let owner = self.kernel_package()?;
        let spec = spec(&owner);
        let folder = self.unpacked(&spec)?;
        let digest = self.recorded(&spec)?.sources.digest();
        let modules = only_entry(&folder.join("usr/lib/modules"), "")?;
        let version = modules.file_name().expect("it was found in a folder").to_string_lossy().into_owned();
        let image = only_entry(&folder.join("boot"), "vmlinuz-")?;
        Ok(Kernel { version, image, vmlinux: None, modules: Some(modules), owner, digest })
    }

    /// The name of the locked kernel's package, or of the newest, where the locked one can no longer be had.
    pub(crate) fn kernel_package(&mut self) -> Result<String, BuildError> {
        let is_kernel = |name: &str| name.starts_with(PREFIX);
        let locked = self.lock.deb.iter().find(|deb| is_kernel(&deb.name) && deb.arch == arch::debian());
        if let Some(locked) = locked.cloned() {
            let had = self.options.locked || self.cache.has(&locked.sha256)?;
            if had
                || self
                    .apt()?
                    .offers([locked.name.as_str()])?
                    .version(&locked.name, &locked.version)
                    .is_some()
            {
                return Ok(locked.name);
            }
        }
        self.newest_kernel()
    }

    /// The name of the newest kernel's package.
    pub(crate) fn newest_kernel(&mut self) -> Result<String, BuildError> {
        Ok(self.apt()?.first_dependency(&format!("{PREFIX}cloud-{}", arch::debian()))?)
    }
}

pub(crate) fn spec(package: &str) -> LayerSpec {
    let deb = Deb {
        name: package.to_owned(),
        reason: "Debian's kernel for virtual machines".to_owned(),
        include: vec![
            "boot/vmlinuz-*".to_owned(),
            "usr/lib/modules/*/kernel/**".to_owned(),
            "usr/lib/modules/*/modules.builtin".to_owned(),
        ],
        exclude: Vec::new(),
    };
    LayerSpec {
        name: "kernel".to_owned(),
        reason: deb.reason.clone(),
        base: None,
        version: VersionSource::Package { package: package.to_owned() },
        deb: vec![deb],
        wheel: Vec::new(),
        copy: Vec::new(),
        text: Vec::new(),
        symlink: Vec::new(),
        ca_bundle: None,
        bytecode: None,
        exclude: Vec::new(),
        mountpoints: Vec::new(),
    }
}

/// The entry of a folder whose name begins with `prefix`: the package holds one.
fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf, FileError> {
    let entries = std::fs::read_dir(folder).map_err(at("list", folder))?;
    let paths: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(at("list", folder))?;
    let named =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    paths.retain(named);
    paths.sort();
    let missing = || at("find a kernel in", folder)(std::io::ErrorKind::NotFound.into());
    paths.into_iter().next().ok_or_else(missing)
}
