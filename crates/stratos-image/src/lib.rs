//! Builds runtime layers from locked packages into read-only EROFS images.
//!
//! A layer is described in `distro/layers/NAME.toml` ([`LayerSpec`]), its packages are pinned in `distro/stratos.lock`
//! ([`Lock`]), and [`build_layer`] turns both into `layers/NAME-DIGEST.erofs` in the cache, with a
//! [`LayerManifest`](stratos_types::LayerManifest) beside it. The digest in the name is that of everything the image
//! is made from, so that a build with nothing new to do does nothing.
//!
//! The host gives apt (with `dpkg-deb` and Debian's archive keys) and its configuration of archives, proxies and
//! certificates. All else, also `mkfs.erofs` and the pip that fetches wheels, comes from locked packages and runs out
//! of the cache by its own loader: no root, nothing installed, the same bytes on every host.
//!
//! Nothing here ever runs a package's own scripts, follows a dependency, or accepts an unsigned index.

mod apt;
pub mod arch;
mod assemble;
mod build;
mod buildtree;
mod cache;
pub mod debian;
mod elf;
mod erofs;
mod error;
pub mod glob;
mod inside;
mod kernel;
pub mod lock;
pub mod os;
mod pip;
mod programs;
mod progress;
mod resolve;
mod run;
mod sources;
pub mod spec;
mod tree;
mod unpack;
mod watch;

pub use apt::AptError;
pub use build::{BuildOptions, build_all, build_layer};
pub use buildtree::{BuildTreeSpec, Wanted};
pub use cache::default_cache_dir;
pub use elf::ElfError;
pub use error::{BuildError, FileError, RELOCK_COMMAND};
pub use kernel::{Fragment, Kernel, KernelConfig, KernelError, Setting, build_kernel, fetch_kernel};
pub use lock::{Lock, LockError};
pub use os::cpio::Archive;
pub use os::{ImageError, ModuleError, build_debug_image, build_image, build_image_with};
pub use pip::PipError;
pub use programs::{InputsError, Programs, ProgramsError, ToolchainError, build_programs};
pub use progress::{Progress, Silent, Step};
pub use resolve::{LockChange, relock};
pub use run::RunError;
pub use sources::SourcesError;
pub use spec::{LayerSpec, SpecError};
pub use tree::TreeError;
