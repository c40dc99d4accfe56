//! The peer of `boot`: Debian of StratOS's own suite, as small as it still is a system, with systemd.
//!
//! minbase, systemd, dbus, the same kernel package as StratOS's and the initramfs that Debian's own cloud images boot
//! with (initramfs-tools as it comes), the network by systemd-networkd. Where a choice could cost it time that StratOS
//! does not pay, it is made in its favour: it runs no service of its own, waits for no network, checks no file system
//! (there is no fsck in it), has its machine id, and its root is plain ext4 without verity.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use stratos_image::BuildOptions;
use stratos_image::debian::{KernelPackage, SUITE, kernel_package};
use stratos_types::Digest;

use crate::compressed::compressed;
use crate::interrupt::Interrupt;
use crate::mmdebstrap::{mmdebstrap, packages};
use crate::program::run;

/// Raised when the way the image is made changes in what [`Inputs`] does not hold.
const FORMAT: u32 = 2;
/// Packages beside Debian's essential ones and apt, and the kernel's.
const PACKAGES: &[&str] =
    &["systemd", "systemd-sysv", "dbus", "udev", "kmod", "linux-base", "initramfs-tools", "zstd"];
/// Files that the packages leave to whoever installs them, and the two services of the benchmark.
const FILES: &[(&str, &str)] = &[
    ("etc/hostname", "debian\n"),
    ("etc/fstab", "/dev/vda / ext4 rw 0 1\n"),
    // Without one each boot were a first boot, which does more.
    ("etc/machine-id", "6f2c3a6b1f3e4a0f9d5b7c8e9a0b1c2d\n"),
    ("etc/systemd/network/dhcp.network", include_str!("../../fixtures/debian/dhcp.network")),
    ("etc/systemd/system/report.service", include_str!("../../fixtures/debian/report.service")),
    ("etc/systemd/system/poweroff.service", include_str!("../../fixtures/debian/poweroff.service")),
];
/// Services that are enabled.
const SERVICES: &[&str] = &["systemd-networkd.service", "report.service", "poweroff.service"];
/// Size of the disk; what is not used of it takes no space.
const DISK_SIZE: &str = "1G";
/// The kernel's command line, beside what a machine adds.
pub(super) const CMDLINE: &str = "root=/dev/vda ro quiet";
/// With this on its command line, the system switches off once it is up.
pub(super) const POWER_OFF: &str = "bench.poweroff";
/// How the line on the console begins that tells the state of the system once it is up.
pub(super) const REPORT: &str = "system is ";

/// The finished image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Debian {
    /// Its kernel.
    pub(super) kernel: PathBuf,
    /// Its initramfs.
    pub(super) initrd: PathBuf,
    /// Its disk, ext4 without partitions; only ever read.
    pub(super) disk: PathBuf,
    /// What is known of it.
    pub(super) described: Described,
}

/// `image.json` beside the image's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Described {
    /// The kernel's version.
    pub(super) kernel_version: String,
    /// Kernel, initramfs and disk, compressed as StratOS's files are for its own figure.
    pub(super) compressed_bytes: u64,
    /// Every package and its version.
    pub(super) packages: Vec<String>,
}

/// What the image is made from, as far as it is told: the archive decides the packages' versions.
#[derive(Serialize)]
struct Inputs<'a> {
    format: u32,
    suite: &'a str,
    kernel: Digest,
    packages: &'a [&'a str],
    files: &'a [(&'a str, &'a str)],
    services: &'a [&'a str],
    disk_size: &'a str,
}

impl Debian {
    /// Builds the image, unless the cache has it.
    ///
    /// # Errors
    /// When the archive cannot be used or a program fails.
    pub(super) fn build(options: &BuildOptions<'_>, interrupt: &Interrupt) -> Result<Self> {
        let kernel = kernel_package(options).context("the kernel's package")?;
        let cache = options.cache.join("bench");
        fs::create_dir_all(&cache).with_context(|| format!("create {}", cache.display()))?;
        let folder = cache.join(format!("debian-{}", &inputs(&kernel).hex()[..16]));
        if let Some(built) = Self::open(&folder)? {
            return Ok(built);
        }
        eprintln!("building the Debian image (once; it is kept in {})", folder.display());
        let temp = tempfile::Builder::new().prefix("tmp-").tempdir_in(&cache)?;
        let root = temp.path().join("root");
        install(options, &kernel, &root, interrupt)?;
        let described = write_image(&kernel, &root, temp.path(), interrupt)?;
        fs::remove_dir_all(&root).context("remove the unpacked system")?;
        fs::write(temp.path().join("image.json"), serde_json::to_vec_pretty(&described)?)?;
        fs::rename(temp.keep(), &folder).with_context(|| format!("make {}", folder.display()))?;
        Self::open(&folder)?.with_context(|| format!("{} is not there", folder.display()))
    }

    fn open(folder: &Path) -> Result<Option<Self>> {
        let text = match fs::read(folder.join("image.json")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("read {}", folder.display()))?,
        };
        let described =
            serde_json::from_slice(&text).with_context(|| format!("{}/image.json", folder.display()))?;
        let [kernel, initrd, disk] = FILE_NAMES.map(|name| folder.join(name));
        Ok(Some(Self { kernel, initrd, disk, described }))
    }
}

/// Kernel, initramfs and disk.
const FILE_NAMES: [&str; 3] = ["vmlinuz", "initrd.img", "disk.img"];

fn inputs(kernel: &KernelPackage) -> Digest {
    let inputs = Inputs {
        format: FORMAT,
        suite: SUITE,
        kernel: kernel.digest,
        packages: PACKAGES,
        files: FILES,
        services: SERVICES,
        disk_size: DISK_SIZE,
    };
    Digest::of(&serde_json::to_vec(&inputs).expect("inputs are plain data"))
}

/// Unpacks and configures the system in `root`.
fn install(
    options: &BuildOptions<'_>,
    kernel: &KernelPackage,
    root: &Path,
    interrupt: &Interrupt,
) -> Result<()> {
    let hook = |script: &str| format!("--customize-hook={script}");
    let mut command = mmdebstrap(options, SUITE, "minbase", PACKAGES)?;
    command
        .env("KERNEL_PACKAGE", &kernel.file)
        // The very package that StratOS's image has, which the archive may no longer offer.
        .arg(hook(r#"cp "$KERNEL_PACKAGE" "$1/kernel.deb""#))
        .arg(hook(r#"chroot "$1" dpkg -i /kernel.deb"#))
        .arg(hook(r#"rm "$1/kernel.deb""#));
    command.into(root, interrupt)?;
    for (path, text) in FILES {
        let path = root.join(path);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    }
    run(Command::new("chroot").arg(root).args(["systemctl", "--quiet", "enable"]).args(SERVICES), interrupt)
}

/// Makes the image's files in `folder`.
fn write_image(
    kernel: &KernelPackage,
    root: &Path,
    folder: &Path,
    interrupt: &Interrupt,
) -> Result<Described> {
    let packages = packages(root)?;
    let [vmlinuz, initrd, disk] = FILE_NAMES.map(|name| folder.join(name));
    for (from, to) in [("vmlinuz", &vmlinuz), ("initrd.img", &initrd)] {
        let from = root.join("boot").join(format!("{from}-{}", kernel.version));
        fs::copy(&from, to).with_context(|| format!("copy {}", from.display()))?;
    }
    run(
        Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-L", "root", "-d"])
            .args([root, &disk])
            .arg(DISK_SIZE),
        interrupt,
    )?;
    let mut compressed_bytes = 0;
    for file in [&vmlinuz, &initrd, &disk] {
        interrupt.check()?;
        compressed_bytes += compressed(file)?;
    }
    Ok(Described { kernel_version: kernel.version.clone(), compressed_bytes, packages })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(content: &[u8]) -> KernelPackage {
        let digest = Digest::of(content);
        KernelPackage { version: "6.12.1-cloud-amd64".into(), file: "/downloads/x".into(), digest }
    }

    #[test]
    fn another_kernel_is_another_image() {
        assert_eq!(inputs(&kernel(b"a")), inputs(&kernel(b"a")));
        assert_ne!(inputs(&kernel(b"a")), inputs(&kernel(b"b")));
    }

    #[test]
    fn only_finished_images_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Debian::open(dir.path()).unwrap(), None);
        let described = Described {
            kernel_version: "6.12.1-cloud-amd64".into(),
            compressed_bytes: 7,
            packages: vec!["apt 3.0".into()],
        };
        fs::write(dir.path().join("image.json"), serde_json::to_vec(&described).unwrap()).unwrap();
        let opened = Debian::open(dir.path()).unwrap().unwrap();
        assert_eq!(opened.described, described);
        assert_eq!(opened.disk, dir.path().join("disk.img"));
        fs::write(dir.path().join("image.json"), "{").unwrap();
        assert!(Debian::open(dir.path()).is_err());
    }

    #[test]
    fn the_services_are_there_and_say_what_is_waited_for() {
        for service in &SERVICES[1..] {
            assert!(FILES.iter().any(|(path, _)| path.ends_with(service)), "{service}");
        }
        let text = |name: &str| FILES.iter().find(|(path, _)| path.ends_with(name)).unwrap().1;
        assert!(
            text("report.service")
                .contains(&format!("echo \"{REPORT}$(systemctl is-system-running --wait)\""))
        );
        assert!(text("poweroff.service").contains(&format!("ConditionKernelCommandLine={POWER_OFF}\n")));
    }
}
