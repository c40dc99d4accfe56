//! What a machine is to be, and the command line that makes QEMU be it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use stratos_types::{Digest, KernelChoice, NodeConfig};

use crate::accel::Accelerator;
use crate::error::{VmError, at};
use crate::identity::{Identity, write_secret};
use crate::image::Image;
use crate::qemu::{Qemu, backing, firmware, overlay};

/// Least size of a machine's disk; the node grows its state over what is behind the image.
const DISK_BYTES: u64 = 4 << 30;
/// Memory of a machine unless told otherwise, in MiB.
const MEMORY_MIB: u64 = 512;

/// A kind of machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MachineKind {
    /// A PC with PCI Express, ACPI and firmware.
    #[default]
    Q35,
    /// The least there is: no PCI, no ACPI, no firmware tables. Its disks need a kernel that reads their places from its
    /// command line, which Debian's does not.
    Microvm,
}

/// How the kernel gets into a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// QEMU loads it.
    Direct {
        /// The kernel: a bzImage, or a vmlinux for PVH.
        kernel: PathBuf,
        /// Its initramfs.
        initramfs: Option<PathBuf>,
        /// Its command line, without what the machine adds.
        cmdline: String,
    },
    /// UEFI firmware starts what the disk's EFI system partition holds.
    Uefi,
}

/// The first disk.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Disk {
    None,
    /// What is written goes with the machine.
    Over(PathBuf),
    /// What is written is in a file of its own, made when it is not there yet.
    Kept {
        base: PathBuf,
        file: PathBuf,
    },
    /// A copy of a snapshot's, gone with the machine.
    Copied(PathBuf),
}

/// A machine before it is started.
pub struct Machine {
    pub(crate) kind: MachineKind,
    pub(crate) boot: Boot,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u64,
    pub(crate) accelerator: Accelerator,
    disk: Disk,
    disk_bytes: u64,
    more_disks: Vec<PathBuf>,
    cmdline: Vec<String>,
    config: Option<NodeConfig>,
    pub(crate) identity: Option<Identity>,
    pub(crate) port: u16,
    outside: bool,
    reboots: bool,
    parallel: bool,
    pub(crate) folder: PathBuf,
    pub(crate) sinks: Vec<Box<dyn Write + Send>>,
    pub(crate) restore: Option<String>,
    pub(crate) image: Option<Image>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the configuration nor the identity: they hold secrets.
        f.debug_struct("Machine")
            .field("kind", &self.kind)
            .field("boot", &self.boot)
            .field("cpus", &self.cpus)
            .field("memory_mib", &self.memory_mib)
            .field("disk", &self.disk)
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// A machine that boots this way, without a disk.
    pub fn new(boot: Boot) -> Self {
        Self {
            kind: MachineKind::default(),
            boot,
            cpus: 2,
            memory_mib: MEMORY_MIB,
            accelerator: Accelerator::Emulation,
            disk: Disk::None,
            disk_bytes: DISK_BYTES,
            more_disks: Vec::new(),
            cmdline: Vec::new(),
            config: None,
            identity: None,
            port: 0,
            outside: true,
            reboots: false,
            parallel: false,
            folder: std::env::temp_dir(),
            sinks: Vec::new(),
            restore: None,
            image: None,
        }
    }

    /// A machine with an image's disk, whose kernel QEMU loads.
    ///
    /// # Errors
    /// When the image lacks a file.
    pub fn direct(image: &Image) -> Result<Self, VmError> {
        let boot = Boot::Direct {
            kernel: image.kernel()?,
            initramfs: Some(image.file("initramfs.img")?),
            cmdline: image.manifest().cmdline.clone(),
        };
        Self::of(image, boot)
    }

    /// A machine with an image's disk, which UEFI firmware boots.
    ///
    /// # Errors
    /// When the image lacks its disk.
    pub fn uefi(image: &Image) -> Result<Self, VmError> {
        Self::of(image, Boot::Uefi)
    }

    fn of(image: &Image, boot: Boot) -> Result<Self, VmError> {
        let disk = image.file("disk.img")?;
        Ok(Self {
            folder: image.cache().join("machines"),
            image: Some(image.clone()),
            ..Self::new(boot).disk(disk)
        })
    }

    /// Another kind of machine.
    #[must_use]
    pub fn kind(self, kind: MachineKind) -> Self {
        Self { kind, ..self }
    }

    /// Number of CPUs.
    #[must_use]
    pub fn cpus(self, cpus: u32) -> Self {
        Self { cpus, ..self }
    }

    /// Memory in MiB.
    #[must_use]
    pub fn memory_mib(self, memory_mib: u64) -> Self {
        Self { memory_mib, ..self }
    }

    /// How instructions are run; see [`accelerator`](crate::accelerator).
    #[must_use]
    pub fn accelerator(self, accelerator: Accelerator) -> Self {
        Self { accelerator, ..self }
    }

    /// A raw disk image that is read only; what the machine writes goes with it.
    #[must_use]
    pub fn disk(self, base: PathBuf) -> Self {
        Self { disk: Disk::Over(base), ..self }
    }

    /// Keeps what the machine writes to its disk in `file`, for a next machine.
    #[must_use]
    pub fn keep_disk(self, file: PathBuf) -> Self {
        match self.disk {
            Disk::Over(base) | Disk::Kept { base, .. } => Self { disk: Disk::Kept { base, file }, ..self },
            _ => self,
        }
    }

    /// Size of the disk in bytes; it is never smaller than the image.
    #[must_use]
    pub fn disk_bytes(self, disk_bytes: u64) -> Self {
        Self { disk_bytes, ..self }
    }

    /// One more raw disk, read-only.
    #[must_use]
    pub fn read_only_disk(mut self, file: PathBuf) -> Self {
        self.more_disks.push(file);
        self
    }

    /// One more word of the kernel's command line.
    #[must_use]
    pub fn kernel_option(mut self, word: impl Into<String>) -> Self {
        self.cmdline.push(word.into());
        self
    }

    /// The image's debug layer: its disk, and a shell on the console until `until`.
    ///
    /// # Errors
    /// When the image has none.
    pub fn debug(self, image: &Image, until: SystemTime) -> Result<Self, VmError> {
        let until = until.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let (disk, root_hash) = image.debug()?;
        let machine = self
            .read_only_disk(disk)
            .kernel_option(format!("stratos.debug={}", root_hash.hex()))
            .kernel_option(format!("stratos.debug_until={until}"));
        Ok(machine)
    }

    /// The node's configuration.
    #[must_use]
    pub fn config(self, config: NodeConfig) -> Self {
        Self { config: Some(config), ..self }
    }

    /// Whose token and certificate the node has; part of its configuration.
    #[must_use]
    pub fn identity(self, identity: Identity) -> Self {
        Self { identity: Some(identity), ..self }
    }

    /// The port of this machine (on 127.0.0.1) that leads to the node's API; a free one when it is 0.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Without a way out of the machine's network: only the API's port leads in.
    #[must_use]
    pub fn isolated(self) -> Self {
        Self { outside: false, ..self }
    }

    /// Boots again when the guest asks for that. Without, a reboot ends the machine.
    #[must_use]
    pub fn reboots(self) -> Self {
        Self { reboots: true, ..self }
    }

    /// Emulates several CPUs at the same time even where this QEMU may break a kernel by that, for what has to see
    /// CPUs that do not wait for each other. Otherwise such a QEMU runs them in turn.
    #[must_use]
    pub fn parallel(self) -> Self {
        Self { parallel: true, ..self }
    }

    /// Where the machine's disk is put when it is not kept; made when it is not there.
    #[must_use]
    pub fn folder(self, folder: PathBuf) -> Self {
        Self { folder, ..self }
    }

    /// Also writes the console there, as it comes.
    #[must_use]
    pub fn console(mut self, sink: impl Write + Send + 'static) -> Self {
        self.sinks.push(Box::new(sink));
        self
    }

    /// Begins with a snapshot of a machine like this one.
    pub(crate) fn restore(self, disk: PathBuf, name: &str) -> Self {
        Self { disk: Disk::Copied(disk), restore: Some(name.to_owned()), ..self }
    }

    /// The port of the guest's API.
    pub(crate) fn guest_port(&self) -> u16 {
        self.config.as_ref().map_or_else(|| NodeConfig::default().api.listen.port(), |c| c.api.listen.port())
    }

    /// Writes the files that QEMU opens into `folder`.
    pub(crate) fn prepare(&self, folder: &Path) -> Result<Files, VmError> {
        self.check()?;
        let mut files = Files { monitor: folder.join("monitor"), ..Files::default() };
        files.disk = self.prepare_disk(folder)?;
        if let Some(config) = self.config_text()? {
            let path = folder.join("config");
            let bytes = match self.kind {
                MachineKind::Q35 => {
                    format!("io.systemd.credential.binary:stratos.config={}", STANDARD.encode(config)).into()
                }
                MachineKind::Microvm => crate::nocloud::disk(&config).map_err(at("write", &path))?,
            };
            write_secret(&path, &bytes)?;
            files.config = Some(path);
        }
        if self.boot == Boot::Uefi {
            let (code, template) = firmware()?;
            let variables = folder.join("variables");
            std::fs::copy(&template, &variables).map_err(at("copy", &template))?;
            files.firmware = Some((code, variables));
        }
        Ok(files)
    }

    fn check(&self) -> Result<(), VmError> {
        let wrong = |text: &str| Err(VmError::Settings(text.to_owned()));
        let debian = self.image.as_ref().is_some_and(|i| i.manifest().kernel == KernelChoice::Debian);
        match (self.kind, &self.boot) {
            (MachineKind::Microvm, Boot::Uefi) => {
                wrong("a microvm has no UEFI firmware; use the q35 machine")
            }
            (MachineKind::Microvm, _) if debian => wrong(
                "Debian's kernel finds no disks in a microvm; use the q35 machine or the stratos kernel",
            ),
            _ if self.cpus == 0 => wrong("a machine has at least one CPU"),
            _ if self.memory_mib < 64 => wrong("a machine has at least 64 MiB of memory"),
            _ => Ok(()),
        }
    }

    fn prepare_disk(&self, folder: &Path) -> Result<Option<PathBuf>, VmError> {
        let size = |base: &Path| -> Result<u64, VmError> {
            let metadata = std::fs::metadata(base).map_err(at("read", base))?;
            Ok(metadata.len().max(self.disk_bytes))
        };
        let file = folder.join("disk");
        match &self.disk {
            Disk::None => return Ok(None),
            Disk::Over(base) => overlay(base, &file, size(base)?)?,
            Disk::Kept { base, file } => {
                if file.exists() {
                    goes_on_from(file, base)?;
                } else {
                    overlay(base, file, size(base)?)?;
                }
                return Ok(Some(file.clone()));
            }
            Disk::Copied(disk) => {
                std::fs::copy(disk, &file).map_err(at("copy", disk))?;
            }
        }
        Ok(Some(file))
    }

    fn config_text(&self) -> Result<Option<String>, VmError> {
        if self.config.is_none() && self.identity.is_none() {
            return Ok(None);
        }
        let mut config = self.config.clone().unwrap_or_default();
        if let Some(identity) = &self.identity {
            identity.apply(&mut config);
        }
        Ok(Some(toml::to_string(&config)?))
    }

    /// QEMU's command line.
    pub(crate) fn arguments(&self, qemu: &Qemu, files: &Files) -> Vec<OsString> {
        let mut line = Line(Vec::new());
        self.add_machine(qemu, &mut line);
        line.words("-chardev stdio,id=console,signal=off -serial chardev:console");
        line.option("-qmp", [OsStr::new("unix:"), &escaped(&files.monitor), OsStr::new(",server=off")]);
        if !self.reboots {
            line.words("-no-reboot");
        }
        let mut disks = 0;
        let mut add_disk = |path: &Path, settings: &str| {
            let id = format!("disk{disks}");
            disks += 1;
            line.option(
                "-drive",
                [OsStr::new(&format!("if=none,id={id},{settings},file=")), escaped(path).as_os_str()],
            );
            line.words(&format!("-device {},drive={id}", self.device("virtio-blk")));
        };
        if let Some(disk) = &files.disk {
            add_disk(disk, "format=qcow2,discard=unmap");
        }
        for disk in &self.more_disks {
            add_disk(disk, "format=raw,readonly=on");
        }
        match (&files.config, self.kind) {
            (Some(config), MachineKind::Microvm) => add_disk(config, "format=raw,readonly=on"),
            (Some(config), MachineKind::Q35) => {
                line.option("-smbios", [OsStr::new("type=11,path="), escaped(config).as_os_str()]);
            }
            (None, _) => {}
        }
        self.add_network(&mut line);
        self.add_boot(files, &mut line);
        if let Some(name) = &self.restore {
            line.words(&format!("-loadvm {name}"));
        }
        line.0
    }

    fn add_machine(&self, qemu: &Qemu, line: &mut Line) {
        line.words(match self.kind {
            // Disks are virtio ones. An empty SATA controller costs the kernel a fifth of a second: it waits for links.
            MachineKind::Q35 => "-machine q35,sata=off",
            // Without ACPI it needs the old timers and interrupt controllers, else the kernel hangs as it measures its
            // clock.
            MachineKind::Microvm => {
                "-machine microvm,acpi=off,pit=on,pic=on,rtc=on -global virtio-mmio.force-legacy=off"
            }
        });
        match self.accelerator {
            Accelerator::Kvm => line.words("-accel kvm -cpu host"),
            Accelerator::Emulation => line.words(&qemu.emulation(self.cpus, self.parallel)),
        }
        line.words(&format!("-smp {} -m {}", self.cpus, self.memory_mib));
        line.words("-nodefaults -no-user-config -display none");
    }

    fn add_network(&self, line: &mut Line) {
        let restrict = if self.outside { "off" } else { "on" };
        let (port, guest) = (self.port, self.guest_port());
        line.words(&format!(
            "-netdev user,id=network,restrict={restrict},hostfwd=tcp:127.0.0.1:{port}-:{guest}"
        ));
        // A network card's boot ROM would take time and is not needed.
        let rom = if self.kind == MachineKind::Q35 { ",romfile=" } else { "" };
        line.words(&format!("-device {},netdev=network{rom}", self.device("virtio-net")));
    }

    fn add_boot(&self, files: &Files, line: &mut Line) {
        match &self.boot {
            Boot::Direct { kernel, initramfs, cmdline } => {
                line.option("-kernel", [kernel.as_os_str()]);
                if let Some(initramfs) = initramfs {
                    line.option("-initrd", [initramfs.as_os_str()]);
                }
                let words = [cmdline.as_str()].into_iter().chain(self.own_words());
                let words: Vec<&str> = words.chain(self.cmdline.iter().map(String::as_str)).collect();
                line.option("-append", [OsStr::new(&words.join(" "))]);
            }
            Boot::Uefi => {
                if let Some((code, variables)) = &files.firmware {
                    for (path, settings) in [(code, "readonly=on"), (variables, "readonly=off")] {
                        let settings = format!("if=pflash,format=raw,{settings},file=");
                        line.option("-drive", [OsStr::new(&settings), escaped(path).as_os_str()]);
                    }
                }
                // The stub before the kernel adds these words to its own line (systemd-stub(7)).
                let words = self.own_words().chain(self.cmdline.iter().map(String::as_str));
                let words = words.collect::<Vec<_>>().join(" ").replace(',', ",,");
                let value = format!("type=11,value=io.systemd.stub.kernel-cmdline-extra={words}");
                line.option("-smbios", [OsStr::new(&value)]);
            }
        }
    }

    /// What the machine adds to the kernel's command line.
    fn own_words(&self) -> impl Iterator<Item = &str> {
        // A microvm cannot be switched off: it is told to restart, and QEMU ends in place of that.
        let reboot = (self.kind == MachineKind::Microvm).then_some("reboot=t");
        // The kernel gives up when its timer has not ticked in time, which happens in an emulated machine on a busy
        // computer. Under KVM it does not look.
        let timer = (self.accelerator == Accelerator::Emulation).then_some("no_timer_check");
        ["console=ttyS0"].into_iter().chain(reboot).chain(timer)
    }

    fn device(&self, name: &str) -> String {
        match self.kind {
            MachineKind::Q35 => format!("{name}-pci"),
            MachineKind::Microvm => format!("{name}-device"),
        }
    }

    /// What a snapshot of this machine depends on. Two machines with the same one have the same devices, and the same
    /// bytes on their disks.
    pub(crate) fn fingerprint(&self, qemu: &Qemu) -> Digest {
        let files = Files {
            disk: Some("disk".into()),
            config: Some("config".into()),
            monitor: "monitor".into(),
            firmware: None,
        };
        let mut text = format!("{}\n", qemu.banner);
        if let Some(image) = &self.image {
            text += &serde_json::to_string(image.manifest()).expect("a manifest is JSON");
        }
        // The port on this machine is none of the guest's business, nor is what was asked to be restored.
        let arguments = self.arguments(qemu, &files).into_iter();
        let arguments = arguments.filter(|word| !word.to_string_lossy().contains("hostfwd="));
        let arguments: Vec<String> = arguments.map(|word| word.to_string_lossy().into_owned()).collect();
        text += &arguments.join("\n");
        // Without secrets: each snapshot has an identity of its own.
        text += &toml::to_string(&self.config.clone().unwrap_or_default()).expect("a configuration is TOML");
        Digest::of(text.as_bytes())
    }
}

/// Files that QEMU opens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) disk: Option<PathBuf>,
    pub(crate) config: Option<PathBuf>,
    /// Code and variables.
    pub(crate) firmware: Option<(PathBuf, PathBuf)>,
    /// Socket on which the monitor is waited for.
    pub(crate) monitor: PathBuf,
}

/// A command line that grows.
struct Line(Vec<OsString>);

impl Line {
    /// Words without spaces or anything to escape in them.
    fn words(&mut self, words: &str) {
        self.0.extend(words.split(' ').map(OsString::from));
    }

    /// An option, and its value in parts.
    fn option<'a>(&mut self, name: &str, parts: impl IntoIterator<Item = &'a OsStr>) {
        self.0.push(name.into());
        self.0.push(parts.into_iter().collect());
    }
}

/// Whether a kept disk was made over this image: with another one's kernel and root hash it does not boot.
fn goes_on_from(file: &Path, image: &Path) -> Result<(), VmError> {
    let image = std::path::absolute(image).map_err(at("find", image))?;
    let base = backing(file)?;
    if base == image {
        return Ok(());
    }
    Err(VmError::OtherImage { file: file.to_owned(), base, image })
}

/// A path as QEMU's lists of options want it: their comma doubled.
fn escaped(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    let bytes = path.as_os_str().as_bytes().iter();
    let doubled = bytes.flat_map(|byte| std::iter::repeat_n(*byte, if *byte == b',' { 2 } else { 1 }));
    OsString::from_vec(doubled.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::QemuVersion;

    fn qemu() -> Qemu {
        Qemu { version: QemuVersion(7, 2), banner: "QEMU emulator version 7.2".into() }
    }

    fn files() -> Files {
        Files {
            disk: Some("/m/disk".into()),
            config: Some("/m/config".into()),
            firmware: Some(("/f/code".into(), "/m/variables".into())),
            monitor: "/s/monitor".into(),
        }
    }

    fn direct() -> Machine {
        Machine::new(Boot::Direct {
            kernel: "/i/vmlinuz".into(),
            initramfs: Some("/i/initramfs.img".into()),
            cmdline: "roothash=00 quiet".into(),
        })
    }

    /// The command line, one option a line.
    fn check(machine: &Machine, expected: &str) {
        let words = machine.arguments(&qemu(), &files());
        let words = words.iter().map(|word| word.to_str().unwrap());
        let text = words.fold(String::new(), |text, word| match word.strip_prefix('-') {
            Some(_) if text.is_empty() => word.to_owned(),
            Some(_) => text + "\n" + word,
            None => text + " " + word,
        });
        let expected: Vec<&str> = expected.trim().lines().map(str::trim).collect();
        assert_eq!(text, expected.join("\n"), "\n{text}");
    }

    #[test]
    fn a_pc_is_loaded_directly_and_reads_its_configuration_from_its_firmware_tables() {
        check(
            &direct().isolated().read_only_disk("/i/debug,1.img".into()).kernel_option("a=b"),
            "
            -machine q35,sata=off
            -accel tcg,thread=single
            -cpu max,-cx16
            -smp 2
            -m 512
            -nodefaults
            -no-user-config
            -display none
            -chardev stdio,id=console,signal=off
            -serial chardev:console
            -qmp unix:/s/monitor,server=off
            -no-reboot
            -drive if=none,id=disk0,format=qcow2,discard=unmap,file=/m/disk
            -device virtio-blk-pci,drive=disk0
            -drive if=none,id=disk1,format=raw,readonly=on,file=/i/debug,,1.img
            -device virtio-blk-pci,drive=disk1
            -smbios type=11,path=/m/config
            -netdev user,id=network,restrict=on,hostfwd=tcp:127.0.0.1:0-:8443
            -device virtio-net-pci,netdev=network,romfile=
            -kernel /i/vmlinuz
            -initrd /i/initramfs.img
            -append roothash=00 quiet console=ttyS0 no_timer_check a=b
            ",
        );
    }

    #[test]
    fn a_microvm_reads_its_configuration_from_a_disk() {
        check(
            &direct().kind(MachineKind::Microvm).cpus(1).memory_mib(256).port(8443).reboots(),
            "
            -machine microvm,acpi=off,pit=on,pic=on,rtc=on
            -global virtio-mmio.force-legacy=off
            -accel tcg,thread=multi
            -cpu max,-cx16
            -smp 1
            -m 256
            -nodefaults
            -no-user-config
            -display none
            -chardev stdio,id=console,signal=off
            -serial chardev:console
            -qmp unix:/s/monitor,server=off
            -drive if=none,id=disk0,format=qcow2,discard=unmap,file=/m/disk
            -device virtio-blk-device,drive=disk0
            -drive if=none,id=disk1,format=raw,readonly=on,file=/m/config
            -device virtio-blk-device,drive=disk1
            -netdev user,id=network,restrict=off,hostfwd=tcp:127.0.0.1:8443-:8443
            -device virtio-net-device,netdev=network
            -kernel /i/vmlinuz
            -initrd /i/initramfs.img
            -append roothash=00 quiet console=ttyS0 reboot=t no_timer_check
            ",
        );
    }

    #[test]
    fn firmware_boots_the_disk() {
        check(
            &Machine::new(Boot::Uefi).accelerator(Accelerator::Kvm).kernel_option("a=b,c"),
            "
            -machine q35,sata=off
            -accel kvm
            -cpu host
            -smp 2
            -m 512
            -nodefaults
            -no-user-config
            -display none
            -chardev stdio,id=console,signal=off
            -serial chardev:console
            -qmp unix:/s/monitor,server=off
            -no-reboot
            -drive if=none,id=disk0,format=qcow2,discard=unmap,file=/m/disk
            -device virtio-blk-pci,drive=disk0
            -smbios type=11,path=/m/config
            -netdev user,id=network,restrict=off,hostfwd=tcp:127.0.0.1:0-:8443
            -device virtio-net-pci,netdev=network,romfile=
            -drive if=pflash,format=raw,readonly=on,file=/f/code
            -drive if=pflash,format=raw,readonly=off,file=/m/variables
            -smbios type=11,value=io.systemd.stub.kernel-cmdline-extra=console=ttyS0 a=b,,c
            ",
        );
    }

    #[test]
    fn a_snapshot_depends_on_devices_and_not_on_ports() {
        let digest = |machine: Machine| machine.fingerprint(&qemu());
        let same = digest(direct());
        assert_eq!(digest(direct().port(8443)), same);
        assert_ne!(digest(direct().cpus(1)), same);
        assert_ne!(digest(direct().memory_mib(256)), same);
        assert_ne!(digest(direct().read_only_disk("x".into())), same);
    }

    #[test]
    fn settings_that_make_no_machine_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (machine, expected) in [
            (Machine::new(Boot::Uefi).kind(MachineKind::Microvm), "no UEFI firmware"),
            (direct().cpus(0), "at least one CPU"),
            (direct().memory_mib(16), "at least 64 MiB"),
        ] {
            let error = machine.prepare(folder.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
