//! Building StratOS's own kernel: from the source package in the build tree `kernel`, at fixed paths, with a fixed
//! time, user and host, so that the same inputs give the same bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use stratos_types::Digest;

use super::{Kernel, KernelConfig, KernelError};
use crate::arch;
use crate::build::Builder;
use crate::buildtree::BuildTree;
use crate::cache;
use crate::error::{BuildError, FileError, at};
use crate::inside::Inside;
use crate::lock::replace_file;
use crate::progress::{Progress, Step};
use crate::watch;

/// The name under which a kernel is reported and kept.
const NAME: &str = "stratos";
/// Raised when the way kernels are made changes, so that none made the old way is taken for current.
const FORMAT: u32 = 1;
/// How many kernels the cache keeps, since each takes long to compile and some branches differ in them.
const KEPT: usize = 3;
/// The source package's name, up to the version.
const SOURCE: &str = "linux-source-";
/// What kbuild would otherwise ask the machine for.
const FIXED: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 2026"),
    ("KBUILD_BUILD_USER", "stratos"),
    ("KBUILD_BUILD_HOST", "stratos"),
    ("KBUILD_BUILD_VERSION", "1"),
];
const MAKE: [&str; 4] = ["--directory=/build/src", "O=/build/out", "ARCH=x86_64", "--no-print-directory"];

/// Everything a kernel is made from; its digest names the kernel.
#[derive(Serialize)]
struct Inputs<'a> {
    format: u32,
    tree: Digest,
    config: &'a str,
    fixed: [(&'a str, &'a str); 4],
}

/// What is kept of a build beside its files; it is written last, so that it makes the kernel exist.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: String,
    owner: String,
    digest: Digest,
}

impl Builder<'_> {
    /// The own kernel, built unless the cache has it.
    pub(super) fn own_kernel(&mut self) -> Result<Kernel, BuildError> {
        if arch::debian() != "amd64" {
            return Err(KernelError::Arch { arch: arch::debian() }.into());
        }
        let progress = self.options.progress;
        let config = KernelConfig::load(&self.options.repo_root, arch::debian())?;
        let tree = self.build_tree("kernel")?;
        let inputs = Inputs { format: FORMAT, tree: tree.digest, config: &config.text(), fixed: FIXED };
        let digest = Digest::of(&serde_json::to_vec(&inputs).expect("inputs are plain data"));
        let kernels = self.cache.kind("kernels")?;
        let place = kernels.join(format!("{NAME}-{}", &digest.hex()[..16]));
        if let Some(kernel) = finished(&place)? {
            cache::used_again(&place)?;
            progress.step("kernel", Step::Done);
            return Ok(kernel);
        }
        let log = place.with_extension("log");
        let kernel = self.cache.long_work("kernel", progress, |work| {
            // Another build may have made it while this one waited.
            if let Some(kernel) = finished(&place)? {
                return Ok(kernel);
            }
            let build = Build { tree: &tree, config: &config, work, log: &log, progress };
            let built = build.run(digest, &place);
            // Gigabytes, of which only the log is of use when it failed.
            empty(work)?;
            built
        })?;
        cache::keep_newest(&kernels, NAME, KEPT)?;
        progress.step("kernel", Step::Done);
        Ok(kernel)
    }
}

/// The kernel in a folder of the cache, if it is whole.
fn finished(place: &Path) -> Result<Option<Kernel>, FileError> {
    let file = place.join("kernel.json");
    let bytes = match fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("read", &file)(error)),
    };
    // One that is not understood is of another version of StratOS; the kernel is built again.
    let Ok(record) = serde_json::from_slice::<Record>(&bytes) else { return Ok(None) };
    Ok(Some(Kernel {
        version: record.version,
        image: place.join("bzImage"),
        vmlinux: Some(place.join("vmlinux")),
        modules: None,
        owner: record.owner,
        digest: record.digest,
    }))
}

/// One build.
struct Build<'a> {
    tree: &'a BuildTree,
    config: &'a KernelConfig,
    work: &'a Path,
    log: &'a Path,
    progress: &'a dyn Progress,
}

impl Build<'_> {
    fn run(&self, digest: Digest, place: &Path) -> Result<Kernel, BuildError> {
        empty(self.work)?;
        match fs::remove_file(self.log) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(at("remove", self.log)(error).into());
            }
            _ => {}
        }
        let owner = self.tree.sources.deb.iter().find(|deb| deb.name.starts_with(SOURCE));
        let owner = owner.expect("the description of the tree names the source").name.clone();

        self.progress.step("kernel", Step::Unpack);
        let archive = format!("/usr/src/{owner}.tar.xz");
        let unpack =
            ["--extract", "--no-same-owner", "--strip-components=1", "--directory=/build/src", "--file"];
        self.step("unpacking the source", self.inside(true)?.command("tar").args(unpack).arg(archive))?;

        self.progress.step("kernel", Step::Configure);
        self.config.check_known(&self.work.join("src"))?;
        let asked = self.out().join("asked.config");
        fs::write(&asked, self.config.text()).map_err(at("write", &asked))?;
        let inside = self.inside(false)?;
        let configured = inside.clone().variable("KCONFIG_ALLCONFIG", "/build/out/asked.config");
        self.step("expanding the configuration", configured.command("make").args(MAKE).arg("allnoconfig"))?;
        let expanded = self.out().join(".config");
        let expanded = fs::read_to_string(&expanded).map_err(at("read", &expanded))?;
        self.config.check(&expanded)?;

        self.progress.step("kernel", Step::Compile);
        let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let jobs = format!("--jobs={jobs}");
        self.step("compiling", inside.command("make").args(MAKE).args([&jobs, "bzImage", "vmlinux"]))?;
        let strip = ["--strip-all", "-o", "/build/out/vmlinux.stripped", "/build/out/vmlinux"];
        self.step("stripping", inside.command("strip").args(strip))?;
        self.keep(owner, digest, place)
    }

    /// Takes what was built into the cache.
    fn keep(&self, owner: String, digest: Digest, place: &Path) -> Result<Kernel, BuildError> {
        let release = self.out().join("include/config/kernel.release");
        let version = fs::read_to_string(&release).map_err(at("read", &release))?.trim().to_owned();
        let kept = self.work.join("kept");
        fs::create_dir(&kept).map_err(at("create", &kept))?;
        for (from, to) in [
            ("arch/x86/boot/bzImage", "bzImage"),
            ("vmlinux.stripped", "vmlinux"),
            ("System.map", "System.map"),
            (".config", "config"),
            ("asked.config", "asked.config"),
        ] {
            let (from, to) = (self.out().join(from), kept.join(to));
            fs::copy(&from, &to).map_err(at("copy", &from))?;
            let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o644);
            fs::set_permissions(&to, mode).map_err(at("set the mode of", &to))?;
            fs::File::open(&to).and_then(|file| file.sync_all()).map_err(at("sync", &to))?;
        }
        let record = Record { version, owner, digest };
        let json = serde_json::to_vec_pretty(&record).expect("a record is plain data");
        replace_file(&kept.join("kernel.json"), &json)?;
        if place.exists() {
            fs::remove_dir_all(place).map_err(at("remove", place))?;
        }
        fs::rename(&kept, place).map_err(at("rename", &kept))?;
        Ok(finished(place)?.expect("it was written just now"))
    }

    fn out(&self) -> PathBuf {
        self.work.join("out")
    }

    fn inside(&self, unpacking: bool) -> Result<Inside, FileError> {
        let part = |name: &str| {
            let folder = self.work.join(name);
            fs::create_dir_all(&folder).map_err(at("create", &folder)).map(|()| folder)
        };
        let inside = Inside::new(&self.tree.root, &part("root")?).write(&part("out")?, "/build/out");
        let source = part("src")?;
        let inside = match unpacking {
            true => inside.write(&source, "/build/src"),
            false => inside.read(&source, "/build/src"),
        };
        Ok(FIXED.iter().fold(inside, |inside, (name, value)| inside.variable(name, value)))
    }

    /// Runs a program, its output kept in the log, and shows how far it is.
    fn step(&self, step: &'static str, command: &mut Command) -> Result<(), BuildError> {
        let mut files = 0_u32;
        let shown = |lines: &str| {
            let compiled = |line: &&str| line.starts_with("  CC ") || line.starts_with("  AS ");
            files += u32::try_from(lines.lines().filter(compiled).count()).unwrap_or_default();
            if let Some(last) = lines.lines().last() {
                self.progress.detail("kernel", &format!("{files} files, {}", last.trim()));
            }
        };
        watch::logged(command, self.log, shown).map_err(|source| BuildError::Inside {
            what: "kernel".to_owned(),
            step,
            log: self.log.to_owned(),
            source,
        })
    }
}

/// Makes a folder empty.
fn empty(folder: &Path) -> Result<(), FileError> {
    fs::remove_dir_all(folder).and_then(|()| fs::create_dir(folder)).map_err(at("clear", folder))
}
