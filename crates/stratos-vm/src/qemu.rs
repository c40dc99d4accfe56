//! The emulator on this machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde::Deserialize;

use crate::error::{VmError, at};

/// The emulator; machines are x86-64 ones.
pub(crate) const QEMU: &str = "qemu-system-x86_64";
/// The tool for disks.
const QEMU_IMG: &str = "qemu-img";

/// Where distributions put OVMF: code, and the template of its variables.
const FIRMWARE: &[(&str, &str)] = &[
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
];

/// A version of QEMU, major and minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct QemuVersion(pub u32, pub u32);

/// The emulator that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    /// Its version.
    pub version: QemuVersion,
    /// The line it says its version with.
    pub banner: String,
}

impl Qemu {
    /// Looks for it.
    ///
    /// # Errors
    /// When it is not installed, or is not what it says.
    pub fn find() -> Result<Self, VmError> {
        let output = Command::new(QEMU).arg("--version").stdin(Stdio::null()).output();
        let output = output.map_err(|source| VmError::NoProgram {
            program: QEMU,
            package: "qemu-system-x86",
            source,
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let banner = text.lines().next().unwrap_or_default().to_owned();
        let version = parse_version(&banner).ok_or_else(|| {
            VmError::Settings(format!("{QEMU} does not tell its version, but `{}`", banner.escape_debug()))
        })?;
        Ok(Self { version, banner })
    }

    /// The options to emulate processors with, separated by spaces: in turns unless this QEMU is sound otherwise, or
    /// `parallel` asks for it all the same.
    pub fn emulation(&self, cpus: u32, parallel: bool) -> String {
        let multi = cpus == 1 || parallel || self.emulates_in_parallel();
        format!("-accel tcg,thread={} -cpu {}", if multi { "multi" } else { "single" }, self.emulated_cpu())
    }

    /// All that this QEMU can. Before version 10 guests are corrupted now and then when CMPXCHG16B is emulated.
    fn emulated_cpu(&self) -> &'static str {
        if self.version < QemuVersion(10, 0) { "max,-cx16" } else { "max" }
    }

    /// Whether emulated CPUs can run at the same time, each in a thread of its own. Before version 8.1 one of them may
    /// run instructions that another one has just replaced: a kernel that patches itself as it boots then dies now and
    /// then with `Oops: int3` (QEMU commit deba78709a, "accel/tcg: Always lock pages before translation").
    fn emulates_in_parallel(&self) -> bool {
        self.version >= QemuVersion(8, 1)
    }
}

fn parse_version(banner: &str) -> Option<QemuVersion> {
    let rest = banner.strip_prefix("QEMU emulator version ")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    Some(QemuVersion(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// UEFI firmware: its code, and the template of its variables.
pub(crate) fn firmware() -> Result<(PathBuf, PathBuf), VmError> {
    let there = FIRMWARE.iter().map(|(code, vars)| (PathBuf::from(code), PathBuf::from(vars)));
    there.into_iter().find(|(code, vars)| code.is_file() && vars.is_file()).ok_or(VmError::NoFirmware)
}

/// Makes a disk of `size` bytes whose content is that of `base` until it is written to. `base` is never written. The
/// disk is there whole or not at all, and for its owner alone: what a machine writes to it is secret.
pub(crate) fn overlay(base: &Path, path: &Path, size: u64) -> Result<(), VmError> {
    let base = std::path::absolute(base).map_err(at("find", base))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let new = tempfile::NamedTempFile::new_in(folder).map_err(at("create a file in", folder))?;
    let output = Command::new(QEMU_IMG)
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .arg(base)
        .arg(new.path())
        .arg(size.to_string())
        .stdin(Stdio::null())
        .output()
        .map_err(|source| VmError::NoProgram { program: QEMU_IMG, package: "qemu-utils", source })?;
    match output.status.success() {
        true => new.persist(path).map(drop).map_err(|error| at("create", path)(error.error)),
        false => Err(disk_failed(path, &output)),
    }
}

/// The file that a disk made by [`overlay`] has its content from.
pub(crate) fn backing(disk: &Path) -> Result<PathBuf, VmError> {
    let output = Command::new(QEMU_IMG)
        // Another machine may have it open.
        .args(["info", "--force-share", "--output=json", "-f", "qcow2"])
        .arg(disk)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| VmError::NoProgram { program: QEMU_IMG, package: "qemu-utils", source })?;
    if !output.status.success() {
        return Err(disk_failed(disk, &output));
    }
    let info = serde_json::from_slice::<DiskInfo>(&output.stdout);
    info.map(|info| info.backing_filename)
        .map_err(|_| VmError::Disk { path: disk.to_owned(), output: "it has no image below it".to_owned() })
}

/// What `qemu-img info` says of a disk.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct DiskInfo {
    backing_filename: PathBuf,
}

fn disk_failed(path: &Path, output: &Output) -> VmError {
    let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    VmError::Disk { path: path.to_owned(), output }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_for_its_owner_and_knows_its_image() {
        use std::os::unix::fs::PermissionsExt as _;
        if Command::new(QEMU_IMG).arg("--version").stdout(Stdio::null()).status().is_err() {
            assert!(std::env::var_os("CI").is_none(), "CI has {QEMU_IMG}");
            eprintln!("skipped: a_disk_is_for_its_owner_and_knows_its_image (no {QEMU_IMG})");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (base, disk) = (folder.path().join("base"), folder.path().join("disk"));
        std::fs::write(&base, [0; 4096]).unwrap();
        overlay(&base, &disk, 1 << 20).unwrap();
        assert_eq!(std::fs::metadata(&disk).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(backing(&disk).unwrap(), base);
        assert!(overlay(&folder.path().join("missing"), &folder.path().join("other"), 1 << 20).is_err());
        assert!(!folder.path().join("other").exists(), "whole or not at all");
    }

    #[test]
    fn versions_are_read_and_decide_about_the_processors() {
        for (banner, version, without_cx16, parallel) in [
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)", QemuVersion(7, 2), true, false),
            ("QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1)", QemuVersion(8, 2), true, true),
            ("QEMU emulator version 10.0.2", QemuVersion(10, 0), false, true),
        ] {
            let found = parse_version(banner).unwrap();
            assert_eq!(found, version);
            let qemu = Qemu { version: found, banner: banner.into() };
            assert_eq!(qemu.emulated_cpu().contains("-cx16"), without_cx16, "{banner}");
            assert_eq!(qemu.emulates_in_parallel(), parallel, "{banner}");
        }
        assert_eq!(parse_version("QEMU emulator version x"), None);
    }
}
