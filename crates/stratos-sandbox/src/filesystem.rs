//! The agent's own mount points, and the parts of an instance's root that all instances share.
//!
//! Everything lies on one tmpfs over the run directory, in the agent's private mount namespace: nothing shows on the
//! host, and when the agent dies, by whatever signal, the namespace takes all of it along.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

/// Device nodes of an instance, with their minor numbers under the major number 1 (memory devices).
const DEVICES: [(&str, u32); 5] = [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)];
const DEVICE_MAJOR: u32 = 1;
/// Symbolic links in /dev. There is no /dev/shm: shared memory would escape the limit on /tmp.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];
/// Entries of /proc that tell of the host rather than of the instance, or that control it. Most are closed to other
/// users than root anyway; covering them does not depend on that. Relative to the instance's root.
const MASKED: [&CStr; 13] = [
    c"proc/acpi",
    c"proc/asound",
    c"proc/kallsyms",
    c"proc/kcore",
    c"proc/key-users",
    c"proc/keys",
    c"proc/kmsg",
    c"proc/latency_stats",
    c"proc/modules",
    c"proc/sched_debug",
    c"proc/scsi",
    c"proc/sysrq-trigger",
    c"proc/timer_list",
];

/// An entry of /proc to cover, by a path relative to the instance's root.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mask {
    pub(crate) path: &'static CStr,
    pub(crate) directory: bool,
}

/// Where things are. Dropping it unmounts everything below the run directory.
#[derive(Debug)]
pub(crate) struct Filesystem {
    /// Held for its drop.
    _run: Tmpfs,
    /// Directory of the mount points of images.
    pub(crate) images: PathBuf,
    /// Where a new process mounts its root, in its own mount namespace.
    pub(crate) root: CString,
    /// The shared, read-only /dev.
    pub(crate) dev: CString,
    /// The null device in it.
    pub(crate) null: CString,
    /// An empty read-only directory.
    pub(crate) empty: CString,
    /// Scratch mount point for tests that weaken the root.
    pub(crate) scratch: CString,
    /// What to cover in /proc on this kernel.
    pub(crate) masks: Vec<Mask>,
}

impl Filesystem {
    /// Mounts and fills the run directory. On failure, the place and the reason.
    pub(crate) fn prepare(run_dir: &Path) -> Result<Self, (PathBuf, io::Error)> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error: io::Error| (path, error)
        };
        fs::create_dir_all(run_dir).map_err(at(run_dir))?;
        let run_dir = &fs::canonicalize(run_dir).map_err(at(run_dir))?;
        let run = Tmpfs::mount(run_dir).map_err(at(run_dir))?;
        let directory = |name: &str| {
            let path = run_dir.join(name);
            fs::create_dir(&path).map_err(at(&path))?;
            Ok::<_, (PathBuf, io::Error)>(path)
        };
        let images = directory("images")?;
        let root = directory("root")?;
        let scratch = directory("scratch")?;
        let empty = directory("empty")?;
        let dev = directory("dev")?;
        fill_dev(&dev).map_err(at(&dev))?;
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC;
        read_only_view(&dev, flags).map_err(at(&dev))?;
        read_only_view(&empty, flags | MountFlags::NODEV).map_err(at(&empty))?;
        let c_path =
            |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(|error| at(path)(error.into()));
        Ok(Self {
            _run: run,
            root: c_path(&root)?,
            dev: c_path(&dev)?,
            null: c_path(&dev.join("null"))?,
            empty: c_path(&empty)?,
            scratch: c_path(&scratch)?,
            images,
            masks: masks(),
        })
    }
}

/// A mounted tmpfs for root alone.
#[derive(Debug)]
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(target: &Path) -> io::Result<Self> {
        mount(c"stratos", target, c"tmpfs", MountFlags::NOSUID, c"mode=0700")?;
        Ok(Self(target.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.0, UnmountFlags::DETACH) {
            tracing::warn!(path = %self.0.display(), %error, "cannot unmount the run directory");
        }
    }
}

/// Binds a directory over itself with other mount flags.
fn read_only_view(path: &Path, flags: MountFlags) -> io::Result<()> {
    mount_bind(path, path)?;
    Ok(mount_remount(path, flags | MountFlags::BIND, c"")?)
}

fn fill_dev(dev: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dev, fs::Permissions::from_mode(0o755))?;
    for (name, minor) in DEVICES {
        let path = dev.join(name);
        let device = makedev(DEVICE_MAJOR, minor);
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)?;
        // Making the node applied the umask.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    }
    for (name, target) in LINKS {
        symlink(target, dev.join(name))?;
    }
    Ok(())
}

fn masks() -> Vec<Mask> {
    let on_host = |path: &CStr| Path::new("/").join(std::ffi::OsStr::from_bytes(path.to_bytes()));
    MASKED
        .into_iter()
        .filter_map(|path| {
            let metadata = fs::symlink_metadata(on_host(path)).ok()?;
            Some(Mask { path, directory: metadata.is_dir() })
        })
        .collect()
}
