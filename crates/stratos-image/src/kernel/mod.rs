//! Kernels, by choice: Debian's for virtual machines, whose modules go into the initramfs, and StratOS's own, which
//! has everything built in and is compiled once for each source, configuration and compiler.

mod config;
mod debian;
mod own;

use std::path::PathBuf;

use stratos_types::{Digest, KernelChoice};

pub use config::{Fragment, KernelConfig, KernelError, Setting};
pub use debian::fetch_kernel;
pub(crate) use debian::{PREFIX, spec};

use crate::build::{BuildOptions, Builder};
use crate::error::BuildError;

/// A kernel, ready to be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its release, as `uname -r` tells it.
    pub version: String,
    /// The kernel that firmware and boot loaders start: on amd64 a bzImage.
    pub image: PathBuf,
    /// The same kernel uncompressed, for machine monitors that start it by PVH; Debian ships none.
    pub vmlinux: Option<PathBuf>,
    /// The folder of its modules, `lib/modules/VERSION`; None when nothing is a module.
    pub modules: Option<PathBuf>,
    /// The package that it comes from or whose source it is made from.
    pub owner: String,
    /// Digest of everything it is made from.
    pub digest: Digest,
}

/// Fetches or builds a kernel, unless the cache has it.
///
/// # Errors
/// See [`BuildError`]; nothing that looks finished is left behind.
pub fn build_kernel(choice: KernelChoice, options: &BuildOptions<'_>) -> Result<Kernel, BuildError> {
    Builder::open(options)?.kernel(choice)
}

impl Builder<'_> {
    /// A kernel, fetched or built unless the cache has it. Building the own one lets other builds use the cache
    /// meanwhile, so temporary folders must not be in use.
    pub(crate) fn kernel(&mut self, choice: KernelChoice) -> Result<Kernel, BuildError> {
        match choice {
            KernelChoice::Debian => self.debian_kernel(),
            KernelChoice::Stratos => self.own_kernel(),
        }
    }
}
