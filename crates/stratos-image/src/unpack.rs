//! Unpacking Debian packages and wheels into a tree.
//!
//! `dpkg-deb` reads the package format (it is there wherever apt is) and hands out a tar stream; everything after
//! that, which files are taken and where they go, is decided here.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{FileError, at};
use crate::glob;
use crate::run::{self, RunError};
use crate::tree::{Tree, TreeError, normal};

/// Why a package could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// Its content does not fit the layer.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// `dpkg-deb` failed.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl From<FileError> for UnpackError {
    fn from(error: FileError) -> Self {
        Self::Tree(error.into())
    }
}

/// Which files of a source are taken: all that match `include` (or all, when it is empty), but not `exclude` or
/// `drop`.
pub(crate) struct Selection<'a> {
    owner: &'a str,
    include: &'a [String],
    exclude: &'a [String],
    drop: &'a [String],
    matched: Vec<bool>,
}

impl<'a> Selection<'a> {
    /// `drop` are the layer-wide exclusions, which need not match anything.
    pub(crate) fn new(
        owner: &'a str,
        include: &'a [String],
        exclude: &'a [String],
        drop: &'a [String],
    ) -> Self {
        Self { owner, include, exclude, drop, matched: vec![false; include.len() + exclude.len()] }
    }

    /// Whether the file or link at `path` is taken.
    pub(crate) fn takes(&mut self, path: &str) -> bool {
        let mut hit = |patterns: &[String], offset: usize| {
            let mut any = false;
            for (index, pattern) in patterns.iter().enumerate() {
                if glob::matches(pattern, path) {
                    self.matched[offset + index] = true;
                    any = true;
                }
            }
            any
        };
        let included = hit(self.include, 0) || self.include.is_empty();
        let excluded = hit(self.exclude, self.include.len());
        included && !excluded && !self.drop.iter().any(|pattern| glob::matches(pattern, path))
    }

    /// Checks that every pattern has matched something: one that does not is a typing error, or the package changed.
    pub(crate) fn finish(self) -> Result<(), TreeError> {
        let patterns = self.include.iter().chain(self.exclude);
        match patterns.zip(&self.matched).find(|(_, matched)| !**matched) {
            Some((pattern, _)) => {
                Err(TreeError::Unmatched { owner: self.owner.to_owned(), pattern: pattern.clone() })
            }
            None => Ok(()),
        }
    }
}

/// Calls `visit` for every entry of a Debian package.
pub(crate) fn read_deb(
    file: &Path,
    mut visit: impl FnMut(&mut tar::Entry<'_, &mut dyn Read>) -> Result<(), TreeError>,
) -> Result<(), UnpackError> {
    let mut command = Command::new("dpkg-deb");
    command.arg("--fsys-tarfile").arg(file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|source| run::cannot_start("dpkg-deb", source))?;
    let mut stdout = child.stdout.take().expect("its output is piped");
    let read = (|| {
        let mut archive = tar::Archive::new(&mut stdout as &mut dyn Read);
        for entry in archive.entries().map_err(at("read", file))? {
            visit(&mut entry.map_err(at("read", file))?)?;
        }
        Ok::<(), TreeError>(())
    })();
    // Drain what follows the archive's end mark, so that a writer is not killed by a closed pipe.
    let drained = std::io::copy(&mut stdout, &mut std::io::sink());
    drop(stdout);
    let status = child.wait().map_err(at("unpack", file))?;
    read?;
    drained.map_err(at("read", file))?;
    run::check_status("dpkg-deb --fsys-tarfile", status, || file.display().to_string())?;
    Ok(())
}

/// Unpacks a Debian package.
pub(crate) fn deb(tree: &mut Tree, file: &Path, mut selection: Selection<'_>) -> Result<(), UnpackError> {
    let owner = selection.owner.to_owned();
    let mut hard_links = Vec::new();
    read_deb(file, |entry| {
        let path = entry_path(entry, &owner)?;
        let kind = entry.header().entry_type();
        if kind.is_dir() || !selection.takes(&path) {
            return Ok(());
        }
        match kind {
            tar::EntryType::Regular => {
                let executable = entry.header().mode().map_err(at("read", file))? & 0o111 != 0;
                tree.file(&path, executable, entry, &owner)
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name().map_err(at("read", file))?;
                let target = target.map(|target| target.to_string_lossy().into_owned()).unwrap_or_default();
                tree.link(&path, &target, &owner)
            }
            tar::EntryType::Link => {
                let target = entry.link_name().map_err(at("read", file))?;
                let target = target.map(|target| target.to_string_lossy().into_owned()).unwrap_or_default();
                hard_links.push((path, normal(&target, &owner)?));
                Ok(())
            }
            _ => Err(TreeError::Kind { owner: owner.clone(), path }),
        }
    })?;
    // A hard link becomes a relative symbolic link: the same content once, without link counts to keep.
    for (path, target) in hard_links {
        let up = "../".repeat(path.matches('/').count());
        tree.link(&path, &format!("{up}{target}"), &owner)?;
    }
    Ok(selection.finish()?)
}

/// The contents of the files of a Debian package that match `pattern`, sorted by path.
pub(crate) fn deb_files(file: &Path, owner: &str, pattern: &str) -> Result<Vec<Vec<u8>>, UnpackError> {
    let mut found = std::collections::BTreeMap::new();
    read_deb(file, |entry| {
        let path = entry_path(entry, owner)?;
        if entry.header().entry_type().is_file() && glob::matches(pattern, &path) {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(at("read", file))?;
            found.insert(path, content);
        }
        Ok(())
    })?;
    if found.is_empty() {
        return Err(TreeError::Unmatched { owner: owner.to_owned(), pattern: pattern.to_owned() }.into());
    }
    Ok(found.into_values().collect())
}

fn entry_path(entry: &tar::Entry<'_, &mut dyn Read>, owner: &str) -> Result<String, TreeError> {
    let bytes = entry.path_bytes();
    let path = std::str::from_utf8(&bytes).map_err(|_| TreeError::Path {
        owner: owner.to_owned(),
        path: String::from_utf8_lossy(&bytes).into_owned(),
        problem: "is not UTF-8",
    })?;
    normal(path, owner)
}

/// Unpacks the part of a wheel under the folder `strip` into the folder `to` of the tree.
pub(crate) fn wheel(
    tree: &mut Tree,
    file: &Path,
    strip: &str,
    to: &str,
    mut selection: Selection<'_>,
) -> Result<(), UnpackError> {
    let owner = selection.owner.to_owned();
    let bad = |error: zip::result::ZipError| at("read", file)(std::io::Error::other(error));
    let mut archive = zip::ZipArchive::new(File::open(file).map_err(at("open", file))?).map_err(bad)?;
    let prefix = if strip.is_empty() { String::new() } else { format!("{}/", strip.trim_end_matches('/')) };
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(bad)?;
        let name = entry.name().map_err(bad)?.into_owned();
        let Some(path) = name.strip_prefix(&prefix).map(str::to_owned) else { continue };
        if entry.is_dir() || !selection.takes(&path) {
            continue;
        }
        if entry.is_symlink() {
            return Err(TreeError::Kind { owner, path }.into());
        }
        let executable = entry.unix_mode().unwrap_or(0) & 0o111 != 0;
        tree.file(&format!("{to}/{path}"), executable, entry, &owner)?;
    }
    Ok(selection.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections_take_what_is_included_and_not_excluded() {
        let list = |items: &[&str]| items.iter().map(|i| (*i).to_owned()).collect::<Vec<_>>();
        let (include, exclude, drop) = (list(&["usr/**"]), list(&["usr/bin/x"]), list(&["**/doc/**"]));
        let mut selection = Selection::new("p", &include, &exclude, &drop);
        for (path, expected) in
            [("usr/bin/a", true), ("usr/bin/x", false), ("usr/doc/a", false), ("etc/a", false)]
        {
            assert_eq!(selection.takes(path), expected, "{path}");
        }
        selection.finish().unwrap();
        let mut selection = Selection::new("p", &include, &exclude, &drop);
        assert!(selection.takes("usr/bin/a"));
        let error = selection.finish().unwrap_err();
        assert_eq!(error.to_string(), "pattern `usr/bin/x` of p matches nothing in it");
        assert!(Selection::new("p", &[], &[], &drop).takes("anything"));
    }

    #[test]
    fn a_damaged_package_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.deb");
        std::fs::write(&file, "!<arch>\nnot a package").unwrap();
        let mut tree = Tree::new(folder.path().join("tree")).unwrap();
        assert!(deb(&mut tree, &file, Selection::new("a", &[], &[], &[])).is_err());
        assert!(wheel(&mut tree, &file, "a", "/usr", Selection::new("a", &[], &[], &[])).is_err());
    }
}
