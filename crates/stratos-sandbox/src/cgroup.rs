//! The node's cgroup and its leaves, one per instance. Only the v2 hierarchy is ever written to.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open, openat};

/// Controllers that sandboxes use.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// Time over which `cpu.max` grants its share, microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// The cgroup of instances on CPUs of their own, below the root: a cpuset partition that PID 1 makes.
const RESERVED: &str = "reserved";
/// How often to look again while processes of a killed cgroup die.
const EMPTY_POLL: Duration = Duration::from_millis(20);

/// Mount point of the v2 hierarchy. On hybrid hosts that is not `/sys/fs/cgroup` itself, which belongs to v1.
pub(crate) fn find_root() -> io::Result<Option<PathBuf>> {
    Ok(parse_root(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// Mountinfo: `id parent major:minor root MOUNTPOINT options [tags] - TYPE source superoptions`.
fn parse_root(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let point = fields.nth(4)?;
        let writable = fields.next()?.split(',').any(|option| option == "rw");
        (filesystem.starts_with("cgroup2 ") && writable).then(|| PathBuf::from(point))
    })
}

/// Limits of a leaf; what the host cannot enforce is left out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) memory_bytes: u64,
    pub(crate) swap_bytes: u64,
    pub(crate) cpu_millis: Option<u32>,
    pub(crate) pids_max: Option<u32>,
}

/// The node's cgroup. It holds leaves, never processes.
#[derive(Debug)]
pub(crate) struct Base {
    path: PathBuf,
    pub(crate) memory: bool,
    pub(crate) cpu: bool,
    pub(crate) pids: bool,
    pub(crate) kill: bool,
}

impl Base {
    /// Makes the cgroup `name` below `root`, or takes over the one that is there, with every controller that the
    /// hierarchy offers.
    pub(crate) fn open(root: &Path, name: &str) -> Result<Self, (PathBuf, io::Error)> {
        let path = root.join(name);
        enable_controllers(root);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err((path, error)),
            _ => {}
        }
        enable_controllers(&path);
        let read = |file: &str| {
            let file = path.join(file);
            fs::read_to_string(&file).map_err(|error| (file, error))
        };
        let enabled = read("cgroup.subtree_control")?;
        let has = |name: &str| enabled.split_whitespace().any(|enabled| enabled == name);
        let (memory, cpu, pids) = (has("memory"), has("cpu"), has("pids"));
        let kill = path.join("cgroup.kill").exists();
        Ok(Self { memory, cpu, pids, kill, path })
    }

    /// Kills and removes every leaf: what a predecessor left.
    pub(crate) fn sweep(&self) -> Result<usize, (PathBuf, io::Error)> {
        let entries = fs::read_dir(&self.path).map_err(|error| (self.path.clone(), error))?;
        let mut swept = 0;
        for entry in entries {
            let path = entry.map_err(|error| (self.path.clone(), error))?.path();
            if path.is_dir() {
                let leaf = Leaf::existing(&path).map_err(|error| (path.clone(), error))?;
                leaf.remove(Duration::from_secs(10)).map_err(|error| (path, error))?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// The limit on the memory of all leaves together, bytes.
    pub(crate) fn memory_limit(&self) -> Option<u64> {
        fs::read_to_string(self.path.join("memory.max")).ok()?.trim().parse().ok()
    }

    /// Its folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Path of the leaf `name`.
    pub(crate) fn leaf_path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a leaf with limits.
    pub(crate) fn leaf(&self, name: &str, limits: &Limits) -> io::Result<Leaf> {
        let path = self.path.join(name);
        fs::create_dir(&path)?;
        let leaf = match Leaf::existing(&path) {
            Ok(leaf) => leaf,
            Err(error) => {
                fs::remove_dir(&path)?;
                return Err(error);
            }
        };
        match self.limit(&leaf, limits) {
            Ok(()) => Ok(leaf),
            Err(error) => {
                leaf.remove(Duration::ZERO)?;
                Err(error)
            }
        }
    }

    fn limit(&self, leaf: &Leaf, limits: &Limits) -> io::Result<()> {
        if self.memory {
            leaf.write("memory.max", &limits.memory_bytes.to_string())?;
            leaf.write("memory.oom.group", "1")?;
            match leaf.write("memory.swap.max", &limits.swap_bytes.to_string()) {
                // A kernel without swap accounting has no such file, and then no swap to limit.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if let (true, Some(millis)) = (self.cpu, limits.cpu_millis) {
            let quota = (u64::from(millis) * CPU_PERIOD_US / 1000).max(1000);
            leaf.write("cpu.max", &format!("{quota} {CPU_PERIOD_US}"))?;
            leaf.write("cpu.weight", &(millis / 10).clamp(1, 10_000).to_string())?;
        }
        if let (true, Some(max)) = (self.pids, limits.pids_max) {
            leaf.write("pids.max", &max.to_string())?;
        }
        Ok(())
    }

    /// Removes the node's cgroup; its leaves must be gone.
    pub(crate) fn remove(&self) -> io::Result<()> {
        fs::remove_dir(&self.path)
    }
}

/// The cgroup of instances on CPUs of their own.
#[derive(Debug)]
pub(crate) struct Reserved {
    pub(crate) base: Base,
    /// The CPUs, as the kernel lists them.
    pub(crate) cpus: String,
}

impl Reserved {
    /// Takes over the partition below `root`, or says why there is none.
    pub(crate) fn open(root: &Path) -> Result<Result<Self, String>, (PathBuf, io::Error)> {
        let path = root.join(RESERVED);
        let none = "this node keeps no CPUs (`cpu.reserved` in its configuration; `stratos node status` tells why not)";
        if !path.is_dir() {
            return Ok(Err(none.to_owned()));
        }
        let read = |file: &str| {
            let file = path.join(file);
            fs::read_to_string(&file).map(|text| text.trim().to_owned()).map_err(|error| (file, error))
        };
        // The kernel writes `root invalid (REASON)` when the CPUs are not to be had after all.
        let partition = read("cpuset.cpus.partition")?;
        match partition.as_str() {
            "root" | "isolated" => {}
            "member" => return Ok(Err(none.to_owned())),
            _ => return Ok(Err(format!("the kernel does not keep this node's CPUs apart ({partition})"))),
        }
        let cpus = read("cpuset.cpus.effective")?;
        Ok(Ok(Self { base: Base::open(root, RESERVED)?, cpus }))
    }
}

/// Passes on to the children of `dir` each controller that it has. One that cannot be passed on (a v1 hierarchy has
/// it, or `dir` is a container's root with processes in it) is simply not there for us: the caller reads what is.
fn enable_controllers(dir: &Path) {
    let Ok(available) = fs::read_to_string(dir.join("cgroup.controllers")) else {
        return;
    };
    for controller in CONTROLLERS {
        if available.split_whitespace().any(|name| name == controller)
            && let Err(error) = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"))
        {
            tracing::warn!(controller, dir = %dir.display(), %error, "cannot enable a cgroup controller");
        }
    }
}

/// The cgroup of one instance.
#[derive(Debug)]
pub(crate) struct Leaf {
    path: PathBuf,
    dir: OwnedFd,
    /// `cpu.stat`, kept open: it is read at the end of every request, and opening it costs ten times as much.
    cpu_stat: OnceLock<Option<fs::File>>,
}

impl Leaf {
    fn existing(path: &Path) -> io::Result<Self> {
        let dir = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { path: path.to_owned(), dir, cpu_stat: OnceLock::new() })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The kernel's number of it: its folder's inode number.
    pub(crate) fn number(&self) -> Option<u64> {
        rustix::fs::fstat(&self.dir).ok().map(|stat| stat.st_ino)
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let fd = openat(&self.dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(fd, text.as_bytes())?;
        Ok(())
    }

    fn read(&self, file: &str) -> io::Result<String> {
        let fd = openat(&self.dir, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        io::read_to_string(fs::File::from(fd))
    }

    /// The number after `key` in a file of `key value` lines.
    fn read_key(&self, file: &str, key: &str) -> Option<u64> {
        let text = self.read(file).ok()?;
        text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
    }

    /// Sends SIGKILL to every process in it. Where the kernel cannot do that at once, one by one.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match self.write("cgroup.kill", "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.kill_each(),
            other => other,
        }
    }

    fn kill_each(&self) -> io::Result<()> {
        use rustix::process::{Pid, PidfdFlags, pidfd_open};
        for line in self.read("cgroup.procs")?.lines() {
            let Some(pid) = line.parse().ok().and_then(Pid::from_raw) else {
                continue;
            };
            match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(pidfd) => stratos_sys::process::kill(pidfd)?,
                Err(rustix::io::Errno::SRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Kills what is in it and removes it, waiting at most `patience` for the last process to go.
    pub(crate) fn remove(&self, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            match fs::remove_dir(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                    self.kill()?;
                    self.await_change()?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => return other,
            }
        }
    }

    /// Waits until `populated` turns 0 in cgroup.events, at most [`EMPTY_POLL`].
    fn await_change(&self) -> io::Result<()> {
        let events = openat(&self.dir, "cgroup.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = [0; 256];
        let length = rustix::io::read(&events, &mut text)?;
        if text[..length].windows(11).any(|window| window == b"populated 0") {
            return Ok(());
        }
        let timeout =
            rustix::time::Timespec::try_from(EMPTY_POLL).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The kernel has killed something in it for lack of memory.
    pub(crate) fn oom_killed(&self) -> bool {
        self.read_key("memory.events", "oom_kill ").is_some_and(|count| count > 0)
    }

    /// Most memory it ever had, bytes. Needs the memory controller (and Linux 5.19).
    pub(crate) fn memory_peak(&self) -> Option<u64> {
        self.read("memory.peak").ok()?.trim().parse().ok()
    }

    /// CPU time of all its processes, past ones too.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        let open = || openat(&self.dir, "cpu.stat", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
        let file = self.cpu_stat.get_or_init(|| open().map(fs::File::from)).as_ref()?;
        // The key is the first of the file's lines (cgroup-v2.rst, "cpu.stat"), so a part is enough.
        let mut start = [0; 128];
        let length = file.read_at(&mut start, 0).ok()?;
        let text = std::str::from_utf8(&start[..length]).ok()?;
        let first = text.lines().next()?.strip_prefix("usage_usec ")?;
        first.trim().parse().ok().map(Duration::from_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plain files stand for the kernel's.
    #[test]
    fn cpus_are_kept_only_by_a_valid_partition() {
        let root = tempfile::tempdir().unwrap();
        let open = || Reserved::open(root.path()).unwrap();
        assert!(open().unwrap_err().contains("cpu.reserved"));
        let path = root.path().join(RESERVED);
        fs::create_dir(&path).unwrap();
        for (file, text) in [("cpuset.cpus.effective", "2-3\n"), ("cgroup.subtree_control", "cpu memory\n")] {
            fs::write(path.join(file), text).unwrap();
        }
        fs::write(path.join("cpuset.cpus.partition"), "member\n").unwrap();
        assert!(open().unwrap_err().contains("cpu.reserved"));
        fs::write(path.join("cpuset.cpus.partition"), "root invalid (Parent unable to distribute cpu)\n")
            .unwrap();
        assert!(open().unwrap_err().contains("Parent unable"));
        fs::write(path.join("cpuset.cpus.partition"), "isolated\n").unwrap();
        let reserved = open().unwrap();
        assert_eq!((reserved.cpus.as_str(), reserved.base.cpu, reserved.base.pids), ("2-3", true, false));
        assert_eq!(reserved.base.memory_limit(), None);
        for (text, limit) in [("max\n", None), ("1048576\n", Some(1 << 20))] {
            fs::write(path.join("memory.max"), text).unwrap();
            assert_eq!(reserved.base.memory_limit(), limit);
        }
    }

    #[test]
    fn the_v2_hierarchy_is_found_among_others() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      31 24 0:27 / /sys/fs/cgroup/unified rw,relatime shared:5 - cgroup2 cgroup2 rw\n";
        assert_eq!(parse_root(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let unified = "25 20 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(parse_root(unified), Some("/sys/fs/cgroup".into()));
        let read_only = "25 20 0:22 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup2 rw\n";
        assert_eq!(parse_root(read_only), None);
        let v1 = "30 24 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(parse_root(v1), None);
    }
}
