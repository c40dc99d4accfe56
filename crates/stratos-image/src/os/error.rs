//! What can go wrong while an operating system image is put together.

use std::path::PathBuf;

use super::modules::ModuleError;
use crate::elf::ElfError;
use crate::error::FileError;
use crate::run::RunError;
use crate::tree::TreeError;

/// Why an image was not built.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The kernel's modules cannot be taken.
    #[error("the initramfs cannot be assembled")]
    Modules(#[from] ModuleError),
    /// The root's files do not fit together.
    #[error("the root cannot be assembled")]
    Tree(#[from] TreeError),
    /// A program of the root would not run: it holds no loader and no library, so all have to be static.
    #[error("a program of the root is not static")]
    Elf(#[from] ElfError),
    /// Root or initramfs hold something that StratOS promises not to have.
    #[error("{place} holds {path}, which {problem}")]
    Forbidden {
        /// `root` or `initramfs`.
        place: &'static str,
        /// The file.
        path: String,
        /// Why it must not be there.
        problem: &'static str,
    },
    /// A program that takes part in the build failed.
    #[error("{step} failed")]
    Run {
        /// What it was run for.
        step: &'static str,
        /// How it failed.
        source: RunError,
    },
    /// A part is larger than its partition.
    #[error("{what} takes {size} bytes, its partition has {room}; distro/image/stratos.toml gives its size")]
    TooLarge {
        /// The part.
        what: &'static str,
        /// Its size.
        size: u64,
        /// The partition's size.
        room: u64,
    },
    /// The EFI stub cannot be made into a kernel image.
    #[error("{} cannot begin a unified kernel image: {problem}", path.display())]
    Stub {
        /// The stub.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file of the image or the cache could not be used.
    #[error(transparent)]
    File(#[from] FileError),
}
