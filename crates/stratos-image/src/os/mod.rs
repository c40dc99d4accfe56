//! Operating system images: from the description, the layers, the programs and a kernel to a disk that boots.
//!
//! What a machine trusts is one number, the root hash on the kernel's command line: it covers every block of the root,
//! and the root holds the hashes of every layer. Nothing here draws a random number or asks for the time: the same
//! commit gives the same bytes on every machine. `docs/image.md` tells what the files of an image are for.

mod check;
pub mod cpio;
mod disk;
mod error;
mod esp;
mod files;
mod gpt;
mod initramfs;
mod inputs;
mod make;
mod measure;
mod modules;
mod oci;
mod pack;
pub mod profile;
mod root;
mod seed;
mod state;
mod uki;
pub mod verity;

pub use error::ImageError;
pub use modules::ModuleError;

use stratos_types::{ImageManifest, KernelChoice};

use crate::build::{BuildOptions, Builder};
use crate::error::BuildError;
use crate::programs::Programs;

/// Builds the operating system image with a kernel, unless the cache has it already, and gives its manifest: its files
/// are in `images/FOLDER` of the cache.
///
/// # Errors
/// See [`BuildError`]; nothing that looks finished is left behind.
pub fn build_image(kernel: KernelChoice, options: &BuildOptions<'_>) -> Result<ImageManifest, BuildError> {
    let mut builder = Builder::open(options)?;
    let programs = builder.programs()?;
    builder.image(kernel, programs)
}

/// As [`build_image`], with programs that somebody else has built.
///
/// # Errors
/// As [`build_image`].
pub fn build_image_with(
    kernel: KernelChoice,
    programs: Programs,
    options: &BuildOptions<'_>,
) -> Result<ImageManifest, BuildError> {
    Builder::open(options)?.image(kernel, programs)
}

/// As [`build_image`], and adds the disk of the debug layer, `debug.img`, whose root hash the manifest then names.
///
/// # Errors
/// As [`build_image`].
pub fn build_debug_image(
    kernel: KernelChoice,
    options: &BuildOptions<'_>,
) -> Result<ImageManifest, BuildError> {
    let mut builder = Builder::open(options)?;
    let programs = builder.programs()?;
    let manifest = builder.image(kernel, programs)?;
    builder.debug(manifest)
}
