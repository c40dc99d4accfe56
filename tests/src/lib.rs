//! The test kit: starts real nodes, deploys real functions, and looks after what they leave behind.
//!
//! A [`Node`] is a `stratosd` of this build with a state folder and a socket of its own; it is stopped, and its
//! traces on the machine are gone, when it is dropped. Tests that need root call [`need_root`] first.

pub mod api;
pub mod browser;
pub mod checkpoints;
pub mod functional;
pub mod go;
pub mod guest;
pub mod machine;
pub mod node;
pub mod otlp_client;
pub mod package;
mod pip;
pub mod python_clients;
pub mod redact;
pub mod schema;
pub mod session;
pub mod tcp;
pub mod vm;

pub use api::{Answer, Api};
pub use browser::Browser;
pub use guest::{Guest, Workshop};
pub use node::{Node, NodeBuilder};
pub use package::Package;
pub use session::Session;

use std::path::{Path, PathBuf};

/// Whether the test can run. Without root it is skipped by name on a developer's machine and fails in CI.
///
/// # Panics
/// In CI without root.
pub fn need_root(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{test}: this tier needs root, and CI is meant to run it");
    eprintln!("skipped: {test} (needs root: namespaces, mounts, cgroups)");
    false
}

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is inside the repository")
}

/// A program of this build: beside the test's own executable, or one folder up.
///
/// # Panics
/// When it was not built.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a process knows its executable");
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    beside.unwrap_or_else(|| panic!("`{name}` is not built; run `cargo build --workspace` first"))
}

/// The cache folder of builds.
///
/// # Panics
/// When nothing tells where it is.
pub fn cache_dir() -> PathBuf {
    stratos_image::default_cache_dir().expect("HOME is set")
}

/// The folder with built layers.
///
/// # Panics
/// When nothing tells where it is.
pub fn layers_dir() -> PathBuf {
    let named = std::env::var_os("STRATOS_LAYERS").filter(|v| !v.is_empty()).map(PathBuf::from);
    named.unwrap_or_else(|| cache_dir().join("layers"))
}
