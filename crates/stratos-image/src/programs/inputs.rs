//! Which files of the repository the programs are compiled from.
//!
//! Those are the packages' own, those of the workspace's packages that they depend on, and the files that these include
//! by `include_str!` or `include_bytes!`. All other packages of the workspace are there by name only, as empty files,
//! since cargo wants to find what the workspace's manifest names; so a change in them builds nothing anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::error::{FileError, at};
use crate::run::{self, RunError};

/// Why it could not be told what to compile.
#[derive(Debug, thiserror::Error)]
pub enum InputsError {
    /// cargo could not read the workspace.
    #[error("cargo cannot read the workspace")]
    Metadata(#[source] RunError),
    /// cargo described the workspace in a way that is not understood.
    #[error("cargo's description of the workspace is not understood")]
    Parse(#[source] serde_json::Error),
    /// The workspace lacks a package.
    #[error("the workspace has no package {0}")]
    Package(String),
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Content by path, relative to the repository.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    path: Option<PathBuf>,
    kind: Option<String>,
}

impl Package {
    fn folder(&self) -> &Path {
        self.manifest_path.parent().expect("a manifest is in a folder")
    }
}

/// The files that some packages are compiled from.
pub(super) fn collect(repository: &Path, packages: &[&str]) -> Result<Files, InputsError> {
    let repository = repository.canonicalize().map_err(at("find", repository))?;
    let mut command = Command::new("cargo");
    command.args(["metadata", "--no-deps", "--offline", "--locked", "--format-version=1"]);
    let output = run::output(command.current_dir(&repository)).map_err(InputsError::Metadata)?;
    let metadata: Metadata = serde_json::from_slice(&output.stdout).map_err(InputsError::Parse)?;
    let needed = needed(&metadata, packages)?;
    let mut files = Files::new();
    for name in ["Cargo.toml", "Cargo.lock"] {
        read(&repository, &repository.join(name), &mut files)?;
    }
    // Such as the fuzz targets, which are no member of the workspace, but which its tests depend on.
    let named = metadata.packages.iter().flat_map(|package| &package.dependencies);
    let named: BTreeSet<&Path> = named.filter_map(|of| of.path.as_deref()).collect();
    for folder in named.into_iter().filter(|folder| folder.starts_with(&repository)) {
        add(&repository, folder, false, &mut files)?;
    }
    for package in &metadata.packages {
        add(&repository, package.folder(), needed.contains(package.folder()), &mut files)?;
    }
    let included: BTreeSet<PathBuf> = files
        .iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .flat_map(|(path, content)| included(Path::new(path), &String::from_utf8_lossy(content)))
        .collect();
    for path in included {
        // Those of a test module may be of a package that is not needed; those of another are read already.
        if repository.join(&path).is_file() {
            read(&repository, &repository.join(&path), &mut files)?;
        }
    }
    Ok(files)
}

/// The folders of packages and of those of the workspace that they are compiled with.
fn needed<'a>(metadata: &'a Metadata, packages: &[&str]) -> Result<BTreeSet<&'a Path>, InputsError> {
    let mut needed = BTreeSet::new();
    let mut open = Vec::new();
    for name in packages {
        let package = metadata.packages.iter().find(|package| package.name == *name);
        open.push(package.ok_or_else(|| InputsError::Package((*name).to_owned()))?);
    }
    while let Some(package) = open.pop() {
        if needed.insert(package.folder()) {
            let compiled = package.dependencies.iter().filter(|of| of.kind.as_deref() != Some("dev"));
            let folders: BTreeSet<&Path> = compiled.filter_map(|of| of.path.as_deref()).collect();
            open.extend(metadata.packages.iter().filter(|package| folders.contains(package.folder())));
        }
    }
    Ok(needed)
}

/// Adds the files of a package: all that it may be compiled from, if it is needed, else only their names.
fn add(repository: &Path, folder: &Path, needed: bool, files: &mut Files) -> Result<(), FileError> {
    let mut open = vec![folder.to_owned()];
    while let Some(place) = open.pop() {
        for entry in std::fs::read_dir(&place).map_err(at("list", &place))? {
            let path = entry.map_err(at("list", &place))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    open.push(path);
                }
                continue;
            }
            let inner = path.strip_prefix(folder).expect("it was found in there");
            let test = ["tests", "benches", "examples"].iter().any(|part| inner.starts_with(part));
            if name == "Cargo.toml" || (needed && !test) {
                read(repository, &path, files)?;
            } else if name.ends_with(".rs") {
                files.insert(relative(repository, &path), Vec::new());
            }
        }
    }
    Ok(())
}

fn read(repository: &Path, path: &Path, files: &mut Files) -> Result<(), FileError> {
    let content = std::fs::read(path).map_err(at("read", path))?;
    files.insert(relative(repository, path), content);
    Ok(())
}

fn relative(repository: &Path, path: &Path) -> String {
    path.strip_prefix(repository).unwrap_or(path).to_string_lossy().into_owned()
}

/// The files that a source file at `path` includes, relative to the repository.
fn included(path: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for start in ["include_str!(\"", "include_bytes!(\""] {
        for (at, _) in text.match_indices(start) {
            let name = text[at + start.len()..].split('"').next().unwrap_or_default();
            found.extend(joined(path.parent().unwrap_or(Path::new("")), name));
        }
    }
    found
}

/// `name`, as seen from `folder`; None when that is outside of the repository.
fn joined(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut parts = Vec::new();
    for part in folder.join(name).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_owned()),
            Component::ParentDir => drop(parts.pop()?),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.into_iter().collect())
}

/// Makes a folder hold these files and no others. Files that do not change keep their times, by which cargo tells what
/// to compile anew.
pub(super) fn write(files: &Files, folder: &Path) -> Result<(), FileError> {
    remove_others(files, folder, folder)?;
    for (path, content) in files {
        let place = folder.join(path);
        if std::fs::read(&place).is_ok_and(|old| old == *content) {
            continue;
        }
        let parent = place.parent().expect("a file is in a folder");
        std::fs::create_dir_all(parent).map_err(at("create", parent))?;
        std::fs::write(&place, content).map_err(at("write", &place))?;
    }
    Ok(())
}

fn remove_others(files: &Files, root: &Path, folder: &Path) -> Result<(), FileError> {
    for entry in std::fs::read_dir(folder).map_err(at("list", folder))? {
        let path = entry.map_err(at("list", folder))?.path();
        if path.is_dir() {
            remove_others(files, root, &path)?;
        } else if !files.contains_key(&relative(root, &path)) {
            std::fs::remove_file(&path).map_err(at("remove", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn included_files_are_found_inside_the_repository_only() {
        let text = "const A: &str = include_str!(\"../../data/a.json\");\n\
                    const B: &[u8] = include_bytes!(\"b.bin\"); include_str!(\"../../../../etc/passwd\")";
        let found = included(Path::new("crates/x/src/lib.rs"), text);
        assert_eq!(found, [PathBuf::from("crates/data/a.json"), PathBuf::from("crates/x/src/b.bin")]);
    }

    #[test]
    fn programs_are_made_from_their_packages_alone() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let files = collect(&repository, &["stratos-agent"]).unwrap();
        for whole in ["Cargo.lock", "crates/stratos-agent/src/lib.rs", "distro/seccomp/base.json"] {
            assert!(files.get(whole).is_some_and(|content| !content.is_empty()), "{whole}");
        }
        assert!(files["crates/stratos-image/src/lib.rs"].is_empty(), "it is there by name only");
        assert!(!files["xtask/Cargo.toml"].is_empty());
        assert!(!files.keys().any(|path| path.contains("target/")), "nothing that was built");
        assert!(matches!(collect(&repository, &["none"]), Err(InputsError::Package(name)) if name == "none"));
    }

    #[test]
    fn files_are_written_once_and_others_removed() {
        let folder = tempfile::tempdir().unwrap();
        let files: Files =
            [("a/b.rs", "1"), ("c", "2")].map(|(path, text)| (path.into(), text.into())).into();
        std::fs::create_dir(folder.path().join("old")).unwrap();
        std::fs::write(folder.path().join("old/x.rs"), "x").unwrap();
        write(&files, folder.path()).unwrap();
        let time = || std::fs::metadata(folder.path().join("a/b.rs")).unwrap().modified().unwrap();
        let before = time();
        write(&files, folder.path()).unwrap();
        assert_eq!(time(), before);
        assert!(!folder.path().join("old/x.rs").exists());
        assert_eq!(std::fs::read(folder.path().join("c")).unwrap(), b"2");
    }
}
