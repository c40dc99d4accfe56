//! The machine under the node: its processors, its processes, its boots and its own log.
//!
//! What is read here is the kernel's and PID 1's, but names of processes are anybody's. Nothing in here knows of
//! requests; every read has a limit, and all of it may block.

mod boots;
mod init;
pub mod kernel_log;
mod load;
mod log;
pub mod process;

use std::io;
use std::path::PathBuf;

use stratos_api::node::{BootRecord, InitRequest, InitStatus, NodeStatus, ShuttingDown};

use self::init::Init;
pub use self::init::InitError;
pub(crate) use self::log::MAX_TAIL;
pub use self::log::{LogRequest, NodeLog};
pub use self::process::{Running, tree};
use crate::config::Memory;

/// The machine, and StratOS's own PID 1 where that runs it.
#[derive(Debug)]
pub struct Machine {
    state: PathBuf,
    init: Init,
}

impl Machine {
    /// The machine whose state is in `state` and whose PID 1 answers on `init_socket`, if it is StratOS's.
    pub fn new(state: PathBuf, init_socket: PathBuf) -> Self {
        Self { state, init: Init::new(init_socket) }
    }

    /// How the machine is.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn status(&self) -> io::Result<NodeStatus> {
        let memory = Memory::of_machine()?;
        let system = rustix::system::uname();
        let disk = rustix::fs::statvfs(&self.state)?;
        let kb = |blocks: u64| blocks.saturating_mul(disk.f_frsize) / 1024;
        Ok(NodeStatus {
            hostname: system.nodename().to_string_lossy().into_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            managed: self.init.is_there(),
            kernel: system.release().to_string_lossy().into_owned(),
            uptime_s: uptime()?.as_secs(),
            cpus: cpus(),
            cpu: load::cpu_times()?,
            pressure: load::pressure(),
            memory_total_kb: memory.total / 1024,
            memory_available_kb: memory.available / 1024,
            swap_used_kb: memory.swap.saturating_sub(memory.swap_free) / 1024,
            swap_total_kb: memory.swap / 1024,
            zram_kb: zram_bytes() / 1024,
            state_free_kb: kb(disk.f_bavail),
            state_total_kb: kb(disk.f_blocks),
            init: self.init_status(),
        })
    }

    /// What PID 1 tells; `None` when it is not StratOS's, or does not answer, which is logged.
    fn init_status(&self) -> Option<InitStatus> {
        match self.init.status() {
            Ok(status) => Some(status),
            Err(InitError::NotManaged) => None,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(%error, cause, "PID 1 does not tell how it is");
                None
            }
        }
    }

    /// The processes of the machine; `running` are the instances among them.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn tree(&self, running: &[Running]) -> io::Result<Vec<stratos_api::node::ProcessInfo>> {
        tree(running, self.init_status().as_ref())
    }

    /// The last boots, newest first; the one that is under way or runs now is the first of them.
    ///
    /// # Errors
    /// When records are there and cannot be read.
    pub fn boots(&self) -> io::Result<Vec<BootRecord>> {
        boots::list(&self.state, self.init_status().map(|status| status.boot))
    }

    /// Opens the node's log at its end; gives the last lines.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn log(&self, request: LogRequest) -> io::Result<(Vec<stratos_api::node::NodeLogLine>, NodeLog)> {
        NodeLog::open(&self.state, request)
    }

    /// Begins to shut down.
    ///
    /// # Errors
    /// When PID 1 is not StratOS's, or refuses.
    pub fn shut_down(&self, request: InitRequest) -> Result<ShuttingDown, InitError> {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        self.init.shut_down(request)?;
        let action = if request == InitRequest::Reboot { "reboot" } else { "poweroff" };
        Ok(ShuttingDown { action: action.to_owned(), boot_id: boot_id.trim().to_owned() })
    }
}

/// What the machine calls itself.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Processors of the machine that are switched on; 1 where the kernel does not tell.
pub fn cpus() -> u32 {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online");
    let list = online.ok().and_then(|list| stratos_types::node_config::parse_cpu_list(list.trim()));
    list.map_or(1, |list| list.len() as u32)
}

/// Time since the kernel started.
fn uptime() -> io::Result<std::time::Duration> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.try_into().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Memory that compressed swap takes: the third number of each device's statistics (zram.rst, `mem_used_total`).
fn zram_bytes() -> u64 {
    let Ok(devices) = std::fs::read_dir("/sys/block") else { return 0 };
    let used = |device: std::fs::DirEntry| {
        let name = device.file_name();
        name.to_str()?.strip_prefix("zram")?;
        let statistics = std::fs::read_to_string(device.path().join("mm_stat")).ok()?;
        statistics.split_ascii_whitespace().nth(2)?.parse::<u64>().ok()
    };
    devices.flatten().filter_map(used).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted() {
        let usable = std::thread::available_parallelism().unwrap().get() as u32;
        assert!(cpus() >= usable, "{} < {usable}", cpus());
    }

    #[test]
    fn a_machine_without_our_pid_1_is_told_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let machine = Machine::new(dir.path().to_owned(), dir.path().join("init.sock"));
        let status = machine.status().unwrap();
        assert!(!status.managed && status.init.is_none());
        assert!(status.memory_total_kb >= status.memory_available_kb && status.state_total_kb > 0);
        assert!(!status.kernel.is_empty() && status.uptime_s > 0);
        assert_eq!(machine.boots().unwrap(), []);
        assert!(matches!(machine.shut_down(InitRequest::Reboot), Err(InitError::NotManaged)));
    }
}
