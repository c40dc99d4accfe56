//! The boot: its phases in their order, and what they know of the node.

use stratos_api::node::{Ability, BootRecord};
use stratos_types::NodeConfig;

use crate::cmdline::{self, CommandLine};
use crate::error::InitError;
use crate::log::Journal;
use crate::memory::MemoryPlan;
use crate::phase::{Outcome, Phase};
use crate::root::RootDisk;
use crate::supervisor::Supervisor;
use crate::unit::{self, Unit};
use crate::{
    cgroups, config, debug, files, identity, layers, modules, mounts, network, root, state, supervisor,
    sysctl, zram,
};

/// Units of the services, in the verified root.
const UNITS: &str = "/usr/share/stratos/units";

/// The boot, in the order in which every boot goes.
pub const BOOT: &[Phase] = &[
    Phase {
        name: "mounts",
        what: "mounts what the kernel makes up: /proc, /sys, /dev, /run, /tmp, cgroups",
        needed: true,
        run: mount_kernel,
    },
    Phase {
        name: "modules",
        what: "loads the drivers of the initramfs, if the kernel has not all built in",
        needed: false,
        run: modules::load,
    },
    Phase {
        name: "disk",
        what: "reads the kernel's command line, waits for the partitions that its root hash names",
        needed: true,
        run: disk,
    },
    Phase {
        name: "verity",
        what: "has the kernel check every block of the root against the root hash",
        needed: true,
        run: root::verify,
    },
    Phase {
        name: "root",
        what: "mounts the verified root, makes it `/`, frees the initramfs",
        needed: true,
        run: root::switch,
    },
    Phase {
        name: "sysctl",
        what: "sets the kernel's settings",
        needed: false,
        run: |_| sysctl::apply(false),
    },
    Phase {
        name: "state",
        what: "makes the state's partition and file system as large as the disk, mounts it at /var",
        needed: false,
        run: state::mount_state,
    },
    Phase {
        name: "log",
        what: "keeps the node's log in the state from here on",
        needed: false,
        run: keep_log,
    },
    Phase {
        name: "clock",
        what: "sets the wall clock from the hardware's; without one, from the last boot",
        needed: false,
        run: identity::wall_clock,
    },
    Phase {
        name: "machine-id",
        what: "reads the machine id, or makes it at first boot",
        needed: false,
        run: identity::machine_id,
    },
    Phase {
        name: "config",
        what: "takes the configuration from a systemd credential, a NoCloud disk, or the state",
        needed: false,
        run: config::load,
    },
    Phase { name: "hostname", what: "sets the host name", needed: false, run: identity::hostname },
    Phase {
        name: "zram",
        what: "makes compressed swap in memory, parts memory between host and functions",
        needed: false,
        run: zram::set_up,
    },
    Phase { name: "units", what: "reads the units of the services", needed: false, run: read_units },
    Phase {
        name: "cgroups",
        what: "makes the cgroup tree: protected system, bounded functions, reserved CPUs",
        needed: false,
        run: cgroups::set_up,
    },
    Phase {
        name: "layers",
        what: "makes the devices of the runtime layers, each verified block by block",
        needed: false,
        run: layers::set_up,
    },
    Phase {
        name: "loopback",
        what: "sets the loopback interface up; the rest of the network is a service",
        needed: false,
        run: |_| network::loopback(),
    },
    Phase {
        name: "seal",
        what: "forbids what only the boot may do, such as loading kernel modules",
        needed: false,
        run: |_| sysctl::apply(true),
    },
    Phase {
        name: "debug",
        what: "verifies and mounts the debug layer, if the command line names one",
        needed: false,
        run: debug::set_up,
    },
    Phase {
        name: "services",
        what: "opens the sockets of PID 1, starts the services in their order",
        needed: false,
        run: supervisor::start,
    },
    Phase {
        name: "ready",
        what: "waits until every essential service is ready",
        needed: false,
        run: supervisor::await_ready,
    },
];

/// The node, as its phases know it.
#[derive(Default)]
pub struct Node {
    /// What the kernel's command line says.
    pub cmdline: CommandLine,
    /// The record of this boot.
    pub record: BootRecord,
    /// What is there of the machine's abilities.
    pub abilities: Vec<Ability>,
    /// Where lines go.
    pub journal: Journal,
    /// Where the verified root is.
    pub root_disk: Option<RootDisk>,
    /// The configuration.
    pub config: NodeConfig,
    /// Who gets which memory.
    pub memory: MemoryPlan,
    /// The services, as they are described.
    pub units: Vec<Unit>,
    /// The services, as they run.
    pub supervisor: Supervisor,
}

impl Node {
    /// Reports an ability.
    pub fn ability(&mut self, name: &str, available: bool, detail: impl Into<String>) {
        self.abilities.retain(|ability| ability.name != name);
        self.abilities.push(Ability { name: name.to_owned(), available, detail: detail.into() });
    }
}

fn mount_kernel(node: &mut Node) -> Result<Outcome, InitError> {
    let lacking = mounts::mount_all()?;
    node.journal.open_console();
    expedite(&mut node.journal, true);
    node.record.boot_id = files::read_value("/proc/sys/kernel/random/boot_id")?;
    match lacking.is_empty() {
        true => Outcome::done(format!("{} file systems", mounts::MOUNTS.len())),
        false => Outcome::done(format!("without: {}", lacking.join("; "))),
    }
}

/// While the boot goes on, nothing else runs that the kernel's hurry could disturb. Setting up cgroups, device-mapper
/// and mounts waits for RCU grace periods again and again, and an expedited one (an interrupt on every CPU) takes
/// microseconds where an ordinary one takes some ticks. Functions on reserved CPUs are to have no such interrupts, so
/// it ends with the boot.
pub(crate) fn expedite(journal: &mut Journal, on: bool) {
    // A kernel for one CPU alone has no such file, and no need of it.
    const RCU: &str = "/sys/kernel/rcu_expedited";
    if let Err(error) = files::write_value(RCU, if on { "1" } else { "0" }) {
        journal.note(&format!("grace periods stay as they are: {}", error.chain()));
    }
}

fn disk(node: &mut Node) -> Result<Outcome, InitError> {
    let text = files::read_text("/proc/cmdline", cmdline::MAX_BYTES)?;
    // How the machine ends is known also when something else in it makes no sense.
    node.cmdline = CommandLine::ending(&text);
    node.cmdline = CommandLine::parse(&text)?;
    root::find(node)
}

fn keep_log(node: &mut Node) -> Result<Outcome, InitError> {
    let folder = format!("{}/{}", state::FOLDER, stratos_api::node::NODE_LOGS_FOLDER);
    node.journal.keep_in(folder.as_ref())?;
    node.record.number = crate::record::next_number();
    Outcome::done(format!("boot {}", node.record.number))
}

fn read_units(node: &mut Node) -> Result<Outcome, InitError> {
    let (units, errors) = unit::load(UNITS.as_ref());
    node.units = units;
    let names: Vec<_> = node.units.iter().map(|unit| unit.name.as_str()).collect();
    let names = names.join(" ");
    match errors.is_empty() {
        true => Outcome::done(names),
        false => {
            let errors: Vec<_> = errors.iter().map(InitError::chain).collect();
            Err(InitError::invalid(format!("units {names} and others"), errors.join("; ")))
        }
    }
}
