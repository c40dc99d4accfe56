//! What the kernel tells of instances: figures of an invocation, windows of system calls, and what a node can see.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the kernel counted in the instance during one invocation. A figure that this node's kernel does not give is left
/// out (`stratos node features` tells why). With several requests at a time in the instance, all of them are in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KernelFigures {
    /// Time that threads were ready to run and waited for a processor, all threads together, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_queue_us: Option<u64>,
    /// Time that threads waited for anything else, counted when they were woken, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off_cpu_us: Option<u64>,
    /// Page faults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<u64>,
    /// Of these, those that waited for a disk; each is counted with its thread's next fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
    /// Most memory that one of its processes has had since its first request, without mapped files, in KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak_kb: Option<u64>,
    /// Bytes received, IP headers included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_bytes: Option<u64>,
    /// Bytes sent, IP headers included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_bytes: Option<u64>,
    /// TCP connections made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connects: Option<u64>,
    /// TCP connections not got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_failures: Option<u64>,
    /// Time until connections were made, all together, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_us: Option<u64>,
    /// Processes begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// System calls; told only while a window is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syscalls: Option<u64>,
}

/// What a node can see and enforce, and what it lacks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeFeatures {
    /// `ready`, `loading` just after the node's start, or `off`.
    pub tracing: String,
    /// Groups of eBPF programs.
    pub groups: Vec<ProgramGroup>,
    /// What found no place since the node's start: 0 everywhere on a healthy node.
    pub dropped: DroppedCounts,
    /// What this machine lacks beside that, and what follows from it.
    pub missing: Vec<crate::MissingFeature>,
}

/// Programs that the kernel takes or refuses together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProgramGroup {
    /// Its name, such as `scheduler`.
    pub name: String,
    /// `attached`, `on_demand` (it runs while a window is open), or `refused`.
    pub state: String,
    /// The kernel's reason for refusing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its programs, each with what it is attached to.
    pub programs: Vec<String>,
}

/// What was not counted, for its place in the kernel was full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DroppedCounts {
    /// Events of processes.
    pub events: u64,
    /// Waits of threads.
    pub tasks: u64,
    /// Connections.
    pub connects: u64,
    /// System calls in windows.
    pub syscalls: u64,
    /// Instances.
    pub instances: u64,
}

/// A window in which every system call of a function's instances was counted and timed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SyscallTrace {
    /// The function.
    pub function: String,
    /// `request` when somebody asked for it, `errors` when it was opened because these repeated.
    pub trigger: String,
    /// When it was opened (RFC 3339, UTC, ms).
    pub began_at: String,
    /// How long it was open, in ms.
    pub duration_ms: u64,
    /// Instances that it saw.
    pub instances: u32,
    /// Invocations that ended in it.
    pub invocations: u64,
    /// System calls that were not counted, for their place in the kernel was full. Of all windows at that time.
    pub dropped: u64,
    /// By system call, the one that took longest altogether first.
    pub calls: Vec<SyscallCount>,
}

/// One system call in a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SyscallCount {
    /// Its name.
    pub name: String,
    /// Its number on the node's architecture.
    pub number: u32,
    /// Calls that ended in the window.
    pub count: u64,
    /// Of these, those that failed.
    pub errors: u64,
    /// Calls that the function's profile refused before they began; in none of the others.
    pub denied: u64,
    /// How long they took together, in ns.
    pub total_ns: u64,
    /// How long at most half of them took, in ns, as far as the histogram tells; 0 of calls that do not return.
    pub p50_ns: u64,
    /// How long at most 95 % of them took, in ns.
    pub p95_ns: u64,
    /// No call took longer, in ns.
    pub max_ns: u64,
    /// How many took from 2^i ns to less than 2^(i+1), for each i from 0 on.
    pub buckets: Vec<u64>,
}

/// The duration that `percent` of the calls in a histogram did not exceed, in ns, between the bounds of its bucket as
/// if its calls were spread evenly; 100 gives the upper bound of the last bucket with any. 0 without calls.
pub fn quantile_ns(buckets: &[u64], percent: u64) -> u64 {
    let all: u64 = buckets.iter().sum();
    let rank = (all * percent).div_ceil(100).max(1);
    let mut below = 0;
    for (i, count) in buckets.iter().enumerate() {
        if *count > 0 && below + count >= rank {
            let (low, width) = (if i == 0 { 0 } else { 1_u64 << i }, if i == 0 { 2 } else { 1_u64 << i });
            let share = if percent == 100 { 1.0 } else { (rank - below) as f64 / *count as f64 };
            return low + (width as f64 * share) as u64;
        }
        below += count;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_in_the_bucket_of_their_rank() {
        assert_eq!(quantile_ns(&[0; 8], 50), 0);
        let mut buckets = [0; 36];
        buckets[10] = 100;
        assert_eq!((quantile_ns(&buckets, 50), quantile_ns(&buckets, 100)), (1536, 2048));
        // Five of a hundred take longer: p95 is still in the first bucket, the maximum is not.
        buckets[10] = 95;
        buckets[20] = 5;
        assert_eq!((quantile_ns(&buckets, 95), quantile_ns(&buckets, 96)), (2048, (1 << 20) + (1 << 20) / 5));
        assert_eq!(quantile_ns(&buckets, 100), 1 << 21);
        assert_eq!(quantile_ns(&[1], 50), 2);
    }

    #[test]
    fn figures_that_are_not_there_are_left_out() {
        let figures = KernelFigures { faults: Some(3), ..KernelFigures::default() };
        assert_eq!(serde_json::to_string(&figures).unwrap(), r#"{"faults":3}"#);
    }
}
