//! A virtual machine for tests of what this machine's kernel may lack: Debian's kernel in QEMU, and in its memory a
//! test program of this build with what it needs. It has no disk and no network, and needs neither root nor KVM.

use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use stratos_image::{Archive, BuildOptions, Progress, Step};
use stratos_vm::Qemu;

/// Kernel modules that sandboxes need, each after those it depends on: paths below `kernel/`, without suffix.
pub const MODULES: &[&str] = &["lib/libcrc32c", "fs/erofs/erofs", "drivers/block/loop", "drivers/net/veth"];

/// What runs in the machine, in its folder.
pub const PROGRAM: &[&str] = &["/t/vm", "--test-threads=1"];

/// Environment of the program. `STRATOS_INSIDE_VM` tells tests where they are.
pub const ENVIRONMENT: &[(&str, &str)] =
    &[("STRATOS_INSIDE_VM", "1"), ("STRATOS_LAYERS", "/layers"), ("HOME", "/tmp"), ("RUST_BACKTRACE", "0")];

/// The emulator; the machine is an x86-64 one.
const QEMU: &str = "qemu-system-x86_64";
/// Folders of the repository that are in the machine, at the same place.
const FOLDERS: &[&str] = &["examples/hello-native", "examples/hello-python"];
/// Runtime layers in the machine.
const LAYERS: &[&str] = &["native", "python3.13", "tools"];
/// CPUs of the machine.
const CPUS: u32 = 2;
/// Memory of the machine in MiB: the image twice while it is unpacked, and the functions.
const MEMORY_MIB: u32 = 1024;
/// How long everything may take on a slow and busy machine without KVM.
const PATIENCE: Duration = Duration::from_secs(600);

/// What came of a run.
pub struct Run {
    /// Exit code of the program; `None` when a signal ended it, or the machine did not come to that.
    pub exit: Option<i32>,
    /// Everything on the console.
    pub console: String,
}

/// Whether this process runs in the machine.
pub fn is_inside() -> bool {
    std::env::var_os(ENVIRONMENT[0].0).is_some()
}

/// Why there can be no such machine here.
pub fn obstacle() -> Option<&'static str> {
    if std::env::consts::ARCH != "x86_64" {
        return Some("its machine is an x86-64 one");
    }
    let qemu = Command::new(QEMU).arg("--version").stdout(Stdio::null()).status();
    qemu.is_err().then_some("no qemu-system-x86_64 (package qemu-system-x86)")
}

/// Fetches the machine's kernel, unless the cache or the folder `STRATOS_VM_KERNEL` has it, and gives the folder of
/// its files.
///
/// # Errors
/// When it cannot be fetched.
pub fn kernel() -> Result<PathBuf> {
    if let Some(kernel) = std::env::var_os("STRATOS_VM_KERNEL").filter(|kernel| !kernel.is_empty()) {
        return Ok(kernel.into());
    }
    let cache = stratos_image::default_cache_dir().context("HOME is not set")?;
    Ok(stratos_image::fetch_kernel(&BuildOptions::new(cache, crate::repository().to_owned(), &Notices))?)
}

/// Shows what somebody has to know, and no progress.
struct Notices;

impl Progress for Notices {
    fn step(&self, _: &str, _: Step) {}
    fn bytes(&self, _: &str, _: u64, _: u64) {}
    fn notice(&self, message: &str) {
        eprintln!("{message}");
    }
}

/// Boots a machine with this test program in it and waits until it powers off.
///
/// # Errors
/// When the machine cannot be put together or QEMU cannot be started.
pub fn run() -> Result<Run> {
    let kernel = kernel().context("no kernel for the machine")?;
    let dir = tempfile::tempdir()?;
    let image = dir.path().join("initramfs");
    write_image(&kernel, &image).context("cannot write the machine's image")?;
    let mut child =
        qemu(&only(&kernel.join("boot"), "vmlinuz-")?, &image)?.spawn().context("cannot start QEMU")?;
    let stdout = child.stdout.take().context("stdout is a pipe")?;
    // Nothing is ever sent: it closes with the console.
    let (open, closed) = channel::<()>();
    let reader = std::thread::spawn(move || {
        let console = read_console(stdout);
        drop(open);
        console
    });
    if closed.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
        eprintln!("the machine is killed after {PATIENCE:?}");
        child.kill()?;
    }
    child.wait()?;
    let console = reader.join().map_err(|_| anyhow::anyhow!("the console's reader panicked"))??;
    let report = console.lines().rev().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let exit = report.and_then(|report| report["exit"].as_i64()).and_then(|code| i32::try_from(code).ok());
    Ok(Run { exit, console })
}

/// Shows the console as it comes, so that a run that hangs can be understood.
fn read_console(stdout: impl io::Read) -> io::Result<String> {
    let begun = Instant::now();
    let mut console = String::new();
    let mut lines = BufReader::new(stdout);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        eprintln!("[{:6.1}] {text}", begun.elapsed().as_secs_f64());
        console += &text;
        console.push('\n');
        line.clear();
    }
    Ok(console)
}

fn qemu(kernel: &Path, image: &Path) -> Result<Command> {
    let emulation = Qemu::find()?.emulation(CPUS, false);
    let mut command = Command::new(QEMU);
    command
        .args(["-M", "q35", "-smp", &CPUS.to_string(), "-m", &MEMORY_MIB.to_string()])
        .args(emulation.split(' '))
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        // ramfs: EROFS mounts from its files, and not from those of tmpfs.
        .args(["-append", "console=ttyS0 loglevel=3 panic=-1 rootfstype=ramfs rdinit=/init"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    Ok(command)
}

/// The one entry of a folder that begins with `prefix`.
fn only(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let names = entries.collect::<io::Result<Vec<_>>>()?;
    let mut found = names.iter().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    let first = found.next().with_context(|| format!("no {prefix} in {}", dir.display()))?;
    ensure!(found.next().is_none(), "more than one {prefix} in {}", dir.display());
    Ok(first.path())
}

fn write_image(kernel: &Path, image: &Path) -> Result<()> {
    let mut archive = Archive::new(io::BufWriter::new(std::fs::File::create(image)?));
    archive.console()?;
    let modules = only(&kernel.join("usr/lib/modules"), "")?.join("kernel");
    for module in MODULES {
        let name = Path::new(module).file_name().context("a module has a name")?;
        let to = Path::new("modules").join(name).with_extension("ko.xz");
        archive.file(&modules.join(module).with_extension("ko.xz"), &to)?;
    }
    let programs = [
        (crate::program("vm-init"), "init"),
        (std::env::current_exe()?, PROGRAM[0]),
        (crate::program("stratosd"), "t/stratosd"),
    ];
    let mut libraries = std::collections::BTreeSet::new();
    for (from, to) in &programs {
        archive.file(from, Path::new(to))?;
        libraries.extend(shared_libraries(from)?);
    }
    for library in libraries {
        archive.file(&library, &library)?;
    }
    for folder in FOLDERS {
        archive.tree(&crate::repository().join(folder))?;
    }
    archive.file(&crate::package::native_example()?, Path::new("t/hello-native"))?;
    for name in LAYERS {
        let manifest = crate::layers_dir().join(format!("{name}.json"));
        let text = std::fs::read(&manifest).with_context(|| format!("no layer {name}; run `make layers`"))?;
        let described: stratos_types::LayerManifest = serde_json::from_slice(&text)?;
        archive.file(&manifest, Path::new(&format!("layers/{name}.json")))?;
        archive
            .file(&crate::layers_dir().join(&described.image), &Path::new("layers").join(&described.image))?;
    }
    archive.finish()?;
    Ok(())
}

/// The shared libraries of a program, its loader included.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
    if !output.status.success() {
        bail!("ldd {}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    // `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader.
    let text = String::from_utf8(output.stdout)?;
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(text.lines().filter_map(path).collect())
}
