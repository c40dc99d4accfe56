//! What it takes to make a whole Debian system of the suite and with the kernel that StratOS is made of. Benchmarks
//! compare StratOS with one.

use std::path::PathBuf;

use stratos_types::Digest;

use crate::apt;
use crate::build::{BuildOptions, Builder};
use crate::error::BuildError;
use crate::kernel;
pub use crate::sources::SUITE;

/// The package of the kernel that images with Debian's kernel have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelPackage {
    /// The kernel's own version, such as `6.12.57+deb13-cloud-amd64`.
    pub version: String,
    /// The package's file, in the cache.
    pub file: PathBuf,
    /// Digest of the file.
    pub digest: Digest,
}

/// How the archive of [`SUITE`] is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// An apt source file that names the archive, its suites and the keys that sign them.
    pub sources: PathBuf,
    /// Lines of an apt configuration: the host's proxies, certificates and the like.
    pub acquire: String,
}

/// Fetches the kernel's package, unless the cache has it.
///
/// # Errors
/// As [`build_layer`](crate::build_layer).
pub fn kernel_package(options: &BuildOptions<'_>) -> Result<KernelPackage, BuildError> {
    let mut builder = Builder::open(options)?;
    let package = builder.kernel_package()?;
    let spec = kernel::spec(&package);
    let recorded = builder.recorded(&spec)?;
    let sources = builder.fetch(&spec, recorded)?;
    let digest = sources.deb(&package).expect("fetching gives every package of a description").sha256;
    let version = package.strip_prefix(kernel::PREFIX).unwrap_or(&package).to_owned();
    Ok(KernelPackage { version, file: builder.cache.download(&digest), digest })
}

/// Finds the archive and reads its indexes, which tells whether it can be used.
///
/// # Errors
/// When it cannot.
pub fn archive(options: &BuildOptions<'_>) -> Result<Archive, BuildError> {
    let mut builder = Builder::open(options)?;
    builder.apt()?;
    let sources = builder.cache.apt().join(apt::SOURCES);
    Ok(Archive { sources, acquire: apt::host_acquire()? })
}
