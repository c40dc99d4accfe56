//! The build's own apt: it uses the host's archive, but has its own state, and only ever reads indexes and fetches
//! packages. apt checks the archive's signatures; nothing of the host's apt is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use stratos_types::Digest;

use crate::cache::Cache;
use crate::error::{FileError, at};
use crate::lock::LockedDeb;
use crate::progress::Progress;
use crate::run::{self, RunError};
use crate::sources::{self, SourcesError};
use crate::{arch, watch};

/// Why the Debian archive could not be used.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// No archive is known.
    #[error("cannot tell which Debian archive to use")]
    Sources(#[from] SourcesError),
    /// Debian's signing keys are not on this host.
    #[error("Debian's archive keys are not at {}", path.display())]
    Keyring {
        /// Where they would be.
        path: PathBuf,
    },
    /// apt failed.
    #[error("apt cannot {action}")]
    Run {
        /// What it was asked for.
        action: &'static str,
        /// How it failed.
        source: RunError,
    },
    /// A package is not in the archive at all.
    #[error("the Debian archive has no package {name} for {arch} in suite {suite}", suite = sources::SUITE)]
    Unknown {
        /// The package.
        name: String,
        /// The architecture.
        arch: &'static str,
    },
    /// apt gave an index entry that lacks a field.
    #[error("the Debian archive's entry of {name} has no valid {field}")]
    Entry {
        /// The package.
        name: String,
        /// The field.
        field: &'static str,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

impl AptError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Sources(_) => Some(
                "name a Debian mirror with --debian-mirror URL or in the environment variable STRATOS_DEBIAN_MIRROR"
                    .to_owned(),
            ),
            Self::Keyring { .. } => Some("install the package debian-archive-keyring".to_owned()),
            Self::Run { source: RunError::Start { program, .. }, .. } => {
                Some(format!("layers are built on a host with apt; `{program}` has to be on the PATH"))
            }
            Self::Run { action: "read the archive's indexes", .. } => Some(format!(
                "the archive has to offer the suite {}; another one can be named with --debian-mirror URL or \
                 STRATOS_DEBIAN_MIRROR",
                sources::SUITE
            )),
            _ => None,
        }
    }
}

/// What the archive offers of the packages that were asked about.
#[derive(Debug, Default)]
pub(crate) struct Offers {
    all: Vec<LockedDeb>,
    best: BTreeMap<String, LockedDeb>,
}

impl Offers {
    /// The digest of one version of a package, if the archive has that version.
    pub(crate) fn version(&self, name: &str, version: &str) -> Option<&LockedDeb> {
        self.all.iter().find(|deb| deb.name == name && deb.version == version)
    }

    /// The version apt would install.
    pub(crate) fn best(&self, name: &str) -> Result<&LockedDeb, AptError> {
        self.best.get(name).ok_or_else(|| AptError::Unknown { name: name.to_owned(), arch: arch::debian() })
    }
}

/// apt with a state of its own, its indexes fresh.
#[derive(Debug)]
pub(crate) struct Apt {
    config: PathBuf,
}

/// The source file of a build's apt, in its folder of the cache.
pub(crate) const SOURCES: &str = "sources.d/stratos.sources";
/// Where Debian's signing keys are on Debian and its derivatives.
const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

impl Apt {
    /// Sets apt up in the cache and reads the archive's indexes.
    pub(crate) fn open(cache: &Cache, mirror: Option<&str>) -> Result<Self, AptError> {
        let keyring = KEYRINGS.iter().find(|path| Path::new(path).is_file());
        let keyring = *keyring.ok_or_else(|| AptError::Keyring { path: PathBuf::from(KEYRINGS[0]) })?;
        let os_release = read(Path::new("/etc/os-release"))?.unwrap_or_default();
        let archives = sources::archives(&os_release, &host_sources()?, mirror)?;
        let mut text = String::new();
        for archive in archives {
            let suites = archive.suites.join(" ");
            writeln!(
                text,
                "Types: deb\nURIs: {}\nSuites: {suites}\nComponents: main\nArchitectures: {}\nSigned-By: {keyring}\n",
                archive.uri,
                arch::debian(),
            )
            .expect("a String takes every write");
        }
        let folder = cache.apt();
        for part in ["state/lists/partial", "cache/archives/partial", "sources.d"] {
            let part = folder.join(part);
            std::fs::create_dir_all(&part).map_err(at("create", &part))?;
        }
        write(&folder.join(SOURCES), &text)?;
        let config = folder.join("apt.conf");
        write(&config, &configuration(&folder, &host_acquire()?))?;
        let apt = Self { config };
        apt.run(apt.command("apt-get").args(["-qq", "update"]), "read the archive's indexes")?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        command
    }

    fn run(&self, command: &mut Command, action: &'static str) -> Result<String, AptError> {
        let output = run::output(command).map_err(|source| AptError::Run { action, source })?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What the archive offers of some packages.
    pub(crate) fn offers<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Offers, AptError> {
        let names: Vec<&str> = names.into_iter().collect();
        let all = self.show("--all-versions", &names)?;
        let best = self.show("--no-all-versions", &names)?;
        Ok(Offers { all, best: best.into_iter().map(|best| (best.name.clone(), best)).collect() })
    }

    /// The archive's entries of those of some packages that it has.
    fn show(&self, which: &str, names: &[&str]) -> Result<Vec<LockedDeb>, AptError> {
        let mut command = self.command("apt-cache");
        match run::output(command.args(["--quiet=0", "show", which]).args(names)) {
            Ok(output) => parse_show(&String::from_utf8_lossy(&output.stdout)),
            // apt-cache fails as a whole when it does not know one of several names.
            Err(RunError::Failed { output, .. }) if output.contains("No packages found") => {
                let halves = names.split_at(names.len() / 2);
                if names.len() < 2 {
                    return Ok(Vec::new());
                }
                Ok([self.show(which, halves.0)?, self.show(which, halves.1)?].concat())
            }
            Err(source) => Err(AptError::Run { action: "look a package up", source }),
        }
    }

    /// The names of some packages and of all that they depend on, as apt would install them on an empty machine.
    pub(crate) fn with_dependencies(&self, names: &[&str]) -> Result<BTreeSet<String>, AptError> {
        let mut command = self.command("apt-get");
        command.args(["--simulate", "--no-install-recommends", "-o", "Debug::NoLocking=1", "install"]);
        Ok(parse_installed(&self.run(command.args(names), "resolve dependencies")?))
    }

    /// The package that a metapackage depends on first.
    pub(crate) fn first_dependency(&self, name: &str) -> Result<String, AptError> {
        let mut command = self.command("apt-cache");
        let text = self.run(command.args(["show", "--no-all-versions", name]), "look a package up")?;
        let depends = text.lines().find_map(|line| line.strip_prefix("Depends: "));
        let first = depends.and_then(|list| list.split([' ', ',']).next()).filter(|first| !first.is_empty());
        let missing = || AptError::Entry { name: name.to_owned(), field: "Depends" };
        first.map(str::to_owned).ok_or_else(missing)
    }

    /// Fetches packages into the cache's downloads. The digests of what came are the caller's to compare.
    pub(crate) fn download(
        &self,
        cache: &Cache,
        debs: &[&LockedDeb],
        layer: &str,
        progress: &dyn Progress,
    ) -> Result<Vec<Digest>, AptError> {
        let temp = cache.temp()?;
        let total = debs.iter().map(|deb| deb.size).sum();
        let mut command = self.command("apt-get");
        command
            .args(["-qq", "download"])
            .args(debs.iter().map(|deb| format!("{}={}", deb.name, deb.version)));
        command.current_dir(temp.path());
        let arrived = |done| progress.bytes(layer, done, total);
        watch::run(&mut command, &cache.temp()?, &[temp.path()], arrived)
            .map_err(|source| AptError::Run { action: "download packages", source })?;
        let mut digests = Vec::new();
        for entry in std::fs::read_dir(temp.path()).map_err(at("list", temp.path()))? {
            let path = entry.map_err(at("list", temp.path()))?.path();
            digests.push(cache.admit(&path)?);
        }
        Ok(digests)
    }
}

/// The packages that `apt-get --simulate install` says it would install.
fn parse_installed(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("Inst "));
    lines.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// The entries of `apt-cache show`.
fn parse_show(text: &str) -> Result<Vec<LockedDeb>, AptError> {
    let mut debs = Vec::new();
    for stanza in text.split("\n\n").filter(|stanza| !stanza.trim().is_empty()) {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let name = field("Package").unwrap_or_default().to_owned();
        let need = |key: &'static str| {
            field(key).ok_or_else(|| AptError::Entry { name: name.clone(), field: key }).map(str::to_owned)
        };
        let bad = |key: &'static str| AptError::Entry { name: name.clone(), field: key };
        debs.push(LockedDeb {
            version: need("Version")?,
            arch: need("Architecture")?,
            sha256: format!("sha256:{}", need("SHA256")?).parse().map_err(|_| bad("SHA256"))?,
            size: need("Size")?.parse().map_err(|_| bad("Size"))?,
            name,
        });
    }
    Ok(debs)
}

/// The apt configuration of a build: everything of its own, but reached the way the host reaches its archives.
fn configuration(folder: &Path, acquire: &str) -> String {
    let at = |part: &str| folder.join(part).display().to_string();
    let own = [
        ("Dir::State", at("state")),
        ("Dir::State::status", "/dev/null".to_owned()),
        ("Dir::State::extended_states", "/dev/null".to_owned()),
        ("Dir::Cache", at("cache")),
        ("Dir::Log", at("state")),
        ("Dir::Etc::sourcelist", "/dev/null".to_owned()),
        ("Dir::Etc::sourceparts", at("sources.d")),
        ("Dir::Etc::preferences", "/dev/null".to_owned()),
        ("Dir::Etc::preferencesparts", "/dev/null".to_owned()),
        // No other configuration file is read: the host's may have hooks that act on the host's own apt.
        ("Dir::Etc::main", "/dev/null".to_owned()),
        ("Dir::Etc::parts", "/dev/null".to_owned()),
        ("APT::Architecture", arch::debian().to_owned()),
        ("APT::Architectures::", arch::debian().to_owned()),
        ("APT::Sandbox::User", "root".to_owned()),
        ("APT::Get::AllowUnauthenticated", "false".to_owned()),
        ("Acquire::AllowInsecureRepositories", "false".to_owned()),
        ("Acquire::AllowWeakRepositories", "false".to_owned()),
        ("Acquire::AllowDowngradeToInsecureRepositories", "false".to_owned()),
        ("Acquire::Languages", "none".to_owned()),
        // An index that could not be read would otherwise only be a warning, and its packages seem gone.
        ("APT::Update::Error-Mode", "any".to_owned()),
    ];
    let mut text = acquire.to_owned();
    for (key, value) in own {
        writeln!(text, "{key} \"{value}\";").expect("a String takes every write");
    }
    text
}

/// How the host reaches its archives: proxies, certificates, retries. Not what it accepts unsigned.
pub(crate) fn host_acquire() -> Result<String, AptError> {
    let output = run::output(Command::new("apt-config").arg("dump").env("LC_ALL", "C"))
        .map_err(|source| AptError::Run { action: "read the host's configuration", source })?;
    let kept = |line: &&str| {
        line.starts_with("Acquire::")
            && !line.contains("::Allow")
            && !line.starts_with("Acquire::IndexTargets")
            && !line.starts_with("Acquire::Languages")
            && !line.starts_with("Acquire::Changelogs")
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().filter(kept).fold(String::new(), |all, line| all + line + "\n"))
}

/// The host's apt source files and their text.
fn host_sources() -> Result<Vec<(PathBuf, String)>, AptError> {
    let mut paths = vec![PathBuf::from("/etc/apt/sources.list")];
    let folder = Path::new("/etc/apt/sources.list.d");
    match std::fs::read_dir(folder) {
        Ok(entries) => {
            let mut found = Vec::new();
            for entry in entries {
                found.push(entry.map_err(at("list", folder))?.path());
            }
            found.retain(|path| path.extension().is_some_and(|e| e == "list" || e == "sources"));
            found.sort();
            paths.extend(found);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(at("list", folder)(error).into()),
    }
    let mut files = Vec::new();
    for path in paths {
        if let Some(text) = read(&path)? {
            files.push((path, text));
        }
    }
    Ok(files)
}

fn read(path: &Path) -> Result<Option<String>, FileError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("read", path)(error)),
    }
}

fn write(path: &Path, text: &str) -> Result<(), FileError> {
    std::fs::write(path, text).map_err(at("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_entries_become_locked_packages() {
        let digest = Digest::of(b"x");
        let text = format!(
            "Package: libc6\nVersion: 2.41-12\nArchitecture: amd64\nSize: 42\nDescription: a\n b\nSHA256: {0}\n\n\
             Package: libc6\nVersion: 2.41-11\nArchitecture: amd64\nSize: 41\nSHA256: {0}\n\n",
            digest.hex()
        );
        let debs = parse_show(&text).unwrap();
        assert_eq!(debs.len(), 2);
        assert_eq!((debs[0].version.as_str(), debs[0].size, debs[0].sha256), ("2.41-12", 42, digest));
        let error = parse_show("Package: a\nVersion: 1\n").unwrap_err();
        assert_eq!(error.to_string(), "the Debian archive's entry of a has no valid Architecture");
    }

    #[test]
    fn what_would_be_installed_is_read_from_a_simulation() {
        let text = "Reading package lists...\nInst gcc-14-base (14.2.0-19 Debian:13/stable [amd64])\n\
                    Inst libc6 (2.41-12 Debian:13/stable [amd64]) []\nConf gcc-14-base (14.2.0-19)\n";
        let names: Vec<String> = parse_installed(text).into_iter().collect();
        assert_eq!(names, ["gcc-14-base", "libc6"]);
    }

    #[test]
    fn hosts_may_not_weaken_signature_checks() {
        let text = configuration(Path::new("/c"), "Acquire::http::Proxy \"http://proxy.example\";\n");
        assert!(text.starts_with("Acquire::http::Proxy"));
        assert!(text.contains("Acquire::AllowInsecureRepositories \"false\";"));
        assert!(text.contains("Dir::State \"/c/state\";"));
    }
}
