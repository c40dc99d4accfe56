//! What `cargo metadata` says, as far as the tasks need it.

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process::{cargo, read};

/// The resolved workspace.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
}

/// A package of the workspace or one it depends on.
#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// SPDX expression.
    pub(crate) license: Option<String>,
    /// None for the workspace's own.
    pub(crate) source: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) manifest_path: std::path::PathBuf,
}

/// A dependency as a manifest declares it.
#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `dev`, `build`, or nothing for a normal one.
    pub(crate) kind: Option<String>,
}

impl Metadata {
    /// The workspace as the lock file has it, for the machine this runs on.
    pub(crate) fn load() -> Result<Self> {
        let mut rustc = std::process::Command::new("rustc");
        rustc.arg("-vV");
        let version = read(rustc)?;
        let host =
            version.lines().find_map(|l| l.strip_prefix("host: ")).context("rustc -vV names no host")?;
        let json = read(cargo(&["metadata", "--format-version=1", "--locked", "--filter-platform", host]))?;
        serde_json::from_str(&json).context("cargo metadata printed something else than expected")
    }

    /// The workspace's own packages.
    pub(crate) fn own(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|p| p.source.is_none())
    }
}
