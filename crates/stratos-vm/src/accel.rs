//! Whether this machine can run guests by itself. The device file does not tell: where virtual machines are nested, KVM
//! may be there and take minutes for what emulation does in seconds. So a kernel is booted, with little time for it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use stratos_types::Digest;

use crate::error::{VmError, at};
use crate::machine::{Boot, Machine};
use crate::qemu::Qemu;

/// How long the kernel may take from QEMU's start to the point where it finds no root; real KVM needs a second.
const TRIAL: Duration = Duration::from_secs(10);
/// Device of KVM.
const DEVICE: &str = "/dev/kvm";

/// How a guest's instructions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// By the processor.
    Kvm,
    /// By software.
    Emulation,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kvm => "KVM",
            Self::Emulation => "emulated",
        })
    }
}

/// Verdicts by what they depend on.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Verdicts(BTreeMap<String, Accelerator>);

/// What is best on this machine for a guest with this kernel. The verdict is kept in the cache.
///
/// # Errors
/// When QEMU is not there, or the verdict cannot be kept.
pub async fn accelerator(cache: &Path, kernel: &Path) -> Result<Accelerator, VmError> {
    let qemu = Qemu::find()?;
    if std::fs::File::options().read(true).write(true).open(DEVICE).is_err() {
        return Ok(Accelerator::Emulation);
    }
    let key = key(&qemu, kernel)?;
    let path = cache.join("machines/accelerators.json");
    let mut verdicts: Verdicts = match std::fs::read(&path) {
        // One that cannot be read is made anew.
        Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
        Err(_) => Verdicts::default(),
    };
    if let Some(verdict) = verdicts.0.get(&key) {
        return Ok(*verdict);
    }
    let verdict = match boots(kernel).await {
        Some(true) => Accelerator::Kvm,
        Some(false) => Accelerator::Emulation,
        // It says nothing about KVM: the next machine tries again.
        None => return Ok(Accelerator::Emulation),
    };
    verdicts.0.insert(key, verdict);
    write(&path, &verdicts)?;
    Ok(verdict)
}

/// What a verdict depends on: this machine's kernel and processor, QEMU, the guest's kernel.
fn key(qemu: &Qemu, kernel: &Path) -> Result<String, VmError> {
    let read = |path: &str| std::fs::read_to_string(path).map_err(at("read", Path::new(path)));
    let processors = read("/proc/cpuinfo")?;
    let model = processors.lines().find(|line| line.starts_with("model name")).unwrap_or_default();
    let (release, guest) = (read("/proc/sys/kernel/osrelease")?, PathBuf::from(kernel));
    let guest = std::fs::File::open(&guest).and_then(Digest::of_reader).map_err(at("read", &guest))?;
    let text = [release.trim(), model, &qemu.banner, &guest.to_string()].join("\n");
    Ok(Digest::of(text.as_bytes()).hex())
}

/// Whether a kernel gets to the point where it finds no root; `None` when there was no machine to try it in.
async fn boots(kernel: &Path) -> Option<bool> {
    let boot =
        Boot::Direct { kernel: kernel.to_owned(), initramfs: None, cmdline: "panic=-1 loglevel=4".into() };
    let machine = Machine::new(boot).cpus(1).memory_mib(256).accelerator(Accelerator::Kvm).isolated();
    let machine = match machine.start().await {
        Ok(machine) => machine,
        // QEMU itself says that this machine's KVM is not for it.
        Err(VmError::Refused { .. }) => return Some(false),
        Err(_) => return None,
    };
    let found = machine.wait_for("it found no root", 0, TRIAL, |line| {
        line.text.contains("Unable to mount root").then_some(())
    });
    Some(found.await.is_ok())
}

fn write(path: &Path, verdicts: &Verdicts) -> Result<(), VmError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(at("create", folder))?;
    // In one step: others may read it meanwhile.
    let file = tempfile::NamedTempFile::new_in(folder).map_err(at("create a file in", folder))?;
    let text = serde_json::to_vec(verdicts).expect("verdicts are JSON");
    std::fs::write(file.path(), text).map_err(at("write", file.path()))?;
    file.persist(path).map(drop).map_err(|e| at("write", path)(e.error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_kept() {
        let cache = tempfile::tempdir().unwrap();
        let path = cache.path().join("machines/accelerators.json");
        let verdicts = Verdicts([("a".to_owned(), Accelerator::Kvm)].into());
        write(&path, &verdicts).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), r#"{"a":"kvm"}"#);
        let read: Verdicts = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read.0, verdicts.0);
    }
}
