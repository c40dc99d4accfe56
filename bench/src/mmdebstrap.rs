//! Debian systems that are compared with: made by mmdebstrap from the archive that this machine's apt uses, and kept in
//! the cache by what they are made from. The archive decides the versions of their packages.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use stratos_image::BuildOptions;
use stratos_image::debian::{SUITE, archive};
use stratos_types::Digest;
use tempfile::NamedTempFile;

use crate::interrupt::Interrupt;
use crate::program::run;

/// Raised when the way a root is made changes in what [`Root`] does not hold.
const FORMAT: u32 = 1;
/// What slim images of Debian leave out as well.
const SLIM: [&str; 3] = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"];

/// A run of mmdebstrap, and files that it reads.
pub(crate) struct Mmdebstrap {
    command: Command,
    suite: String,
    sources: NamedTempFile,
    _apt: NamedTempFile,
}

/// mmdebstrap for a suite of the archive, with these packages beside those of the variant.
///
/// # Errors
/// When the archive cannot be used.
pub(crate) fn mmdebstrap(
    options: &BuildOptions<'_>,
    suite: &str,
    variant: &str,
    packages: &[&str],
) -> Result<Mmdebstrap> {
    let archive = archive(options).context("the Debian archive")?;
    let text = fs::read_to_string(&archive.sources)
        .with_context(|| format!("read {}", archive.sources.display()))?;
    let mut sources = tempfile::Builder::new().suffix(".sources").tempfile()?;
    sources.write_all(sources_of(&text, suite).as_bytes())?;
    let mut apt = NamedTempFile::new()?;
    apt.write_all(archive.acquire.as_bytes())?;
    // The first process of a download is root's, and so are the folders around it.
    apt.write_all(b"APT::Sandbox::User \"root\";\n")?;
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--mode=root", "--format=directory", "--quiet"])
        .arg(format!("--variant={variant}"))
        .arg(format!("--architectures={}", stratos_image::arch::debian()))
        .arg(format!("--aptopt={}", apt.path().display()))
        .arg(format!("--include={}", packages.join(",")));
    Ok(Mmdebstrap { command, suite: suite.to_owned(), sources, _apt: apt })
}

/// The sources of another suite than StratOS's own: of the archive that has that, without updates of any kind.
fn sources_of(text: &str, suite: &str) -> String {
    if suite == SUITE {
        return text.to_owned();
    }
    let own = |stanza: &&str| {
        let suites = stanza.lines().find_map(|line| line.strip_prefix("Suites:")).unwrap_or_default();
        suites.split_whitespace().any(|name| name == SUITE)
    };
    let other = |line: &str| match line.starts_with("Suites:") {
        true => format!("Suites: {suite}\n"),
        false => format!("{line}\n"),
    };
    text.split("\n\n")
        .filter(own)
        .map(|stanza| stanza.lines().map(other).collect::<String>() + "\n")
        .collect()
}

impl Mmdebstrap {
    /// One more argument.
    pub(crate) fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.command.arg(argument);
        self
    }

    /// One more variable, for hooks.
    pub(crate) fn env(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.command.env(name, value);
        self
    }

    /// Makes the system in a folder that is not there yet.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) fn into(mut self, root: &Path, interrupt: &Interrupt) -> Result<()> {
        run(self.command.arg(&self.suite).arg(root).arg(self.sources.path()), interrupt)
    }
}

/// Every package of a system and its version.
///
/// # Errors
/// When it does not tell.
pub(crate) fn packages(root: &Path) -> Result<Vec<String>> {
    let query = ["dpkg-query", "--show", "--showformat=${Package} ${Version}\\n"];
    let output = Command::new("chroot").arg(root).args(query).output().context("start chroot")?;
    ensure!(output.status.success(), "dpkg-query: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// A root file system, as far as it is told.
#[derive(Debug, Serialize)]
pub(crate) struct Root {
    /// What its folder in the cache begins with.
    pub(crate) name: &'static str,
    /// The suite of the archive.
    pub(crate) suite: &'static str,
    /// mmdebstrap's variant.
    pub(crate) variant: &'static str,
    /// Packages beside those of the variant.
    pub(crate) packages: &'static [&'static str],
    /// Empty folders that it has as well.
    pub(crate) folders: &'static [&'static str],
}

impl Root {
    /// Where the cache keeps it.
    fn folder_of(&self, cache: &Path) -> PathBuf {
        let inputs = serde_json::to_vec(&(FORMAT, SLIM, self)).expect("inputs are plain data");
        cache.join("bench").join(format!("{}-{}", self.name, &Digest::of(&inputs).hex()[..16]))
    }

    /// Its folder, when the cache has it.
    pub(crate) fn cached(&self, cache: &Path) -> Option<PathBuf> {
        Some(self.folder_of(cache).join("root")).filter(|root| root.is_dir())
    }

    /// Its folder, made unless the cache has it.
    ///
    /// # Errors
    /// When the archive cannot be used or a program fails.
    pub(crate) fn folder(&self, options: &BuildOptions<'_>, interrupt: &Interrupt) -> Result<PathBuf> {
        let unpacked = |_: &Path, _: &Path| Ok(());
        Ok(self.built(options, interrupt, unpacked)?.join("root"))
    }

    /// It as an EROFS image, made unless the cache has it.
    ///
    /// # Errors
    /// When the archive cannot be used or a program fails.
    pub(crate) fn image(&self, options: &BuildOptions<'_>, interrupt: &Interrupt) -> Result<PathBuf> {
        let packed = |root: &Path, folder: &Path| {
            let packages = packages(root)?.join("\n");
            fs::write(folder.join("packages"), packages + "\n")?;
            run(
                Command::new("mkfs.erofs").arg("--quiet").arg(folder.join("root.erofs")).arg(root),
                interrupt,
            )?;
            fs::remove_dir_all(root).context("remove the unpacked system")
        };
        Ok(self.built(options, interrupt, packed)?.join("root.erofs"))
    }

    fn built(
        &self,
        options: &BuildOptions<'_>,
        interrupt: &Interrupt,
        finish: impl FnOnce(&Path, &Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let folder = self.folder_of(&options.cache);
        if folder.is_dir() {
            return Ok(folder);
        }
        eprintln!("making {} of Debian {} (once; it is kept in {})", self.name, self.suite, folder.display());
        let cache = options.cache.join("bench");
        fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
        let temp = tempfile::Builder::new().prefix("tmp-").tempdir_in(&cache)?;
        let root = temp.path().join("root");
        let mut command = mmdebstrap(options, self.suite, self.variant, self.packages)?;
        for path in SLIM {
            command.arg(format!("--dpkgopt=path-exclude={path}"));
        }
        command.into(&root, interrupt).with_context(|| format!("make {}", self.name))?;
        for path in self.folders {
            fs::create_dir_all(root.join(path)).with_context(|| format!("make /{path}"))?;
        }
        finish(&root, temp.path())?;
        fs::rename(temp.keep(), &folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_suite_comes_from_the_same_archive() {
        let text = "Types: deb\nURIs: http://one/debian\nSuites: trixie trixie-updates\nSigned-By: /key\n\n\
                    Types: deb\nURIs: http://one/debian-security\nSuites: trixie-security\nSigned-By: /key\n\n";
        assert_eq!(sources_of(text, SUITE), text);
        let expected = "Types: deb\nURIs: http://one/debian\nSuites: forky\nSigned-By: /key\n\n";
        assert_eq!(sources_of(text, "forky"), expected);
    }

    #[test]
    fn other_packages_are_another_root() {
        let root = |packages| Root { name: "some", suite: SUITE, variant: "minbase", packages, folders: &[] };
        let folder = |packages| root(packages).folder_of(Path::new("/c"));
        assert_eq!(folder(&["a"]), folder(&["a"]));
        assert_ne!(folder(&["a"]), folder(&["b"]));
        assert!(folder(&["a"]).starts_with("/c/bench"));
    }
}
