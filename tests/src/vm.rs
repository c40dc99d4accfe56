//! A virtual machine for what this machine's kernel may lack: Debian's kernel in QEMU, and in its memory a program of
//! this build with what it needs. It has no disk and no network, and needs neither root nor KVM.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use stratos_image::{Archive, BuildOptions, Progress, Step};
use stratos_vm::{Accelerator, Qemu};

/// Kernel modules that sandboxes need, each after those it depends on: paths below `kernel/`, without suffix.
pub const MODULES: &[&str] = &["lib/libcrc32c", "fs/erofs/erofs", "drivers/block/loop", "drivers/net/veth"];

/// Where the machine finds what it is to do: [`Task`] as JSON.
pub const TASK: &str = "/task.json";

/// Tells programs that they run in the machine.
const INSIDE: &str = "STRATOS_INSIDE_VM";
/// The emulator; the machine is an x86-64 one.
const QEMU: &str = "qemu-system-x86_64";
/// Folder of programs in the machine.
const PROGRAMS: &str = "/t";
/// Runtime layers in the machine.
const LAYERS: &str = "/layers";

/// What the machine's first process starts.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables.
    pub environment: Vec<(String, String)>,
}

/// What a machine is to run, what that needs, and what the machine is like.
#[derive(Debug)]
pub struct Job {
    /// Arguments of the program, which is the one that asks.
    pub arguments: Vec<String>,
    /// Programs of this machine that are in it beside that one, with their libraries; they are in one folder.
    pub programs: Vec<PathBuf>,
    /// Other files, and where they are in it.
    pub files: Vec<(PathBuf, PathBuf)>,
    /// Folders of the repository that are in it, at the same place.
    pub folders: &'static [&'static str],
    /// Runtime layers that are in it.
    pub layers: Vec<&'static str>,
    /// Number of CPUs.
    pub cpus: u32,
    /// Memory in MiB: what is in it twice while it is unpacked, and the functions.
    pub memory_mib: u32,
    /// How instructions are run.
    pub accelerator: Accelerator,
    /// How long everything may take.
    pub patience: Duration,
}

impl Job {
    /// All tests of this test program.
    ///
    /// # Errors
    /// When an example that they deploy cannot be built.
    pub fn tests() -> Result<Self> {
        Ok(Self {
            arguments: vec!["--test-threads=1".into()],
            programs: vec![crate::program("stratosd")],
            files: vec![(crate::package::native_example()?, "/t/hello-native".into())],
            folders: &["examples/hello-native", "examples/hello-python"],
            layers: vec!["native", "python3.13", "tools"],
            cpus: 2,
            memory_mib: 1024,
            accelerator: Accelerator::Emulation,
            // A slow and busy machine.
            patience: Duration::from_secs(600),
        })
    }
}

/// Pause between two looks whether to go on.
const LOOK: Duration = Duration::from_millis(200);

/// What came of a run.
pub struct Run {
    /// Exit code of the program; `None` when a signal ended it, or the machine did not come to that.
    pub exit: Option<i32>,
    /// Everything on the console.
    pub console: String,
}

/// Whether this process runs in the machine.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
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

/// The kernel itself in the folder of its files.
///
/// # Errors
/// When there is none.
pub fn vmlinuz(kernel: &Path) -> Result<PathBuf> {
    only(&kernel.join("boot"), "vmlinuz-")
}

/// Boots a machine with this program in it and waits until it powers off. `look` is asked now and then whether to go
/// on.
///
/// # Errors
/// When the machine cannot be put together or QEMU cannot be started, and those of `look`.
pub fn run(job: &Job, look: impl Fn() -> Result<()>) -> Result<Run> {
    let kernel = kernel().context("no kernel for the machine")?;
    let dir = tempfile::tempdir()?;
    let image = dir.path().join("initramfs");
    write_image(job, &kernel, &image).context("cannot write the machine's image")?;
    let mut command = qemu(job, &vmlinuz(&kernel)?, &image)?;
    // A process group of its own: Ctrl-C reaches this program alone, which then ends the machine.
    let mut child = command.process_group(0).spawn().context("cannot start QEMU")?;
    let stdout = child.stdout.take().context("stdout is a pipe")?;
    // Nothing is ever sent: it closes with the console.
    let (open, closed) = channel::<()>();
    let reader = std::thread::spawn(move || {
        let console = read_console(stdout);
        drop(open);
        console
    });
    let begun = Instant::now();
    let mut go_on = Ok(());
    while closed.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        go_on = look();
        if go_on.is_err() || begun.elapsed() > job.patience {
            eprintln!("the machine is killed after {:?}", begun.elapsed());
            child.kill()?;
            break;
        }
    }
    child.wait()?;
    go_on?;
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

fn qemu(job: &Job, kernel: &Path, image: &Path) -> Result<Command> {
    let (cpus, memory) = (job.cpus.to_string(), job.memory_mib.to_string());
    let accelerator = match job.accelerator {
        Accelerator::Kvm => "-accel kvm -cpu host".to_owned(),
        Accelerator::Emulation => Qemu::find()?.emulation(job.cpus, false),
    };
    let mut command = Command::new(QEMU);
    command
        .args(["-M", "q35", "-smp", &cpus, "-m", &memory])
        .args(accelerator.split(' '))
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

fn write_image(job: &Job, kernel: &Path, image: &Path) -> Result<()> {
    let mut archive = Archive::new(io::BufWriter::new(std::fs::File::create(image)?));
    archive.console()?;
    let modules = only(&kernel.join("usr/lib/modules"), "")?.join("kernel");
    for module in MODULES {
        let name = Path::new(module).file_name().context("a module has a name")?;
        let to = Path::new("modules").join(name).with_extension("ko.xz");
        archive.file(&modules.join(module).with_extension("ko.xz"), &to)?;
    }
    let own = std::env::current_exe()?;
    let mut libraries = BTreeSet::new();
    let mut add = |from: &Path, to: &Path| -> Result<()> {
        archive.file(from, to)?;
        libraries.extend(shared_libraries(from)?);
        Ok(())
    };
    add(&crate::program("vm-init"), Path::new("init"))?;
    for program in job.programs.iter().chain([&own]) {
        add(program, &in_machine(program)?)?;
    }
    for library in libraries {
        archive.file(&library, &library)?;
    }
    let folders = job.folders.iter().map(|folder| crate::repository().join(folder));
    folders.into_iter().try_for_each(|folder| archive.tree(&folder))?;
    for (from, to) in &job.files {
        archive.file(from, to)?;
    }
    for name in &job.layers {
        let manifest = crate::layers_dir().join(format!("{name}.json"));
        let text = std::fs::read(&manifest).with_context(|| format!("no layer {name}; run `make layers`"))?;
        let described: stratos_types::LayerManifest = serde_json::from_slice(&text)?;
        let to = |file: &str| Path::new(LAYERS).join(file);
        archive.file(&manifest, &to(&format!("{name}.json")))?;
        archive.file(&crate::layers_dir().join(&described.image), &to(&described.image))?;
    }
    let program = in_machine(&own)?.to_string_lossy().into_owned();
    let variables = [(INSIDE, "1"), ("STRATOS_LAYERS", LAYERS), ("HOME", "/tmp"), ("PATH", PROGRAMS)];
    let variables = variables.into_iter().chain([("RUST_BACKTRACE", "0")]);
    let task = Task {
        command: [program].into_iter().chain(job.arguments.iter().cloned()).collect(),
        environment: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    };
    let mut file = tempfile::NamedTempFile::new()?;
    serde_json::to_writer(&mut file, &task)?;
    archive.file(file.path(), Path::new(TASK))?;
    archive.finish()?;
    Ok(())
}

/// Where a program is in the machine.
fn in_machine(program: &Path) -> Result<PathBuf> {
    let name = program.file_name().context("a program has a name")?;
    Ok(Path::new(PROGRAMS).join(name))
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
