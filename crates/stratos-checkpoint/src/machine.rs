//! Which machine an image belongs to.

use std::io;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What must be the same where an image is restored: the kernel's build, for its vDSO is mapped into every process, and
/// the processor's abilities, for programs choose their code by them at their start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The kernel's release and build.
    pub kernel: String,
    /// The processor's make, and a digest of what it can do.
    pub processor: String,
}

impl Machine {
    /// The machine that this runs on.
    ///
    /// # Errors
    /// When /proc is not there.
    pub fn current() -> io::Result<Self> {
        let uname = rustix::system::uname();
        let kernel = format!("{} {}", uname.release().to_string_lossy(), uname.version().to_string_lossy());
        Ok(Self { kernel, processor: processor(&std::fs::read_to_string("/proc/cpuinfo")?) })
    }

    /// Why an image of `self` cannot be used on `here`.
    pub fn differs_from(&self, here: &Self) -> Option<String> {
        if self.kernel != here.kernel {
            return Some(format!("it is of the kernel `{}`, and this is `{}`", self.kernel, here.kernel));
        }
        (self.processor != here.processor)
            .then(|| format!("it is of the processor `{}`, and this is `{}`", self.processor, here.processor))
    }
}

/// What the processor of this machine can do, in the kernel's words, sorted.
///
/// # Errors
/// When /proc is not there.
pub fn cpu_flags() -> io::Result<Vec<String>> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
    Ok(flags(&cpuinfo).into_iter().filter(|flag| !flag.is_empty()).map(str::to_owned).collect())
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// The first processor's model, and a digest of its flags: all processors of a machine have the same.
fn processor(cpuinfo: &str) -> String {
    let digest = Sha256::digest(flags(cpuinfo).join(" "));
    let digest: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let [vendor, family, model] = ["vendor_id", "cpu family", "model"].map(|name| of_first(cpuinfo, name));
    format!("{vendor} {family}/{model} {digest}")
}

fn flags(cpuinfo: &str) -> Vec<&str> {
    let mut flags: Vec<_> = of_first(cpuinfo, "flags").split(' ').collect();
    flags.sort_unstable();
    flags
}

/// What is said of the first processor.
fn of_first<'a>(cpuinfo: &'a str, name: &str) -> &'a str {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let line = first.lines().find(|line| line.split(':').next().is_some_and(|n| n.trim() == name));
    line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_known_by_kernel_and_processor() {
        let text = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\nflags\t\t: fpu sse\n\n\
                    processor\t: 1\nflags\t\t: fpu\n";
        let other = text.replace("fpu sse", "sse fpu");
        assert_eq!(processor(text), processor(&other));
        assert!(processor(text).starts_with("GenuineIntel 6/85 "), "{}", processor(text));
        assert_ne!(processor(text), processor(&text.replace("fpu sse", "fpu sse avx")));
        let here = Machine::current().unwrap();
        assert_eq!(here.differs_from(&here), None);
        let other = Machine { kernel: "6.0 old".to_owned(), ..here.clone() };
        assert!(other.differs_from(&here).unwrap().starts_with("it is of the kernel `6.0 old`"));
    }
}
