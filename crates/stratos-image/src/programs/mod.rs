//! The static programs of an image, PID 1 and the agent: compiled from this repository inside the build tree
//! `programs`, at fixed paths, without network, from crates that `Cargo.lock` pins.
//!
//! The host gives the Rust toolchain, which is bound read-only at a fixed path, and its cargo fetches the crates the
//! way it always does. C compiler, linker and glibc's static library are locked packages. The same sources and the same
//! toolchain give the same bytes, whatever the folder of the clone, the user, the umask, the locale or the time.

mod inputs;
mod toolchain;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;
use stratos_types::Digest;

pub use inputs::InputsError;
pub use toolchain::ToolchainError;

use crate::build::{BuildOptions, Builder};
use crate::cache;
use crate::error::{BuildError, FileError, at};
use crate::inside::Inside;
use crate::progress::{Progress, Step};
use crate::watch;
use toolchain::Toolchain;

/// The name that is reported.
const NAME: &str = "programs";
/// Raised when the way programs are built changes.
const FORMAT: u32 = 2;
/// How many builds the cache keeps, and how many sets of crates, which are large.
const KEPT: usize = 6;
const KEPT_CRATES: usize = 2;
/// No shared library is needed at run time: the verified root has none.
const RUSTFLAGS: &str = "-C target-feature=+crt-static";

/// A program: the package it is in, and its name.
type Program = (&'static str, &'static str);
/// PID 1.
const INIT: Program = ("stratos-init", "stratos-init");
/// The agent.
const AGENT: Program = ("stratos-agent", "stratosd");

/// Why the programs could not be built.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// There is no toolchain to build with, or it did not do its part.
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    /// What to compile could not be told.
    #[error(transparent)]
    Inputs(#[from] InputsError),
}

impl ProgramsError {
    /// What the user can do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Toolchain(error) => error.hint(),
            Self::Inputs(_) => None,
        }
    }
}

/// The static programs of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// PID 1.
    pub init: PathBuf,
    /// The agent.
    pub agent: PathBuf,
    /// Digest of everything they are made from.
    pub digest: Digest,
}

/// Builds the static programs, unless the cache has them.
///
/// # Errors
/// See [`BuildError`]; nothing that looks finished is left behind.
pub fn build_programs(options: &BuildOptions<'_>) -> Result<Programs, BuildError> {
    Builder::open(options)?.programs()
}

/// Everything the programs are made from; its digest names them.
#[derive(Serialize)]
struct Inputs<'a> {
    format: u32,
    tree: Digest,
    toolchain: &'a str,
    flags: &'a str,
    programs: &'a [Program],
    files: BTreeMap<&'a str, Digest>,
}

impl Builder<'_> {
    /// The static programs, built unless the cache has them. Building lets other builds use the cache meanwhile, so
    /// temporary folders must not be in use.
    pub(crate) fn programs(&mut self) -> Result<Programs, BuildError> {
        let (place, digest) = self.built_programs(&[INIT, AGENT])?;
        Ok(Programs { init: place.join(INIT.1), agent: place.join(AGENT.1), digest })
    }

    /// The folder of some programs in the cache, and the digest of what they are made from.
    fn built_programs(&mut self, programs: &[Program]) -> Result<(PathBuf, Digest), BuildError> {
        let repository = self.options.repo_root.clone();
        let progress = self.options.progress;
        let toolchain = Toolchain::find(&repository).map_err(ProgramsError::from)?;
        let packages: Vec<&str> = programs.iter().map(|(package, _)| *package).collect();
        let files = inputs::collect(&repository, &packages).map_err(ProgramsError::from)?;
        let tree = self.build_tree("programs")?;
        let inputs = Inputs {
            format: FORMAT,
            tree: tree.digest,
            toolchain: &toolchain.version,
            flags: RUSTFLAGS,
            programs,
            files: files.iter().map(|(path, content)| (path.as_str(), Digest::of(content))).collect(),
        };
        let digest = Digest::of(&serde_json::to_vec(&inputs).expect("inputs are plain data"));
        let place = self.cache.kind("programs")?.join(&digest.hex()[..16]);
        if place.is_dir() {
            cache::used_again(&place)?;
            progress.step(NAME, Step::Done);
            return Ok((place, digest));
        }
        let vendored = self.vendored(&repository, &files["Cargo.lock"])?;
        let log = place.with_extension("log");
        // What is compiled can be used again only with the same compiler and linker.
        let key = Digest::of(format!("{} {}", tree.digest, toolchain.version).as_bytes());
        self.cache.long_work(NAME, progress, |work| {
            if place.is_dir() {
                return Ok(());
            }
            let work = kept_folder(work, &key.hex()[..16])?;
            let folders = Folders { work, tree: &tree.root, vendored: &vendored, toolchain: &toolchain };
            let build = Build { folders, log: &log, progress };
            progress.step(NAME, Step::Compile);
            inputs::write(&files, &build.folders.part("src")?)?;
            build.run(programs, &place)
        })?;
        cache::keep_newest(&self.cache.kind(NAME)?, "", KEPT)?;
        progress.step(NAME, Step::Done);
        Ok((place, digest))
    }

    /// The folder with the source of every crate that `Cargo.lock` pins.
    fn vendored(&self, repository: &Path, lock: &[u8]) -> Result<PathBuf, BuildError> {
        let place = self.cache.kind("vendor")?.join(&Digest::of(lock).hex()[..16]);
        if place.is_dir() {
            cache::used_again(&place)?;
        } else {
            self.options.progress.step("crates", Step::Download);
            let temp = self.cache.temp()?;
            let folder = temp.path().join("vendor");
            let log = temp.path().join("log");
            let shown = |lines: &str| {
                if let Some(last) = lines.lines().last() {
                    self.options.progress.detail("crates", last.trim());
                }
            };
            toolchain::vendor(repository, &folder, &log, shown).map_err(ProgramsError::from)?;
            cache::put(&folder, &place)?;
            cache::keep_newest(&self.cache.kind("vendor")?, "", KEPT_CRATES)?;
        }
        Ok(place)
    }
}

/// The folder `key` in `work`; what other keys have left there is removed.
fn kept_folder(work: &Path, key: &str) -> Result<PathBuf, FileError> {
    for entry in fs::read_dir(work).map_err(at("list", work))? {
        let entry = entry.map_err(at("list", work))?;
        if entry.file_name() != key {
            fs::remove_dir_all(entry.path()).map_err(at("remove", &entry.path()))?;
        }
    }
    let folder = work.join(key);
    fs::create_dir_all(&folder).map_err(at("create", &folder))?;
    Ok(folder)
}

/// What a build is bound together from.
struct Folders<'a> {
    work: PathBuf,
    tree: &'a Path,
    vendored: &'a Path,
    toolchain: &'a Toolchain,
}

impl Folders<'_> {
    fn part(&self, name: &str) -> Result<PathBuf, FileError> {
        let folder = self.work.join(name);
        fs::create_dir_all(&folder).map_err(at("create", &folder)).map(|()| folder)
    }

    fn inside(&self) -> Result<Inside, FileError> {
        let inside = Inside::new(self.tree, &self.part("root")?)
            .read(&self.part("src")?, "/build/src")
            .read(self.vendored, "/build/vendor")
            .read(&self.toolchain.sysroot, "/build/rust")
            .write(&self.part("cargo")?, "/build/cargo")
            .write(&self.part("target")?, "/build/target");
        Ok(inside
            .variable("PATH", "/build/rust/bin:/usr/bin")
            .variable("CARGO_HOME", "/build/cargo")
            .variable("CARGO_TARGET_DIR", "/build/target")
            .variable("CARGO_INCREMENTAL", "0")
            // Where the static libraries are that libbpf is linked with: rustc looks only where it is told to.
            .variable("LIBBPF_SYS_LIBRARY_PATH", &format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH))
            .variable("RUSTFLAGS", RUSTFLAGS))
    }
}

/// One build.
struct Build<'a> {
    folders: Folders<'a>,
    log: &'a Path,
    progress: &'a dyn Progress,
}

impl Build<'_> {
    fn run(&self, programs: &[Program], place: &Path) -> Result<(), BuildError> {
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let inside = self.folders.inside()?;
        let built = self.folders.part("target")?.join("stripped");
        cache::remove_folder(&built)?;
        fs::create_dir(&built).map_err(at("create", &built))?;
        // One by one: cargo would give each the features that any of them asks for.
        for (package, program) in programs {
            let mut cargo = inside.command("cargo");
            cargo.args(["build", "--profile=image", "--frozen", "--manifest-path=/build/src/Cargo.toml"]);
            cargo.args(["--config", "source.crates-io.replace-with='vendored'"]);
            cargo.args(["--config", "source.vendored.directory='/build/vendor'"]);
            cargo.args(["--target", &target, "--package", package, "--bin", program]);
            self.step("compiling", &mut cargo)?;
            let mut strip = inside.command("strip");
            strip.args(["--strip-all", "-o"]).arg(format!("/build/target/stripped/{program}"));
            self.step("stripping", strip.arg(format!("/build/target/{target}/image/{program}")))?;
            let file = built.join(program);
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
                .and_then(|()| fs::File::open(&file)?.sync_all())
                .map_err(at("sync", &file))?;
        }
        fs::rename(&built, place).map_err(at("rename", &built))?;
        Ok(())
    }

    /// Runs a program, its output kept in the log, and shows how far it is.
    fn step(&self, step: &'static str, command: &mut Command) -> Result<(), BuildError> {
        let shown = |lines: &str| {
            if let Some(last) = lines.lines().last() {
                self.progress.detail(NAME, last.trim());
            }
        };
        watch::logged(command, self.log, shown).map_err(|source| BuildError::Inside {
            what: NAME.to_owned(),
            step,
            log: self.log.to_owned(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    /// Builds PID 1 from the repository at `root` into a cache of its own, which begins with what `from` has fetched.
    fn init(root: &Path, from: &Path, cache: &Path) -> (Vec<u8>, Digest) {
        for part in ["downloads", "apt"] {
            let status = Command::new("cp").arg("-r").arg(from.join(part)).arg(cache).status().unwrap();
            assert!(status.success());
        }
        let options = BuildOptions::new(cache.to_owned(), root.to_owned(), &Silent);
        let (place, digest) = Builder::open(&options).unwrap().built_programs(&[INIT]).unwrap();
        (fs::read(place.join(INIT.1)).unwrap(), digest)
    }

    #[test]
    #[ignore = "compiles PID 1 twice"]
    fn programs_are_the_same_bytes_from_another_folder_cache_and_umask() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
        let real = crate::default_cache_dir().unwrap();
        let options = BuildOptions::new(real.clone(), repository.clone(), &Silent);
        Builder::open(&options).unwrap().build_tree(NAME).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let made = folder.path().join(name);
            fs::create_dir(&made).unwrap();
            made
        };
        let (one, two, clone) = (make("one"), make("other cache"), make("other clone"));
        let first = init(&repository, &real, &one);
        let clone = clone.join("with a longer name");
        let copied = Command::new("sh")
            .args([
                "-c",
                "umask 077; mkdir \"$1\"; tar -c --exclude=./target --exclude=./.git . | tar -xC \"$1\"",
            ])
            .arg("copy")
            .arg(&clone)
            .current_dir(&repository)
            .status();
        assert!(copied.unwrap().success());
        let umask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let second = init(&clone, &real, &two);
        rustix::process::umask(umask);
        assert_eq!(first.1, second.1, "the inputs are the same");
        assert!(first.0 == second.0, "the bytes differ");
        assert!(first.0.len() <= 3 << 20, "PID 1 has {} bytes", first.0.len());
    }
}
