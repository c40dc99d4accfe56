//! What the peers run: the runtime layer unpacked into a folder, the fixture beside it, and an OCI configuration.
//!
//! Where a choice could cost the peers time that StratOS would not pay, it is made in their favour: they run in the
//! host's network namespace, without resource limits unless those are what is compared, and on files that were all read
//! just before.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use stratos_types::LayerManifest;
use tempfile::TempDir;

use crate::fixture::{Fixture, Runtime};

/// User and group of the peers' processes: nobody.
const NOBODY: u32 = 65534;
/// The system calls that StratOS allows every function.
const SECCOMP: &str = include_str!("../../distro/seccomp/base.json");

/// Where limits of cgroup v2 are, where it is all there is.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What peers run. Removed when dropped.
pub(crate) struct Bundle {
    /// Before the folder it is in.
    _root: Option<Mount>,
    dir: TempDir,
    runtime: Runtime,
    fixture: Fixture,
    seccomp: Value,
    /// Memory limit of a container in bytes.
    memory: Option<u64>,
}

/// A mounted image. Unmounted when dropped.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH) {
            eprintln!("warning: {} stays mounted: {error}", self.0.display());
        }
    }
}

impl Bundle {
    /// Unpacks a runtime's layer.
    ///
    /// # Errors
    /// When the layer was not built, or cannot be mounted or copied.
    pub(crate) fn unpack(runtime: Runtime, fixture: Fixture) -> Result<Self> {
        let layers = stratos_tests::layers_dir();
        let manifest = layers.join(format!("{}.json", runtime.name()));
        let manifest = fs::read(&manifest).with_context(|| {
            format!("read {}; `stratos layer build` makes the layers", manifest.display())
        })?;
        let manifest: LayerManifest = serde_json::from_slice(&manifest).context("a layer's manifest")?;
        let dir = tempfile::Builder::new().prefix("stratos-bench-").tempdir()?;
        let (image, rootfs) = (dir.path().join("image"), dir.path().join("rootfs"));
        for folder in [&image, &rootfs, &dir.path().join("task")] {
            fs::create_dir(folder)?;
        }
        run(Command::new("mount")
            .args(["-t", "erofs", "-o", "ro"])
            .arg(layers.join(manifest.image))
            .arg(&image))?;
        {
            let _mounted = Mount(image.clone());
            run(Command::new("cp").args(["--archive", "--no-target-directory"]).args([&image, &rootfs]))?;
        }
        Ok(Self { _root: None, dir, runtime, fixture, seccomp: seccomp(SECCOMP)?, memory: None })
    }

    /// A root file system's EROFS image with the fixture's server, for containers with a memory limit in bytes.
    ///
    /// # Errors
    /// When the image cannot be mounted.
    pub(crate) fn mount(image: &Path, runtime: Runtime, fixture: Fixture, memory: u64) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("stratos-bench-").tempdir()?;
        let (rootfs, task) = (dir.path().join("rootfs"), dir.path().join("task"));
        for folder in [&rootfs, &task] {
            fs::create_dir(folder)?;
        }
        fs::write(task.join(runtime.server_file(fixture)), runtime.server(fixture))?;
        stratos_sys::erofs::mount(image, &rootfs).with_context(|| format!("mount {}", image.display()))?;
        let root = Some(Mount(rootfs));
        Ok(Self { _root: root, dir, runtime, fixture, seccomp: seccomp(SECCOMP)?, memory: Some(memory) })
    }

    /// Puts the files of a deployed function into the bundle: the peers run the same bytes.
    ///
    /// # Errors
    /// When the image cannot be mounted or copied.
    pub(crate) fn add_function(&self, image: &Path) -> Result<()> {
        let point = self.dir.path().join("image");
        run(Command::new("mount").args(["-t", "erofs", "-o", "ro,loop"]).args([image, &point]))?;
        let _mounted = Mount(point.clone());
        run(Command::new("cp").args(["--archive", "--no-target-directory"]).args([&point, &self.task()]))
    }

    /// The bundle's folder, as `--bundle` takes it.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Which runtime this is.
    pub(crate) fn runtime(&self) -> Runtime {
        self.runtime
    }

    /// File name of the server.
    pub(crate) fn server_file(&self) -> &'static str {
        self.runtime.server_file(self.fixture)
    }

    /// The folder with the server's code.
    pub(crate) fn task(&self) -> PathBuf {
        self.dir.path().join("task")
    }

    /// Where a path of the layer is outside of it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("rootfs").join(path.trim_start_matches('/'))
    }

    /// The layer's dynamic loader and the folder of its libraries, to run its programs outside of any sandbox.
    ///
    /// # Errors
    /// When the layer has none.
    pub(crate) fn loader(&self) -> Result<(PathBuf, PathBuf)> {
        let lib = self.path("/usr/lib");
        for folder in fs::read_dir(&lib).with_context(|| format!("read {}", lib.display()))? {
            let folder = folder?.path();
            let Ok(files) = fs::read_dir(&folder) else { continue };
            for file in files {
                let file = file?;
                if file.file_name().to_string_lossy().starts_with("ld-linux") {
                    return Ok((file.path(), folder));
                }
            }
        }
        bail!("no dynamic loader under {}", lib.display())
    }

    /// Writes `config.json` for a container that serves on `port`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn configure(&self, id: &str, port: u16) -> Result<()> {
        let task = self.task();
        let mut config = config([self.runtime.program(), self.server_file()], id, port, &task, &self.seccomp);
        if let Some(limit) = self.memory {
            // The second number is of memory and swap together.
            config["linux"]["resources"] = json!({"memory": {"limit": limit, "swap": limit}});
        }
        fs::write(self.dir().join("config.json"), serde_json::to_vec(&config)?)?;
        Ok(())
    }
}

impl Bundle {
    /// Makes sure that the kernel holds a running container to the memory limit.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn check_limit(&self, id: &str) -> Result<()> {
        let Some(limit) = self.memory else { return Ok(()) };
        for (name, expected) in [("memory.max", limit), ("memory.swap.max", 0)] {
            let file = Path::new(CGROUPS).join(id).join(name);
            let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            ensure!(text.trim() == expected.to_string(), "{} is {}", file.display(), text.trim());
        }
        Ok(())
    }
}

/// The environment of the server outside StratOS.
pub(crate) fn environment(port: u16, task: &Path) -> Vec<(&'static str, String)> {
    // Where a deploy puts a Python function's dependencies.
    let dependencies = task.join(".stratos/python").to_string_lossy().into_owned();
    let fixed = [("PATH", "/usr/bin"), ("HOME", "/tmp"), ("LANG", "C.UTF-8"), ("TZ", ":UTC")];
    let fixed = fixed.map(|(name, value)| (name, value.to_owned()));
    // Python would otherwise find compiled code from its second start on, which no fresh instance has.
    fixed
        .into_iter()
        .chain([
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
            ("PYTHONPATH", dependencies),
            ("PORT", port.to_string()),
        ])
        .collect()
}

fn config(args: [&str; 2], id: &str, port: u16, task: &Path, seccomp: &Value) -> Value {
    let env: Vec<String> = environment(port, Path::new("/var/task"))
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let namespaces = ["pid", "mount", "ipc", "uts", "cgroup"].map(|name| json!({"type": name}));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": NOBODY, "gid": NOBODY},
            "args": args,
            "env": env,
            "cwd": "/var/task",
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": [], "effective": [], "inheritable": [], "permitted": [], "ambient": []
            },
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "hello",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "nodev", "mode=1777", "size=64m"]},
            {"destination": "/var/task", "type": "bind", "source": task,
                "options": ["bind", "ro", "nosuid", "nodev"]},
        ],
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": format!("/{id}"),
            "seccomp": seccomp,
        },
    })
}

#[derive(Deserialize)]
struct Profile {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    syscalls: BTreeSet<String>,
    action: Value,
}

/// A peer's filter: the system calls of StratOS's profile, without its checks of arguments, which only makes it
/// shorter. What is not listed answers ENOSYS.
fn seccomp(profile: &str) -> Result<Value> {
    let profile: Profile = serde_json::from_str(profile).context("the system call profile")?;
    let allowed: BTreeSet<String> = profile
        .rules
        .into_iter()
        .filter(|rule| rule.action == "allow")
        .flat_map(|rule| rule.syscalls)
        .collect();
    ensure!(!allowed.is_empty(), "the system call profile allows nothing");
    const ENOSYS: u32 = 38;
    Ok(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": ENOSYS,
        "syscalls": [{"names": allowed, "action": "SCMP_ACT_ALLOW"}],
    }))
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("start `{name}`"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{name}` failed ({}): {}", output.status, stderr.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_of_the_peers_is_that_of_stratos_without_arguments() {
        let filter = seccomp(SECCOMP).unwrap();
        let names: Vec<&str> = filter["syscalls"][0]["names"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect();
        for allowed in ["read", "execve", "clone", "socket", "prctl"] {
            assert!(names.contains(&allowed), "{allowed}");
        }
        for refused in ["io_uring_setup", "clone3", "ptrace", "mount", "bpf"] {
            assert!(!names.contains(&refused), "{refused}");
        }
        assert!(seccomp(r#"{"rules": []}"#).is_err());
    }

    #[test]
    fn a_container_has_what_an_instance_has() {
        let config = config(["/usr/bin/node", "server.js"], "some", 4711, Path::new("/b/task"), &json!({}));
        assert_eq!(config["process"]["args"], json!(["/usr/bin/node", "server.js"]));
        assert_eq!(config["root"]["readonly"], true);
        assert_eq!(config["process"]["capabilities"]["bounding"], json!([]));
        assert_eq!(config["linux"]["cgroupsPath"], "/some");
        let env = config["process"]["env"].as_array().unwrap();
        assert!(env.contains(&json!("PORT=4711")), "{env:?}");
    }
}
