//! What programs write into maps, read byte for byte. The C side is `bpf/shared.h` and `bpf/syscalls.bpf.c`; both lie in
//! one program, so the byte order is the machine's.

/// Buckets of a histogram.
pub(crate) const BUCKETS: usize = 36;
/// Size of one cgroup's figures.
pub(crate) const COUNTERS_BYTES: usize = 18 * 8;
/// Size of what is kept of one system call.
#[cfg(test)]
pub(crate) const CALL_BYTES: usize = (4 + BUCKETS) * 8;
/// Size of an event.
pub(crate) const EVENT_BYTES: usize = 56;

/// Reads fields one after the other; what is beyond the end is 0.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut field = [0; N];
        if let Some((start, rest)) = self.0.split_at_checked(N) {
            field.copy_from_slice(start);
            self.0 = rest;
        }
        field
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.bytes())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.bytes())
    }
}

/// The figures of one cgroup since it is watched. Those of a group that is not attached stay 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Time that threads were ready to run and waited for a processor, ns. (`scheduler`)
    pub run_queue_ns: u64,
    /// Time that threads waited for anything else, counted once they are woken, ns. (`scheduler`)
    pub off_cpu_ns: u64,
    /// Page faults. (`faults`)
    pub faults: u64,
    /// Of these, those that waited for a disk; each is counted with the thread's next fault. (`faults`)
    pub major_faults: u64,
    /// Most memory that one of its processes has had while watched, without mapped files, KiB. (`faults`)
    pub memory_peak_kib: u64,
    /// Bytes that its sockets received, IP headers included. (`network`)
    pub rx_bytes: u64,
    /// Packets that its sockets received. (`network`)
    pub rx_packets: u64,
    /// Bytes that its sockets sent, IP headers included. (`network`)
    pub tx_bytes: u64,
    /// Packets that its sockets sent. (`network`)
    pub tx_packets: u64,
    /// TCP connections that it made. (`network`)
    pub connects: u64,
    /// TCP connections that it did not get. (`network`)
    pub connect_failures: u64,
    /// Time from the first packet until a connection was made, all connections together, ns. (`network`)
    pub connect_ns: u64,
    /// Processes begun. (`lifecycle`)
    pub processes: u64,
    /// Threads begun. (`lifecycle`)
    pub threads: u64,
    /// Programs executed. (`lifecycle`)
    pub execs: u64,
    /// Processes ended. (`lifecycle`)
    pub exits: u64,
    /// Of these, by a signal. (`lifecycle`)
    pub killed: u64,
    /// Of these, chosen by the kernel for lack of memory. (`lifecycle`)
    pub oom_kills: u64,
}

impl Counters {
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let mut fields = Fields(bytes);
        let page_kib = rustix::param::page_size() as u64 / 1024;
        Self {
            run_queue_ns: fields.u64(),
            off_cpu_ns: fields.u64(),
            faults: fields.u64(),
            major_faults: fields.u64(),
            memory_peak_kib: fields.u64() * page_kib,
            rx_bytes: fields.u64(),
            rx_packets: fields.u64(),
            tx_bytes: fields.u64(),
            tx_packets: fields.u64(),
            connects: fields.u64(),
            connect_failures: fields.u64(),
            connect_ns: fields.u64(),
            processes: fields.u64(),
            threads: fields.u64(),
            execs: fields.u64(),
            exits: fields.u64(),
            killed: fields.u64(),
            oom_kills: fields.u64(),
        }
    }

    /// What came since `earlier`. The memory's high-water mark is no sum and stays.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            run_queue_ns: self.run_queue_ns.saturating_sub(earlier.run_queue_ns),
            off_cpu_ns: self.off_cpu_ns.saturating_sub(earlier.off_cpu_ns),
            faults: self.faults.saturating_sub(earlier.faults),
            major_faults: self.major_faults.saturating_sub(earlier.major_faults),
            memory_peak_kib: self.memory_peak_kib,
            rx_bytes: self.rx_bytes.saturating_sub(earlier.rx_bytes),
            rx_packets: self.rx_packets.saturating_sub(earlier.rx_packets),
            tx_bytes: self.tx_bytes.saturating_sub(earlier.tx_bytes),
            tx_packets: self.tx_packets.saturating_sub(earlier.tx_packets),
            connects: self.connects.saturating_sub(earlier.connects),
            connect_failures: self.connect_failures.saturating_sub(earlier.connect_failures),
            connect_ns: self.connect_ns.saturating_sub(earlier.connect_ns),
            processes: self.processes.saturating_sub(earlier.processes),
            threads: self.threads.saturating_sub(earlier.threads),
            execs: self.execs.saturating_sub(earlier.execs),
            exits: self.exits.saturating_sub(earlier.exits),
            killed: self.killed.saturating_sub(earlier.killed),
            oom_kills: self.oom_kills.saturating_sub(earlier.oom_kills),
        }
    }
}

/// What found no place since the tracer was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Events that nobody read in time.
    pub events: u64,
    /// Times that a thread's waiting was not noted, for too many waited.
    pub tasks: u64,
    /// Connections whose time was not taken.
    pub connects: u64,
    /// System calls that were not counted in a window.
    pub syscalls: u64,
    /// Cgroups that were not watched, for too many were.
    pub cgroups: u64,
}

/// One system call in a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its number on this architecture.
    pub number: u32,
    /// Its name, or `syscall_N` for one newer than this program.
    pub name: String,
    /// Calls that ended in the window; those that do not return, such as `exit_group`, when they began.
    pub count: u64,
    /// Of these, those that failed.
    pub errors: u64,
    /// Calls that a seccomp filter refused (with EPERM or ENOSYS) before they began; in none of the others.
    pub denied: u64,
    /// How long they took together, ns.
    pub total_ns: u64,
    /// How many took from 2^i ns to less than 2^(i+1); the last one holds all that took longer.
    pub buckets: [u64; BUCKETS],
}

impl Call {
    pub(crate) fn read(number: u32, bytes: &[u8]) -> Self {
        let mut fields = Fields(bytes);
        let name = stratos_sys::syscalls::name(number);
        Self {
            number,
            name: name.map_or_else(|| format!("syscall_{number}"), str::to_owned),
            count: fields.u64(),
            errors: fields.u64(),
            denied: fields.u64(),
            total_ns: fields.u64(),
            buckets: std::array::from_fn(|_| fields.u64()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: u64) -> Vec<u8> {
        (1..=count).flat_map(u64::to_ne_bytes).collect()
    }

    #[test]
    fn figures_are_read_in_the_order_they_are_written() {
        let bytes = numbers(18);
        assert_eq!(bytes.len(), COUNTERS_BYTES);
        let counters = Counters::read(&bytes);
        assert_eq!((counters.run_queue_ns, counters.off_cpu_ns, counters.oom_kills), (1, 2, 18));
        assert_eq!(counters.memory_peak_kib, 5 * rustix::param::page_size() as u64 / 1024);
        let since = counters.since(&Counters { faults: 1, oom_kills: 20, ..Counters::default() });
        assert_eq!((since.faults, since.oom_kills, since.exits), (2, 0, 16));
        assert_eq!(since.memory_peak_kib, counters.memory_peak_kib);
        // Shorter than it should be: no panic, zeros.
        assert_eq!(Counters::read(&bytes[..9]).off_cpu_ns, 0);
    }

    #[test]
    fn a_call_has_its_name_and_histogram() {
        let bytes = numbers(4 + BUCKETS as u64);
        assert_eq!(bytes.len(), CALL_BYTES);
        let call = Call::read(435, &bytes);
        assert_eq!((call.name.as_str(), call.count, call.errors), ("clone3", 1, 2));
        assert_eq!((call.denied, call.total_ns), (3, 4));
        assert_eq!((call.buckets[0], call.buckets[BUCKETS - 1]), (5, 40));
        assert_eq!(Call::read(511, &[]).name, "syscall_511");
    }
}
