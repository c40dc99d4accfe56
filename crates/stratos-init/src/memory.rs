//! Who gets which part of the machine's memory. Pure.
//!
//! Functions get what the host does not need. The host needs its own processes and the kernel's structures, which grow
//! with the machine, and all that compressed swap may take: the kernel charges its pages to nobody, so nothing else
//! bounds them.

/// What the kernel, PID 1 and the agent need on the smallest machine.
const HOST_BASE: u64 = 40 << 20;
/// Of each larger machine, one part in this many: page tables, slab, the page cache of the state.
const HOST_SHARE: u64 = 16;
/// How many bytes of swap one byte of zram holds, with zstd, for the memory of language runtimes: measured 3 to 5.
const COMPRESSION: u64 = 3;
/// The parts are multiples of this.
const PAGE: u64 = 4096;

/// A machine's memory in parts, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// All of it, as the kernel counts it.
    pub total: u64,
    /// Most that compressed swap takes of it.
    pub zram_limit: u64,
    /// What can be swapped out.
    pub swap: u64,
    /// Kept from functions; compressed swap included.
    pub host: u64,
    /// Most that all functions together get.
    pub functions: u64,
}

/// Parts `total` bytes, `zram_percent` of them at most for compressed swap.
pub fn plan(total: u64, zram_percent: u8) -> MemoryPlan {
    let round = |bytes: u64| bytes / PAGE * PAGE;
    let zram_limit = round(total / 100 * u64::from(zram_percent.min(80)));
    let host = round((HOST_BASE + total / HOST_SHARE + zram_limit).min(total));
    // However small the machine: a function that starts tells more than one that cannot be placed.
    let functions = round((total - host).max(total / 8));
    MemoryPlan { total, zram_limit, swap: zram_limit * COMPRESSION, host, functions }
}

/// `MemTotal` of /proc/meminfo, in bytes.
pub fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_get_what_the_host_and_its_swap_do_not_need() {
        const MIB: u64 = 1 << 20;
        for (total, zram, expected) in [
            // total, zram: its limit, swap, host, functions
            (224, 25, (55, 167, 109, 114)),
            (1024, 25, (255, 767, 359, 664)),
            (1024, 0, (0, 0, 104, 920)),
            (16384, 25, (4095, 12287, 5159, 11224)),
            (64, 80, (51, 153, 64, 8)),
        ] {
            let plan = plan(total * MIB, zram);
            let shown = [plan.zram_limit, plan.swap, plan.host, plan.functions].map(|bytes| bytes / MIB);
            assert_eq!(shown, <[u64; 4]>::from(expected), "{total} MiB, {zram} %");
        }
    }

    #[test]
    fn the_kernels_count_is_read() {
        assert_eq!(total("MemTotal:         229376 kB\nMemFree: 1 kB\n"), Some(224 << 20));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert_eq!(total("MemTotal: 99999999999999999999 kB\n"), None);
    }
}
