//! What the machine's CPUs did, and how much work waits for them, for memory and for disks.

use std::io;

use stratos_api::node::{CpuTimes, Pressure};

/// CPU time since the kernel started.
pub(super) fn cpu_times() -> io::Result<CpuTimes> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    parse_stat(&text, ticks)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/stat has no `cpu` line"))
}

/// Reads the line of all CPUs (proc_stat(5)): user, nice, system, idle, iowait, irq, softirq, steal. Time of guests is
/// within user time.
fn parse_stat(text: &str, ticks_per_s: u64) -> Option<CpuTimes> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let numbers = line.split_ascii_whitespace().map(|number| number.parse::<u64>().ok());
    let [user, nice, system, idle, wait, irq, softirq, steal] =
        numbers.take(8).collect::<Option<Vec<_>>>()?.try_into().ok()?;
    let ms = |ticks: &[u64]| {
        ticks.iter().fold(0, |sum: u64, n| sum.saturating_add(*n)).saturating_mul(1000) / ticks_per_s
    };
    Some(CpuTimes {
        user_ms: ms(&[user, nice]),
        system_ms: ms(&[system, irq, softirq]),
        idle_ms: ms(&[idle]),
        wait_ms: ms(&[wait]),
        stolen_ms: ms(&[steal]),
    })
}

/// Pressure of the last ten seconds; nothing where the kernel was built or started without it.
pub(super) fn pressure() -> Option<Pressure> {
    let read = |what: &str| std::fs::read_to_string(format!("/proc/pressure/{what}")).ok();
    let (cpu, memory, io) = (read("cpu")?, read("memory")?, read("io")?);
    Some(Pressure {
        cpu_some: average(&cpu, "some")?,
        memory_some: average(&memory, "some")?,
        memory_full: average(&memory, "full")?,
        io_some: average(&io, "some")?,
        io_full: average(&io, "full")?,
    })
}

/// The average of ten seconds in a line such as `some avg10=0.12 avg60=0.03 avg300=0.00 total=12345`.
fn average(text: &str, which: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(' '))?;
    let value: f64 =
        line.split_ascii_whitespace().find_map(|word| word.strip_prefix("avg10="))?.parse().ok()?;
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_all_cpus_is_read() {
        let text = "cpu  100 20 30 4000 50 6 7 8 9 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n";
        let want = CpuTimes { user_ms: 1200, system_ms: 430, idle_ms: 40_000, wait_ms: 500, stolen_ms: 80 };
        assert_eq!(parse_stat(text, 100), Some(want));
        for wrong in ["", "cpu0 1 2 3 4 5 6 7 8\n", "cpu  1 2 3\n", "cpu  1 2 3 x 5 6 7 8\n"] {
            assert_eq!(parse_stat(wrong, 100), None, "{wrong}");
        }
    }

    #[test]
    fn pressure_is_that_of_ten_seconds() {
        let text =
            "some avg10=12.50 avg60=3.00 avg300=0.10 total=7\nfull avg10=0.25 avg60=0 avg300=0 total=1\n";
        assert_eq!((average(text, "some"), average(text, "full")), (Some(12.5), Some(0.25)));
        for wrong in ["", "some total=1", "some avg10=nan", "something avg10=1"] {
            assert_eq!(average(wrong, "some"), None, "{wrong}");
        }
    }

    #[test]
    fn this_machine_tells() {
        let times = cpu_times().unwrap();
        assert!(times.user_ms > 0 && times.idle_ms > 0, "{times:?}");
        if std::path::Path::new("/proc/pressure/io").exists() {
            assert!(pressure().is_some());
        }
    }
}
