//! The layer lock, `distro/stratos.lock`: which version of every package, and its digest.
//!
//! One entry serves all layers, so that no two layers hold different builds of one library. The lock names no
//! archive: where packages come from is the host's business, that they are the right ones is the digest's.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stratos_types::Digest;

use crate::error::{FileError, at};
use crate::spec::LayerSpec;

/// Where the lock is, relative to the repository.
pub const LOCK_FILE: &str = "distro/stratos.lock";
/// The version of the lock's own format.
const FORMAT: u32 = 1;

/// Why the lock cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The text is not a lock.
    #[error("{} is not a valid layer lock", file.display())]
    Parse {
        /// The lock.
        file: PathBuf,
        /// Which key is wrong, and where.
        source: Box<toml::de::Error>,
    },
    /// It was written by a newer StratOS.
    #[error("{} has format {found}, this program knows {FORMAT}", file.display())]
    Format {
        /// The lock.
        file: PathBuf,
        /// Its format.
        found: u32,
    },
    /// One package has two entries for one architecture.
    #[error("{}: {name} has two entries for {arch}", file.display())]
    Twice {
        /// The lock.
        file: PathBuf,
        /// The package or wheel.
        name: String,
        /// The architecture.
        arch: String,
    },
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A locked Debian package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedDeb {
    /// The package's name.
    pub name: String,
    /// Its full Debian version.
    pub version: String,
    /// Debian architecture, or `all`.
    pub arch: String,
    /// Digest of the `.deb` file.
    pub sha256: Digest,
    /// Size of the `.deb` file in bytes.
    pub size: u64,
}

/// A locked wheel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedWheel {
    /// The distribution's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Debian architecture that it is for.
    pub arch: String,
    /// The wheel's file name.
    pub file: String,
    /// Digest of the wheel.
    pub sha256: Digest,
    /// Size of the wheel in bytes.
    pub size: u64,
}

/// All packages of a build tree, those that its description's packages depend on included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedTree {
    /// The tree's name.
    pub name: String,
    /// Debian architecture that it is for.
    pub arch: String,
    /// Names of the packages, sorted; each has its own entry.
    pub packages: Vec<String>,
}

/// All locked packages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The version of the lock's own format.
    pub format: u32,
    /// Debian packages, by name and architecture.
    #[serde(default)]
    pub deb: Vec<LockedDeb>,
    /// Wheels, by name and architecture.
    #[serde(default)]
    pub wheel: Vec<LockedWheel>,
    /// Build trees, by name and architecture.
    #[serde(default)]
    pub tree: Vec<LockedTree>,
}

/// What one layer is made of: an entry for each of its packages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// Its Debian packages, by name.
    pub deb: Vec<LockedDeb>,
    /// Its wheels, by name.
    pub wheel: Vec<LockedWheel>,
}

/// What a build used instead of the lock's entries: `layers/NAME.lock.toml` in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InUse {
    /// Digest of the lock entries that these replace; when they change, this file counts no more.
    pub replaces: Digest,
    /// Debian packages.
    #[serde(default)]
    pub deb: Vec<LockedDeb>,
    /// Wheels.
    #[serde(default)]
    pub wheel: Vec<LockedWheel>,
}

impl Lock {
    /// Reads the repository's lock; a missing file is an empty lock.
    ///
    /// # Errors
    /// A file that cannot be read or is no lock.
    pub fn load(repo_root: &Path) -> Result<Self, LockError> {
        let file = repo_root.join(LOCK_FILE);
        match std::fs::read_to_string(&file) {
            Ok(text) => Self::parse(&text, &file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(at("read", &file)(error).into()),
        }
    }

    /// Parses a lock found in `file`.
    ///
    /// # Errors
    /// Unknown keys, an unknown format, two entries for one package.
    pub fn parse(text: &str, file: &Path) -> Result<Self, LockError> {
        let lock: Self = toml::from_str(text)
            .map_err(|source| LockError::Parse { file: file.to_owned(), source: Box::new(source) })?;
        if lock.format != FORMAT {
            return Err(LockError::Format { file: file.to_owned(), found: lock.format });
        }
        let debs = lock.deb.iter().map(|deb| ("deb", &deb.name, &deb.arch));
        let trees = lock.tree.iter().map(|tree| ("tree", &tree.name, &tree.arch));
        let mut seen = std::collections::BTreeSet::new();
        let wheels = lock.wheel.iter().map(|wheel| ("wheel", &wheel.name, &wheel.arch));
        for key in debs.chain(wheels).chain(trees) {
            if !seen.insert(key) {
                let (_, name, arch) = key;
                return Err(LockError::Twice {
                    file: file.to_owned(),
                    name: name.clone(),
                    arch: arch.clone(),
                });
            }
        }
        Ok(lock)
    }

    /// The entry of a Debian package for an architecture.
    pub fn deb(&self, name: &str, arch: &str) -> Option<&LockedDeb> {
        self.deb.iter().find(|deb| deb.name == name && (deb.arch == arch || deb.arch == "all"))
    }

    /// The entry of a wheel for an architecture.
    pub fn wheel(&self, name: &str, arch: &str) -> Option<&LockedWheel> {
        self.wheel.iter().find(|wheel| wheel.name == name && wheel.arch == arch)
    }

    /// The packages of a build tree for an architecture.
    pub fn tree(&self, name: &str, arch: &str) -> Option<&[String]> {
        let tree = self.tree.iter().find(|tree| tree.name == name && tree.arch == arch)?;
        Some(&tree.packages)
    }

    /// The entries of a layer, and the names of those that are missing.
    pub fn sources(&self, spec: &LayerSpec, arch: &str) -> (Sources, Vec<String>) {
        let (mut sources, mut missing) = (Sources::default(), Vec::new());
        for name in spec.deb_names() {
            match self.deb(name, arch) {
                Some(deb) => sources.deb.push(deb.clone()),
                None => missing.push(name.to_owned()),
            }
        }
        for wheel in &spec.wheel {
            match self.wheel(&wheel.name, arch) {
                Some(locked) => sources.wheel.push(locked.clone()),
                None => missing.push(wheel.name.clone()),
            }
        }
        (sources, missing)
    }

    /// Puts `new` in the place of this architecture's entries; those of other architectures stay.
    pub fn replace(&mut self, new: Sources, arch: &str) {
        self.format = FORMAT;
        self.deb.retain(|deb| deb.arch != arch && deb.arch != "all");
        self.deb.extend(new.deb);
        self.deb.sort_by(|a, b| (&a.name, &a.arch).cmp(&(&b.name, &b.arch)));
        self.deb.dedup();
        self.wheel.retain(|wheel| wheel.arch != arch);
        self.wheel.extend(new.wheel);
        self.wheel.sort_by(|a, b| (&a.name, &a.arch).cmp(&(&b.name, &b.arch)));
        self.wheel.dedup();
    }

    /// Puts `new` in the place of this architecture's build trees; those of other architectures stay.
    pub fn replace_trees(&mut self, new: Vec<LockedTree>, arch: &str) {
        self.tree.retain(|tree| tree.arch != arch);
        self.tree.extend(new);
        self.tree.sort_by(|a, b| (&a.name, &a.arch).cmp(&(&b.name, &b.arch)));
    }

    /// Writes the repository's lock, all or nothing.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn save(&self, repo_root: &Path) -> Result<(), LockError> {
        let file = repo_root.join(LOCK_FILE);
        let head = "# The exact packages that StratOS is built from. Written by `stratos layer lock`; do not edit.\n\n";
        // Pretty, so that a package that joins or leaves a tree is one line of a change.
        let body = toml::to_string_pretty(self).expect("a lock is plain tables of strings and numbers");
        replace_file(&file, format!("{head}{body}").as_bytes())?;
        Ok(())
    }
}

impl Sources {
    /// A digest of all entries.
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).expect("sources are plain data"))
    }

    /// The entry of a Debian package.
    pub fn deb(&self, name: &str) -> Option<&LockedDeb> {
        self.deb.iter().find(|deb| deb.name == name)
    }

    /// The entry of a wheel.
    pub fn wheel(&self, name: &str) -> Option<&LockedWheel> {
        self.wheel.iter().find(|wheel| wheel.name == name)
    }
}

/// Writes a file so that it is there whole or not at all, also after a power cut.
pub(crate) fn replace_file(file: &Path, content: &[u8]) -> Result<(), FileError> {
    let folder = file.parent().expect("files of the project have a folder");
    let mut temp = tempfile::NamedTempFile::new_in(folder).map_err(at("create a file in", folder))?;
    temp.write_all(content).map_err(at("write", file))?;
    // Temporary files are private; these are meant to be read by the agent and by version control.
    let mode = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o644);
    temp.as_file().set_permissions(mode).map_err(at("set the mode of", file))?;
    temp.as_file().sync_all().map_err(at("sync", file))?;
    temp.persist(file).map_err(|error| at("replace", file)(error.error))?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(at("sync", folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deb(name: &str, version: &str, arch: &str) -> LockedDeb {
        let (name, version, arch) = (name.to_owned(), version.to_owned(), arch.to_owned());
        LockedDeb {
            sha256: Digest::of(format!("{name}{version}{arch}").as_bytes()),
            name,
            version,
            arch,
            size: 1,
        }
    }

    #[test]
    fn locks_round_trip_and_refuse() {
        let mut lock = Lock::default();
        lock.replace(
            Sources { deb: vec![deb("b", "1", "amd64"), deb("a", "1", "all")], wheel: vec![] },
            "amd64",
        );
        let text = toml::to_string(&lock).unwrap();
        let file = Path::new("stratos.lock");
        assert_eq!(Lock::parse(&text, file).unwrap(), lock);
        assert_eq!(lock.deb[0].name, "a", "entries are sorted");
        let twice = format!("{text}\n[[deb]]{}", text.split("[[deb]]").nth(1).unwrap());
        for (text, expected) in [
            (twice, "stratos.lock: a has two entries for all"),
            (text.replace("format = 1", "format = 2"), "stratos.lock has format 2, this program knows 1"),
            (text.replace("size", "length"), "stratos.lock is not a valid layer lock"),
            (text.replace("sha256:", "md5:"), "stratos.lock is not a valid layer lock"),
        ] {
            assert_eq!(Lock::parse(&text, file).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn entries_of_other_architectures_stay() {
        let mut lock = Lock::default();
        let tree = |arch: &str, package: &str| LockedTree {
            name: "kernel".to_owned(),
            arch: arch.to_owned(),
            packages: vec![package.to_owned()],
        };
        lock.replace_trees(vec![tree("arm64", "a")], "arm64");
        lock.replace_trees(vec![tree("amd64", "b")], "amd64");
        lock.replace_trees(vec![tree("amd64", "c")], "amd64");
        assert_eq!(lock.tree("kernel", "arm64").unwrap(), ["a"]);
        assert_eq!(lock.tree("kernel", "amd64").unwrap(), ["c"]);
        assert_eq!(lock.tree("programs", "amd64"), None);
        lock.replace(
            Sources { deb: vec![deb("a", "1", "arm64"), deb("d", "1", "all")], wheel: vec![] },
            "arm64",
        );
        lock.replace(
            Sources { deb: vec![deb("a", "2", "amd64"), deb("d", "2", "all")], wheel: vec![] },
            "amd64",
        );
        assert_eq!(lock.deb("a", "arm64").unwrap().version, "1");
        assert_eq!(lock.deb("a", "amd64").unwrap().version, "2");
        assert_eq!(lock.deb("d", "arm64").unwrap().version, "2");
        assert_eq!(lock.deb("b", "amd64"), None);
    }
}
