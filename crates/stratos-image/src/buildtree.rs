//! Build trees: compilers and what they need, unpacked from locked packages, as the root that programs run in.
//!
//! A tree is described in `distro/build/NAME.toml`, which names the packages that are wanted and why. What those depend
//! on is resolved by apt when the lock is written, and stands in the lock, so that a build resolves nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use stratos_types::Digest;

use crate::build::Builder;
use crate::error::{BuildError, at};
use crate::lock::{LockedTree, Sources};
use crate::progress::Step;
use crate::spec::{Deb, LayerSpec, SpecError, Symlink, VersionSource};
use crate::tree::Tree;
use crate::{arch, assemble, cache, lock};

/// Where the descriptions are, relative to the repository.
const FOLDER: &str = "distro/build";
/// Raised when the way trees are made changes.
const FORMAT: u32 = 1;

/// How many trees of one name the cache keeps: the newest, and the one before, in which something may be compiling.
const KEPT: usize = 2;

/// The description of a build tree.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BuildTreeSpec {
    /// Its name; also the file's name without `.toml`.
    pub name: String,
    /// What is built in it.
    pub reason: String,
    /// Packages that are wanted.
    pub deb: Vec<Wanted>,
    /// Packages that others depend on, but that the tree does without.
    #[serde(default)]
    pub omit: Vec<Wanted>,
    /// Symbolic links that packages' own scripts would make.
    #[serde(default)]
    pub symlink: Vec<Symlink>,
    /// Patterns left out of every package.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Empty folders to mount on.
    pub mountpoints: Vec<String>,
}

/// A package and why it is, or is not, in a build tree.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// The package's name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// An unpacked build tree.
#[derive(Debug, Clone)]
pub(crate) struct BuildTree {
    /// Where it is.
    pub(crate) root: PathBuf,
    /// Digest of all that it is made from.
    pub(crate) digest: Digest,
    /// Its packages.
    pub(crate) sources: Sources,
}

impl BuildTreeSpec {
    /// Reads the description of one tree.
    ///
    /// # Errors
    /// A file that cannot be read or is wrong.
    pub fn load(repo_root: &Path, name: &str) -> Result<Self, SpecError> {
        let file = repo_root.join(FOLDER).join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&file).map_err(at("read", &file))?;
        Self::parse(&text, &file)
    }

    /// Reads the descriptions of all trees, by name. Without the folder there are none.
    ///
    /// # Errors
    /// As [`BuildTreeSpec::load`].
    pub fn load_all(repo_root: &Path) -> Result<Vec<Self>, SpecError> {
        let folder = repo_root.join(FOLDER);
        let mut names = Vec::new();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at("list", &folder)(error).into()),
        };
        for entry in entries {
            let path = entry.map_err(at("list", &folder))?.path();
            if let (Some(stem), Some("toml")) = (path.file_stem(), path.extension().and_then(|e| e.to_str()))
            {
                names.push(stem.to_string_lossy().into_owned());
            }
        }
        names.sort();
        names.iter().map(|name| Self::load(repo_root, name)).collect()
    }

    /// Parses a description found in `file`.
    ///
    /// # Errors
    /// Unknown or missing keys, and values that make no sense.
    pub fn parse(text: &str, file: &Path) -> Result<Self, SpecError> {
        let spec: Self = toml::from_str(text)
            .map_err(|source| SpecError::Parse { file: file.to_owned(), source: Box::new(source) })?;
        let wrong = |key: &str, problem: &str| {
            let (key, problem) = (key.to_owned(), problem.to_owned());
            Err(SpecError::Invalid { file: file.to_owned(), key, problem })
        };
        if file.file_stem().is_none_or(|stem| stem != spec.name.as_str()) {
            return wrong("name", "has to be the file's name without .toml");
        }
        let mut seen = BTreeSet::new();
        for package in spec.deb.iter().chain(&spec.omit) {
            if !seen.insert(&package.name) {
                return wrong(&package.name, "is listed twice");
            }
            let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
            if !package.name.starts_with(|c: char| c.is_ascii_alphanumeric())
                || !package.name.chars().all(legal)
            {
                return wrong(&package.name, "is not a package name");
            }
        }
        let reasons = (spec.deb.iter().chain(&spec.omit).map(|x| (&x.name, &x.reason)))
            .chain(spec.symlink.iter().map(|x| (&x.path, &x.reason)))
            .chain([(&spec.name, &spec.reason)]);
        for (key, reason) in reasons {
            if reason.trim().is_empty() {
                return wrong(key, "its `reason` is empty");
            }
        }
        for path in spec.mountpoints.iter().chain(spec.symlink.iter().map(|x| &x.path)) {
            if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
                return wrong(path, "has to be an absolute path without `..`");
            }
        }
        Ok(spec)
    }

    /// What fetching and unpacking knows: a description in which every package is listed.
    fn listed(&self, packages: &[String]) -> LayerSpec {
        let deb = packages.iter().map(|name| Deb {
            name: name.clone(),
            reason: self.reason.clone(),
            include: Vec::new(),
            exclude: Vec::new(),
        });
        LayerSpec {
            name: format!("build-{}", self.name),
            reason: self.reason.clone(),
            base: None,
            version: VersionSource::Package { package: self.deb[0].name.clone() },
            deb: deb.collect(),
            wheel: Vec::new(),
            copy: Vec::new(),
            text: Vec::new(),
            symlink: Vec::new(),
            ca_bundle: None,
            bytecode: None,
            exclude: self.exclude.clone(),
            mountpoints: Vec::new(),
        }
    }
}

impl Builder<'_> {
    /// Everything a tree's packages depend on, without what the tree omits, as the archive has it now.
    pub(crate) fn resolve_tree(&mut self, spec: &BuildTreeSpec) -> Result<LockedTree, BuildError> {
        let wanted: Vec<&str> = spec.deb.iter().map(|deb| deb.name.as_str()).collect();
        let mut all = self.apt()?.with_dependencies(&wanted)?;
        all.retain(|name| !spec.omit.iter().any(|omitted| omitted.name == *name));
        let packages = all.into_iter().collect();
        Ok(LockedTree { name: spec.name.clone(), arch: arch::debian().to_owned(), packages })
    }

    /// The names of all packages of a tree: as locked, or as resolved now, where the lock does not have them.
    fn tree_packages(&mut self, spec: &BuildTreeSpec) -> Result<Vec<String>, BuildError> {
        let locked = self.lock.tree(&spec.name, arch::debian()).unwrap_or_default();
        let missing = spec.deb.iter().find(|deb| !locked.contains(&deb.name));
        let Some(missing) = missing else {
            let kept = locked.iter().filter(|name| !spec.omit.iter().any(|omitted| omitted.name == **name));
            return Ok(kept.cloned().collect());
        };
        if self.options.locked {
            return Err(BuildError::NotLocked {
                layer: format!("build-{}", spec.name),
                package: missing.name.clone(),
                lock: self.options.repo_root.join(lock::LOCK_FILE),
            });
        }
        self.options.progress.step(&format!("build-{}", spec.name), Step::Resolve);
        Ok(self.resolve_tree(spec)?.packages)
    }

    /// A build tree, unpacked in the cache.
    pub(crate) fn build_tree(&mut self, name: &str) -> Result<BuildTree, BuildError> {
        let spec = BuildTreeSpec::load(&self.options.repo_root, name)?;
        let packages = self.tree_packages(&spec)?;
        let listed = spec.listed(&packages);
        let recorded = self.recorded(&listed)?;
        if recorded.replaced {
            self.notice_in_use(&listed);
        }
        let sources = self.fetch(&listed, recorded)?;
        let digests: Vec<_> = sources.deb.iter().map(|deb| (&deb.name, &deb.sha256)).collect();
        let links: Vec<_> = spec.symlink.iter().map(|link| (&link.path, &link.target)).collect();
        let described = serde_json::to_vec(&(FORMAT, digests, links, &spec.exclude, &spec.mountpoints));
        let digest = Digest::of(&described.expect("descriptions are plain data"));
        let root = self.cache.trees().join(format!("{}-{}", listed.name, &digest.hex()[..16]));
        if root.is_dir() {
            cache::used_again(&root)?;
        } else {
            self.options.progress.step(&listed.name, Step::Unpack);
            let temp = self.cache.temp()?;
            let place = temp.path().join("tree");
            let failed = |source| BuildError::Tree { layer: listed.name.clone(), source };
            let mut tree = Tree::new(place.clone()).map_err(failed)?;
            assemble::debs(&self.cache, &mut tree, &listed, &sources)?;
            for link in &spec.symlink {
                tree.link(&link.path, &link.target, &spec.name).map_err(failed)?;
            }
            for folder in &spec.mountpoints {
                tree.folder(folder, &spec.name).map_err(failed)?;
            }
            cache::put(&place, &root)?;
            cache::keep_newest(&self.cache.trees(), &format!("{}-", listed.name), KEPT)?;
        }
        Ok(BuildTree { root, digest, sources })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = 'x'\nreason = 'r'\nmountpoints = ['/build/src']\n\
                        [[deb]]\nname = 'gcc'\nreason = 'compiles'\n\
                        [[omit]]\nname = 'dpkg'\nreason = 'not run'\n\
                        [[symlink]]\npath = '/usr/bin/cc'\ntarget = 'gcc'\nreason = 'by script'\n";

    #[test]
    fn descriptions_are_read_and_refused() {
        let file = Path::new("distro/build/x.toml");
        let spec = BuildTreeSpec::parse(GOOD, file).unwrap();
        assert_eq!(spec.listed(&["gcc".to_owned(), "libc6".to_owned()]).deb.len(), 2);
        for (from, to, expected) in [
            ("'x'", "'y'", "distro/build/x.toml: name: has to be the file's name without .toml"),
            ("'compiles'", "''", "distro/build/x.toml: gcc: its `reason` is empty"),
            ("'dpkg'", "'gcc'", "distro/build/x.toml: gcc: is listed twice"),
            ("'gcc'\nreason", "'-o=x'\nreason", "distro/build/x.toml: -o=x: is not a package name"),
            ("/build/src", "build", "distro/build/x.toml: build: has to be an absolute path without `..`"),
            ("mountpoints", "mounts", "distro/build/x.toml is not a valid layer description"),
        ] {
            let error = BuildTreeSpec::parse(&GOOD.replacen(from, to, 1), file).unwrap_err();
            assert_eq!(error.to_string(), expected, "{from}");
        }
    }

    #[test]
    fn every_tree_of_the_repository_is_described_well_and_locked() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let specs = BuildTreeSpec::load_all(&repository).unwrap();
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["kernel", "programs"]);
        let lock = crate::Lock::load(&repository).unwrap();
        for spec in &specs {
            let packages = lock.tree(&spec.name, "amd64").expect("its packages are locked");
            for deb in &spec.deb {
                assert!(packages.contains(&deb.name), "{}: {} is not locked", spec.name, deb.name);
            }
            for package in packages {
                assert!(lock.deb(package, "amd64").is_some(), "{}: {package} has no entry", spec.name);
            }
        }
    }
}
