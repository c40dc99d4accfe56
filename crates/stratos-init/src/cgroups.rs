//! The cgroup tree: what each part of the node may use. A pure plan, and writing it.
//!
//! | group | what is in it |
//! |---|---|
//! | `init` | PID 1 |
//! | `system/NAME` | one service: protected, never swapped |
//! | `functions` | the agent's instances: bounded by what the host does not need |
//! | `reserved` | instances of functions with `cpu_class = "reserved"`, on CPUs of their own |

use std::fs;
use std::path::{Path, PathBuf};

use stratos_types::node_config::parse_cpu_list;

use crate::boot::Node;
use crate::error::InitError;
use crate::files;
use crate::memory::MemoryPlan;
use crate::phase::Outcome;
use crate::unit::Unit;

/// Where the hierarchy is.
pub const ROOT: &str = "/sys/fs/cgroup";
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];
/// Protected for PID 1.
const INIT_MIN: u64 = 6 << 20;
/// Most processes of all services together.
const SYSTEM_PIDS: u32 = 4096;
/// Weight of the system beside functions, whose is 100: a hog must not keep the agent from answering.
const SYSTEM_WEIGHT: u32 = 400;

/// A value that is written to a file of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The file, below the hierarchy's root.
    pub file: String,
    /// What is written.
    pub value: String,
    /// Whether a kernel without that file is fine.
    pub optional: bool,
}

/// How CPUs are shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reservation {
    /// None is asked for.
    None,
    /// These are reserved, by a partition of this kind.
    Partition {
        /// The list, as the kernel writes it.
        cpus: String,
        /// `isolated`, without load balancing, for one; `root` for more.
        kind: &'static str,
    },
    /// They cannot be.
    Unavailable(String),
}

/// What comes of `cpu.reserved` on a machine with these CPUs.
pub fn reservation(reserved: Option<&str>, online: &[u32]) -> Reservation {
    let Some(list) = reserved else { return Reservation::None };
    let Some(cpus) = parse_cpu_list(list) else {
        return Reservation::Unavailable(format!("`{list}` is no list of CPUs"));
    };
    if online.len() < 2 {
        return Reservation::Unavailable("the machine has one CPU".to_owned());
    }
    if let Some(absent) = cpus.iter().find(|cpu| !online.contains(cpu)) {
        return Reservation::Unavailable(format!("the machine has no CPU {absent}"));
    }
    if cpus.contains(&0) || cpus.len() >= online.len() {
        return Reservation::Unavailable("CPU 0 stays with the system".to_owned());
    }
    let kind = if cpus.len() == 1 { "isolated" } else { "root" };
    Reservation::Partition { cpus: list.to_owned(), kind }
}

/// The settings of the tree, in order.
pub fn plan(memory: &MemoryPlan, units: &[Unit], reservation: &Reservation) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut set = |file: &str, value: String, optional| {
        settings.push(Setting { file: file.to_owned(), value, optional });
    };
    let services: u64 = units.iter().map(|unit| u64::from(unit.memory_min_mib) << 20).sum();
    // A machine too small for all protections keeps half of it free to reclaim.
    let services = services.min(memory.total / 2);
    set("init/memory.min", INIT_MIN.to_string(), false);
    set("init/memory.swap.max", "0".to_owned(), true);
    set("system/memory.min", services.to_string(), false);
    set("system/memory.low", (services * 2).min(memory.total / 2).to_string(), false);
    set("system/memory.swap.max", "0".to_owned(), true);
    set("system/cpu.weight", SYSTEM_WEIGHT.to_string(), false);
    set("system/pids.max", SYSTEM_PIDS.to_string(), false);
    set("functions/memory.max", memory.functions.to_string(), false);
    set("functions/memory.swap.max", memory.swap.to_string(), true);
    set("reserved/memory.max", memory.functions.to_string(), false);
    set("reserved/memory.swap.max", "0".to_owned(), true);
    if let Reservation::Partition { cpus, kind } = reservation {
        set("reserved/cpuset.cpus", cpus.clone(), false);
        set("reserved/cpuset.cpus.partition", (*kind).to_owned(), false);
    }
    settings
}

/// Makes the tree.
///
/// # Errors
/// When the hierarchy is not there or refuses a group. A setting that is refused is told, and the rest is made.
pub fn set_up(node: &mut Node) -> Result<Outcome, InitError> {
    let root = Path::new(ROOT);
    let enabled = enable(root)?;
    for group in ["init", "system", "functions", "reserved"] {
        files::folder(root.join(group))?;
    }
    files::write_value(root.join("init/cgroup.procs"), "1")?;
    enable(&root.join("system"))?;
    let online = files::read_value("/sys/devices/system/cpu/online")?;
    let online = parse_cpu_list(&online).unwrap_or_default();
    let reservation = reservation(node.config.cpu.reserved.as_deref(), &online);
    let mut refused = Vec::new();
    for setting in plan(&node.memory, &node.units, &reservation) {
        match files::write_value(root.join(&setting.file), &setting.value) {
            Ok(()) => {}
            Err(InitError::File { source, .. })
                if setting.optional && source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => refused.push(error.chain()),
        }
    }
    tell_reservation(node, &reservation);
    let missing: Vec<_> = CONTROLLERS.into_iter().filter(|name| !enabled.iter().any(|e| e == name)).collect();
    node.ability(
        "cgroup limits",
        missing.is_empty(),
        match missing.is_empty() {
            true => enabled.join(" "),
            false => format!("not in this kernel: {}", missing.join(" ")),
        },
    );
    match refused.is_empty() {
        true => Outcome::done(format!(
            "functions get {} of {} MiB",
            node.memory.functions >> 20,
            node.memory.total >> 20
        )),
        false => Err(InitError::invalid("the cgroup tree", refused.join("; "))),
    }
}

/// Reads back whether the kernel made the partition.
fn tell_reservation(node: &mut Node, reservation: &Reservation) {
    let (available, detail) = match reservation {
        Reservation::None => (false, "cpu.reserved is not configured".to_owned()),
        Reservation::Unavailable(reason) => (false, reason.clone()),
        Reservation::Partition { cpus, kind } => {
            let file = Path::new(ROOT).join("reserved/cpuset.cpus.partition");
            match files::read_value(file) {
                Ok(state) if state == *kind => (true, format!("CPUs {cpus}, partition `{kind}`")),
                Ok(state) => (false, format!("the kernel has made the partition `{state}`")),
                Err(error) => (false, error.chain()),
            }
        }
    };
    node.ability("reserved CPUs", available, detail);
}

/// Passes on to the groups below `group` each controller that it has, and names those.
fn enable(group: &Path) -> Result<Vec<String>, InitError> {
    let available = files::read_value(group.join("cgroup.controllers"))?;
    let control = group.join("cgroup.subtree_control");
    for name in CONTROLLERS.into_iter().filter(|name| available.split(' ').any(|other| other == *name)) {
        files::write_value(&control, &format!("+{name}"))?;
    }
    Ok(files::read_value(&control)?.split(' ').map(str::to_owned).collect())
}

/// Makes the group of a service, and gives its folder.
///
/// # Errors
/// When the group cannot be made, or its protection is refused.
pub fn service(unit: &Unit) -> Result<PathBuf, InitError> {
    let group = Path::new(ROOT).join("system").join(&unit.name);
    files::folder(&group)?;
    files::write_value(group.join("memory.min"), &(u64::from(unit.memory_min_mib) << 20).to_string())?;
    files::write_value(group.join("memory.oom.group"), "1")?;
    Ok(group)
}

/// Kills everything in a group and below.
///
/// # Errors
/// When there is no such group.
pub fn kill(group: &Path) -> Result<(), InitError> {
    files::write_value(group.join("cgroup.kill"), "1")
}

/// Whether a process is in a group or below.
pub fn is_populated(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.events"))
        .is_ok_and(|text| text.lines().any(|line| line == "populated 1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    #[test]
    fn cpus_are_reserved_where_enough_are_there() {
        let partition = |cpus: &str, kind| Reservation::Partition { cpus: cpus.to_owned(), kind };
        assert_eq!(reservation(None, &[0, 1]), Reservation::None);
        assert_eq!(reservation(Some("1"), &[0, 1]), partition("1", "isolated"));
        assert_eq!(reservation(Some("2-3"), &[0, 1, 2, 3]), partition("2-3", "root"));
        for (list, online, expected) in [
            ("1", &[0][..], "the machine has one CPU"),
            ("2", &[0, 1], "the machine has no CPU 2"),
            ("0", &[0, 1], "CPU 0 stays with the system"),
            ("x", &[0, 1], "`x` is no list of CPUs"),
        ] {
            assert_eq!(reservation(Some(list), online), Reservation::Unavailable(expected.to_owned()));
        }
    }

    #[test]
    fn the_plan_is_as_documented() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../distro/units");
        let (units, _) = crate::unit::load(&folder);
        let memory = memory::plan(1 << 30, 25);
        let reservation = reservation(Some("1"), &[0, 1]);
        let shown: Vec<_> = plan(&memory, &units, &reservation)
            .iter()
            .map(|setting| format!("{} = {}", setting.file, setting.value))
            .collect();
        assert_eq!(
            shown,
            [
                "init/memory.min = 6291456",
                "init/memory.swap.max = 0",
                "system/memory.min = 54525952",
                "system/memory.low = 109051904",
                "system/memory.swap.max = 0",
                "system/cpu.weight = 400",
                "system/pids.max = 4096",
                "functions/memory.max = 696258560",
                "functions/memory.swap.max = 805294080",
                "reserved/memory.max = 696258560",
                "reserved/memory.swap.max = 0",
                "reserved/cpuset.cpus = 1",
                "reserved/cpuset.cpus.partition = isolated",
            ]
        );
    }
}
