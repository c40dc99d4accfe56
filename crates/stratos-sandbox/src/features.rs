//! What the host can enforce.

use std::path::{Path, PathBuf};

/// What the host offers to sandboxes, found out once when the sandbox opens.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Features {
    /// Mount point of the cgroup v2 hierarchy, if the host has one.
    pub cgroup_root: Option<PathBuf>,
    /// Memory limits can be enforced.
    pub memory: bool,
    /// CPU limits can be enforced.
    pub cpu: bool,
    /// Limits on the number of processes can be enforced per instance, beyond what the user ID's limit does.
    pub pids: bool,
    /// A whole cgroup can be killed at once (Linux 5.14).
    pub cgroup_kill: bool,
    /// Landlock ABI; 0 without Landlock.
    pub landlock_abi: u32,
    /// Seccomp filters can be installed.
    pub seccomp: bool,
    /// EROFS images mount straight from files (Linux 6.12); else loop devices are used.
    pub erofs_files: bool,
    /// CPUs kept for instances that ask for them.
    pub reserved_cpus: ReservedCpus,
}

/// CPUs kept for instances that ask for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReservedCpus {
    /// Which, as the kernel lists them.
    Kept(String),
    /// Why there are none.
    None(String),
}

/// An ability that the host lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub what: &'static str,
    /// What running without it means.
    pub consequence: &'static str,
}

impl Missing {
    pub(crate) fn list(missing: &[Self]) -> String {
        let texts: Vec<_> = missing.iter().map(|m| format!("no {} ({})", m.what, m.consequence)).collect();
        texts.join(", ")
    }
}

impl Features {
    /// Everything that is missing, the limits first.
    pub fn missing(&self) -> Vec<Missing> {
        let mut missing = self.missing_limits();
        let rest = [
            (self.cgroup_kill, "cgroup.kill", "instances end by the death of their PID 1 alone"),
            (self.landlock_abi > 0, "Landlock", "one layer of protection of files less"),
            (self.seccomp, "seccomp", "every system call is open to functions"),
            (self.erofs_files, "file-backed EROFS", "images need loop devices"),
        ];
        missing.extend(rest.into_iter().filter(|(present, ..)| !present).map(Missing::from_row));
        missing
    }

    /// The cgroup v2 controllers that are missing.
    pub fn missing_limits(&self) -> Vec<Missing> {
        let rows = [
            (self.memory, "cgroup v2 controller `memory`", "a function may take all memory of the host"),
            (self.cpu, "cgroup v2 controller `cpu`", "a function may take all CPU time of the host"),
            (self.pids, "cgroup v2 controller `pids`", "processes are limited per user id only"),
        ];
        rows.into_iter().filter(|(present, ..)| !present).map(Missing::from_row).collect()
    }
}

impl Missing {
    fn from_row((_, what, consequence): (bool, &'static str, &'static str)) -> Self {
        Self { what, consequence }
    }
}

/// True when the kernel installs seccomp filters.
pub(crate) fn seccomp_available() -> bool {
    Path::new("/proc/sys/kernel/seccomp/actions_avail").exists()
}

/// True when EROFS mounts from a file on the filesystem that holds `dir`. Asks the kernel with a nameless file.
pub(crate) fn erofs_reads_files(dir: &Path) -> bool {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let Ok(file) = open(dir, flags, Mode::from_raw_mode(0o600)) else {
        return false;
    };
    let image = stratos_sys::erofs::empty_image();
    rustix::io::write(&file, &image).is_ok_and(|written| written == image.len())
        && stratos_sys::erofs::reads_files(&file)
}
