//! The kernel of the virtual machine that tests boot: Debian's own for virtual machines.
//!
//! Its package is named after its version, so no description can list it as it would another. The lock's entry names
//! it; when the archive no longer has that one, Debian's metapackage does, which depends on the newest.

use std::path::PathBuf;

use stratos_types::{Digest, KernelChoice};

use crate::arch;
use crate::build::{BuildOptions, Builder};
use crate::error::BuildError;
use crate::spec::{Deb, LayerSpec, VersionSource};

/// What the packages of all kernels are named by.
pub(crate) const PREFIX: &str = "linux-image-";

/// Fetches the locked kernel package, unless the cache has it, and gives the folder of its files: the kernel in
/// `boot`, its modules in `usr/lib/modules`.
///
/// # Errors
/// As [`build_layer`](crate::build_layer).
pub fn fetch_kernel(options: &BuildOptions<'_>) -> Result<PathBuf, BuildError> {
    let mut builder = Builder::open(options)?;
    let package = builder.kernel_package()?;
    builder.unpacked(&spec(&package))
}

/// A kernel for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) version: String,
    pub(crate) image: PathBuf,
    pub(crate) vmlinux: Option<PathBuf>,
    pub(crate) modules: Option<PathBuf>,
    pub(crate) owner: String,
    pub(crate) digest: Digest,
}

impl Builder<'_> {
    /// The kernel of a choice; only Debian's for now.
    pub(crate) fn kernel(&mut self, _choice: KernelChoice) -> Result<Kernel, BuildError> {
        let owner = self.kernel_package()?;
        let folder = self.unpacked(&spec(&owner))?;
        let version = owner.trim_start_matches(PREFIX).to_owned();
        Ok(Kernel {
            image: folder.join(format!("boot/vmlinuz-{version}")),
            vmlinux: None,
            modules: Some(folder.join("usr/lib/modules").join(&version)),
            digest: self.recorded(&spec(&owner))?.sources.digest(),
            owner,
            version,
        })
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
        reason: "the kernel of the tests' virtual machine".to_owned(),
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
