//! What is on the machine, so that a test can show that nothing was left behind.

use std::collections::BTreeSet;
use std::path::Path;

/// What StratOS makes on a machine and must take away again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Mount points of this process's mount namespace.
    pub mounts: BTreeSet<String>,
    /// StratOS's cgroups.
    pub cgroups: BTreeSet<String>,
    /// Loop devices with a file behind them.
    pub loop_devices: BTreeSet<String>,
    /// Named network namespaces.
    pub network_namespaces: BTreeSet<String>,
    /// Network interfaces of the host.
    pub interfaces: BTreeSet<String>,
    /// Processes that run as an instance's user.
    pub instance_processes: BTreeSet<u32>,
}

impl Machine {
    /// Looks.
    ///
    /// # Panics
    /// When /proc is not readable.
    pub fn look() -> Self {
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        let mounts = mountinfo.lines().filter_map(|l| l.split(' ').nth(4)).map(str::to_owned).collect();
        let backing = |name: &String| Path::new("/sys/block").join(name).join("loop/backing_file").exists();
        Self {
            mounts,
            cgroups: cgroup_roots()
                .iter()
                .flat_map(|root| names(root))
                .filter(|n| n.starts_with("stratos"))
                .collect(),
            loop_devices: names("/sys/block").into_iter().filter(backing).collect(),
            network_namespaces: names("/run/netns"),
            interfaces: names("/sys/class/net"),
            instance_processes: instance_processes(),
        }
    }

    /// What is there now and was not there `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            mounts: &self.mounts - &before.mounts,
            cgroups: &self.cgroups - &before.cgroups,
            loop_devices: &self.loop_devices - &before.loop_devices,
            network_namespaces: &self.network_namespaces - &before.network_namespaces,
            interfaces: &self.interfaces - &before.interfaces,
            instance_processes: &self.instance_processes - &before.instance_processes,
        }
    }
}

/// Where cgroup v2 is mounted: alone, or beside v1 controllers.
fn cgroup_roots() -> [&'static str; 2] {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
}

fn names(dir: &str) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return BTreeSet::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Processes whose user is one of an instance's (see `stratos-sandbox`: from 0x70000000 up).
fn instance_processes() -> BTreeSet<u32> {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pid = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let of_instance = entry.metadata().ok()?.uid() >= 0x7000_0000;
        // A dead process that this machine's init has not reaped yet is gone for all that matters here.
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        (of_instance && !status.contains("\nState:\tZ")).then_some(pid)
    };
    entries.filter_map(pid).collect()
}
