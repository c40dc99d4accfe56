//! What every privileged test of this crate needs: a sandbox in a folder of its own, images, plans.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::ffi::CString;
use std::fs;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use stratos_checkpoint::dump::DumpError;
use stratos_checkpoint::image::Image as Checkpoint;
use stratos_sandbox::{
    Image, Instance, InstancePlan, Sandbox, SandboxConfig, SeccompFilter, checkpoint, template,
};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A sandbox, its folder, and the images of its tests.
pub(crate) struct Rig {
    pub(crate) layer: Arc<Image>,
    pub(crate) function: Arc<Image>,
    pub(crate) sandbox: Sandbox,
    pub(crate) dir: tempfile::TempDir,
}

/// Why the privileged tests cannot run here.
pub(crate) fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".into());
    }
    if native_layer().is_none() {
        return Some(format!(
            "no layer `native` in {} (build it with `stratos layer build native`)",
            cache().display()
        ));
    }
    if Command::new("mkfs.erofs").arg("--version").output().is_err() {
        return Some("no mkfs.erofs (package erofs-utils)".into());
    }
    None
}

/// A rig, or `None` after saying that `test` is skipped and why. With `CI=true` nothing is skipped.
pub(crate) fn rig(test: &str) -> Option<Rig> {
    if let Some(obstacle) = obstacle() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} must run in CI: {obstacle}");
        eprintln!("skipped: {test}: {obstacle}");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let sandbox = open(dir.path());
    let image = function_image(dir.path());
    let function = sandbox.mount_image(&image).unwrap();
    let layer = sandbox.mount_image(&native_layer().unwrap()).unwrap();
    Some(Rig { layer, function, sandbox, dir })
}

pub(crate) fn open(dir: &Path) -> Sandbox {
    Sandbox::open(config(dir)).unwrap()
}

pub(crate) fn config(dir: &Path) -> SandboxConfig {
    SandboxConfig {
        state_dir: dir.to_owned(),
        run_dir: dir.join("run"),
        require_limits: false,
        netns_pool: 2,
        cgroup: None,
        swap_percent: 0,
    }
}

fn cache() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    from("STRATOS_CACHE").unwrap_or_else(|| {
        from("XDG_CACHE_HOME")
            .unwrap_or_else(|| from("HOME").unwrap_or_else(|| "/root".into()).join(".cache"))
            .join("stratos")
    })
}

pub(crate) fn native_layer() -> Option<PathBuf> {
    layer("native")
}

/// A layer of the cache.
pub(crate) fn layer(name: &str) -> Option<PathBuf> {
    let layers = cache().join("layers");
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(layers.join(format!("{name}.json"))).ok()?).unwrap();
    Some(layers.join(manifest["image"].as_str().unwrap()))
}

/// An image that holds the probe as `/var/task/probe`.
pub(crate) fn function_image(dir: &Path) -> PathBuf {
    let source = dir.join("function");
    fs::create_dir_all(&source).unwrap();
    fs::copy(probe(), source.join("probe")).unwrap();
    let workloads = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/workloads");
    for name in ["restored.py", "draw.py", "draw.cjs", "vectors.py", "functional.cjs", "functional.py"] {
        fs::copy(workloads.join(name), source.join(name)).unwrap();
    }
    let image = dir.join("function.erofs");
    let made = Command::new("mkfs.erofs").arg("--quiet").arg(&image).arg(&source).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    image
}

/// The example `probe`, which cargo builds along with the tests.
fn probe() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    let probe = path.with_file_name("examples").join("probe");
    assert!(probe.exists(), "run `cargo build -p stratos-sandbox --example probe` first");
    probe
}

impl Rig {
    /// A plan to run the probe.
    pub(crate) fn plan(&self, id: &str, told: &str) -> InstancePlan {
        InstancePlan {
            id: id.into(),
            layer: Arc::clone(&self.layer),
            function: Arc::clone(&self.function),
            argv: strings(&["/var/task/probe", told]),
            env: strings(&["HOME=/tmp"]),
            memory_bytes: 128 << 20,
            cpu_millis: Some(1000),
            reserved_cpus: false,
            pids_max: 32,
            tmp_bytes: 1 << 20,
            seccomp: Arc::new(SeccompFilter::for_runtime("native").unwrap()),
            egress: None,
            hostname: "function".into(),
        }
    }
}

pub(crate) fn strings(texts: &[&str]) -> Vec<CString> {
    texts.iter().map(|text| CString::new(*text).unwrap()).collect()
}

/// Waits until a descriptor is readable or closed at the other end.
pub(crate) fn readable(fd: impl AsFd) {
    let timeout = rustix::time::Timespec::try_from(PATIENCE).unwrap();
    let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap();
    assert!(ready > 0, "nothing came in {PATIENCE:?}");
}

/// Everything up to the end of a pipe that does not block.
pub(crate) fn read_all(fd: OwnedFd) -> String {
    let mut file = fs::File::from(fd);
    let mut bytes = Vec::new();
    loop {
        match file.read_to_end(&mut bytes) {
            Ok(_) => return String::from_utf8(bytes).unwrap(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => readable(&file),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Reads a byte of a status pipe.
pub(crate) fn status_byte(fd: impl AsFd) -> u8 {
    readable(&fd);
    let mut byte = [0];
    assert_eq!(rustix::io::read(&fd, &mut byte).unwrap(), 1, "the status pipe closed");
    byte[0]
}

/// Runs an instance to its end: what it wrote, and how it ended. Releases it at once.
pub(crate) fn run(instance: &mut Instance) -> (String, stratos_sandbox::Exit) {
    drop(instance.take_park());
    let output = read_all(instance.take_stdout());
    let errors = read_all(instance.take_stderr());
    assert_eq!(errors, "", "after {output}");
    (output, instance.wait().unwrap())
}

/// The rest of the line that starts with `name`.
pub(crate) fn line<'a>(output: &'a str, name: &str) -> &'a str {
    let find = |line: &'a str| line.strip_prefix(name)?.strip_prefix(' ');
    output.lines().find_map(find).unwrap_or_else(|| panic!("no {name} in {output}"))
}

/// Waits for a condition that no descriptor tells of.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// A plan to run a workload with the runtime that its name tells. A number makes its name its own: the cgroup of one of
/// the same name that has ended may be there for a moment more.
pub(crate) fn workload(rig: &Rig, id: &str, file: &str) -> InstancePlan {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let id = &format!("{id}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let path = format!("/var/task/{file}");
    let (runtime, argv) = match file.ends_with(".py") {
        true => ("python3.13", vec!["/usr/bin/python3.13", "-S", "-B", &path]),
        false => ("node24", vec!["/usr/bin/node", &path]),
    };
    let image = layer(runtime).expect("layers are built before the tests");
    InstancePlan {
        layer: rig.sandbox.mount_image(&image).unwrap(),
        argv: strings(&argv),
        env: strings(&["HOME=/tmp", "STRATOS_CHECKPOINT=1"]),
        seccomp: Arc::new(SeccompFilter::for_runtime(runtime).unwrap()),
        memory_bytes: 256 << 20,
        pids_max: 64,
        tmp_bytes: 16 << 20,
        ..rig.plan(id, "")
    }
}

/// Waits until it has said that it is about to park, and a moment more until it does.
pub(crate) fn parked(rig: &Rig, plan: &InstancePlan, image: &Path) -> Instance {
    let mut instance = rig.sandbox.start(plan).unwrap();
    let status = instance.take_status();
    while status_byte(&status) != b'P' {}
    for _ in 0..1000 {
        match checkpoint(&instance, "test", image) {
            Ok(_) => return instance,
            Err(DumpError::NotParked { .. }) => thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it never parks")
}

/// A release frame (docs/formats/release-frame.md) with this seed.
pub(crate) fn frame(seed: [u8; 32]) -> Vec<u8> {
    let mut frame = b"SREL\x01\0\0\0".to_vec();
    frame.extend_from_slice(&1_700_000_000_000_000_000_u64.to_le_bytes());
    frame.extend_from_slice(&seed);
    frame.extend_from_slice(&0_u32.to_le_bytes());
    frame
}

/// Releases an instance and gives what it says.
pub(crate) fn released(instance: &mut Instance, bytes: impl AsRef<[u8]>) -> String {
    let mut park = fs::File::from(instance.take_park());
    park.write_all(bytes.as_ref()).unwrap();
    drop(park);
    let output = read_all(instance.take_stdout());
    let errors = read_all(instance.take_stderr());
    let exit = instance.wait().unwrap();
    assert_eq!((exit.code, exit.signal, errors.as_str()), (Some(0), None, ""), "{output}");
    output
}

/// Restores `count` instances of a workload, `at_once` at the same time, and gives what each says.
pub(crate) fn restore_many(rig: &Rig, file: &str, count: usize, at_once: usize) -> Vec<String> {
    let path = rig.dir.path().join(format!("{file}.image"));
    drop(parked(rig, &workload(rig, "original", file), &path));
    let image = Checkpoint::open(&path).unwrap();
    let template = template(&image, &workload(rig, "template", file)).unwrap();
    let next = AtomicUsize::new(0);
    let outputs = Mutex::new(Vec::with_capacity(count));
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let plan = workload(rig, &format!("clone-{number}"), file);
                    let mut instance = rig.sandbox.restore(&plan, &template, &[]).unwrap();
                    let mut seed = [0; 32];
                    fs::File::open("/dev/urandom").unwrap().read_exact(&mut seed).unwrap();
                    let output = released(&mut instance, frame(seed));
                    outputs.lock().unwrap().push(output);
                }
            });
        }
    });
    outputs.into_inner().unwrap()
}
