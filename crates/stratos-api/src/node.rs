//! The node as a machine: its processes, its boots, its services. Bodies of `/v1/node...`, and what the agent and PID 1
//! say to each other.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The socket on which PID 1 answers the agent: one [`InitRequest`] as a line of JSON, one [`InitAnswer`] back.
pub const INIT_SOCKET: &str = "/run/stratos/init.sock";
/// Where PID 1 keeps the records of the last boots, `NUMBER.json` each a [`BootRecord`], under the state folder.
pub const BOOTS_FOLDER: &str = "boots";
/// How many boots are kept.
pub const BOOTS_KEPT: usize = 10;
/// Where PID 1 keeps what services print, `SERVICE.log`, and the older half as `SERVICE.log.1`, under the state folder.
/// Each line is a [`NodeLogLine`] as JSON.
pub const NODE_LOGS_FOLDER: &str = "node-logs";

/// What the agent asks of PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitRequest {
    /// What runs, and how the boot went.
    Status,
    /// Shut down in order and start again.
    Reboot,
    /// Shut down in order and switch off.
    PowerOff,
}

/// What PID 1 answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitAnswer {
    /// To [`InitRequest::Status`].
    Status(Box<InitStatus>),
    /// The shutdown has begun.
    ShuttingDown,
    /// The request was not understood or cannot be done.
    Refused(String),
}

/// What PID 1 knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InitStatus {
    /// This boot.
    pub boot: BootRecord,
    /// The services, in the order of their start.
    pub services: Vec<ServiceStatus>,
    /// What is there of the machine's abilities, and why something is not.
    pub abilities: Vec<Ability>,
    /// Resident memory of PID 1 in KiB.
    pub init_rss_kb: u64,
}

/// One ability of the machine, such as `zram` or `reserved CPUs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ability {
    /// Its name.
    pub name: String,
    /// Whether it is in use.
    pub available: bool,
    /// How it is used, or why it is not.
    pub detail: String,
}

/// One boot, from the kernel's first moment to ready. All times are microseconds since the kernel started
/// (CLOCK_BOOTTIME).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BootRecord {
    /// Which boot of this state it is, from 1; 0 until the state is there.
    pub number: u64,
    /// The kernel's random id of the boot.
    pub boot_id: String,
    /// The wall clock when PID 1 began (RFC 3339, UTC), as far as it was right then.
    pub began_at: String,
    /// Version of StratOS.
    pub version: String,
    /// Version of the kernel.
    pub kernel: String,
    /// Root hash of the running root; empty when it is not verified.
    pub root_hash: String,
    /// When PID 1's first instruction ran: the kernel's own share.
    pub kernel_us: u64,
    /// The phases in their order.
    pub phases: Vec<BootPhase>,
    /// When every service was ready; `None` until then.
    pub ready_us: Option<u64>,
}

/// One phase of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BootPhase {
    /// Its name, such as `verity`.
    pub name: String,
    /// When it began.
    pub start_us: u64,
    /// How long it took.
    pub duration_us: u64,
    /// `ok`, `skipped` or `failed`.
    pub outcome: String,
    /// What was done, why it was skipped, what failed.
    pub detail: String,
}

/// One supervised service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatus {
    /// Its name, that of its unit file.
    pub name: String,
    /// `starting`, `ready`, `waiting` (before a restart), `stopping`, `stopped` or `failed`.
    pub state: String,
    /// Its process.
    pub pid: Option<u32>,
    /// When that process began, microseconds since the kernel started.
    pub started_us: Option<u64>,
    /// How often it was started again.
    pub restarts: u32,
    /// How it ended last, in words.
    pub last_exit: Option<String>,
}

/// One process of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessInfo {
    /// Its id.
    pub pid: u32,
    /// Its parent's id; 0 for none.
    pub parent: u32,
    /// Its name (comm).
    pub name: String,
    /// What it belongs to: `kernel`, `init`, `service NAME`, `instance ID (FUNCTION)`, or empty.
    pub role: String,
    /// Seconds since it began.
    pub age_s: u64,
    /// CPU time it has used, in ms.
    pub cpu_ms: u64,
    /// Resident memory in KiB.
    pub rss_kb: u64,
    /// Threads.
    pub threads: u32,
    /// How often its service was started again.
    pub restarts: u32,
}

/// The node as a machine: the answer of `/v1/node`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Its host name.
    pub hostname: String,
    /// Version of StratOS.
    pub version: String,
    /// Whether StratOS's own PID 1 runs this machine. Without it there are no boots, no services and no shutdown.
    pub managed: bool,
    /// Version of the kernel.
    pub kernel: String,
    /// Seconds since the kernel started.
    pub uptime_s: u64,
    /// CPUs.
    pub cpus: u32,
    /// What they have done since the kernel started.
    #[serde(default)]
    pub cpu: CpuTimes,
    /// How much work waits for what; `None` where the kernel does not tell.
    #[serde(default)]
    pub pressure: Option<Pressure>,
    /// Memory in KiB.
    pub memory_total_kb: u64,
    /// Memory that can be had without swapping, in KiB.
    pub memory_available_kb: u64,
    /// Compressed swap: used and most, in KiB; 0 without.
    pub swap_used_kb: u64,
    /// Size of the swap in KiB.
    pub swap_total_kb: u64,
    /// Memory of the machine that the swapped pages take compressed, in KiB.
    pub zram_kb: u64,
    /// Free and whole size of the state's file system in KiB.
    pub state_free_kb: u64,
    /// Size of the state's file system in KiB.
    pub state_total_kb: u64,
    /// What PID 1 knows; `None` when it is not StratOS's.
    pub init: Option<InitStatus>,
}

/// Time of all CPUs together since the kernel started, in ms. Two of these tell what was done between them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CpuTimes {
    /// Running programs.
    pub user_ms: u64,
    /// Running the kernel, for programs and for devices.
    pub system_ms: u64,
    /// Doing nothing.
    pub idle_ms: u64,
    /// Doing nothing while a program waited for a disk.
    pub wait_ms: u64,
    /// Taken by the host of a virtual machine.
    pub stolen_ms: u64,
}

/// Share of the last ten seconds in which programs waited for something, in percent (pressure stall information).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pressure {
    /// Some program waited for a CPU.
    pub cpu_some: f64,
    /// Some program waited for memory.
    pub memory_some: f64,
    /// All of them did.
    pub memory_full: f64,
    /// Some program waited for a disk.
    pub io_some: f64,
    /// All of them did.
    pub io_full: f64,
}

/// One line of the node's own log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeLogLine {
    /// When it was read (RFC 3339, UTC, ms).
    pub at: String,
    /// `init`, `kernel`, or a service's name.
    pub source: String,
    /// The text, without its line end.
    pub message: String,
}

/// The answer to a request to shut down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShuttingDown {
    /// `reboot` or `poweroff`.
    pub action: String,
    /// The kernel's random id of the boot that ends: a node that tells another one has started again.
    pub boot_id: String,
}
