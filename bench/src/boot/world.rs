//! What boots, prepared: a disk for each system, on which everything that a first boot does is done.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use stratos_api::node::NodeStatus;
use stratos_image::BuildOptions;
use stratos_tests::Package;
use stratos_types::{KernelChoice, NodeConfig};
use stratos_vm::{Boot, Image, Machine};
use tempfile::TempDir;

use super::debian::{self, Debian};
use super::{Booted, Subject};
use crate::guest::{self, BOOT_LIMIT, Guest, Hardware, Prepared};
use crate::interrupt::Interrupt;

/// The function that is asked: examples/hello-native.
pub(super) const FUNCTION: &str = "hello-native";
/// What it answers begins with.
const ANSWER: &[u8] = br#"{"message":"Hello, world!""#;

/// The images of what is to boot.
pub(super) struct Images {
    stratos: BTreeMap<KernelChoice, Image>,
    debian: Option<Debian>,
}

/// Everything that boots. Gone when dropped.
pub(super) struct World {
    stratos: BTreeMap<KernelChoice, Prepared>,
    debian: Option<PreparedDebian>,
}

/// Debian's disk after a first boot, and a folder for copies of it.
struct PreparedDebian {
    image: Debian,
    folder: TempDir,
}

impl Images {
    /// Finds StratOS's images, and builds Debian's unless the cache has it.
    ///
    /// # Errors
    /// When one is missing, cannot be built, or has another kernel than the one it is to be compared with.
    pub(super) fn find(subjects: &[Subject], interrupt: &Interrupt) -> Result<Self> {
        let mut stratos = BTreeMap::new();
        for kernel in subjects.iter().filter_map(|subject| subject.kernel()) {
            stratos.insert(kernel, guest::image(kernel)?);
        }
        if !subjects.contains(&Subject::DebianSystemd) {
            return Ok(Self { stratos, debian: None });
        }
        let top = stratos_tests::repository().to_owned();
        let build = BuildOptions::new(guest::cache()?, top, &guest::Notices);
        let debian = Debian::build(&build, interrupt).context("the Debian image")?;
        if let Some(image) = stratos.get(&KernelChoice::Debian) {
            let (own, other) = (&image.manifest().kernel_version, &debian.described.kernel_version);
            ensure!(
                own == other,
                "StratOS's image has kernel {own}, the Debian image {other}; `stratos image build` brings them together"
            );
        }
        Ok(Self { stratos, debian: Some(debian) })
    }

    /// One of StratOS's images.
    pub(super) fn stratos(&self, kernel: KernelChoice) -> Option<&Image> {
        self.stratos.get(&kernel)
    }

    /// The Debian image.
    pub(super) fn debian(&self) -> Option<&Debian> {
        self.debian.as_ref()
    }
}

impl World {
    /// Boots every system for the first time.
    ///
    /// # Errors
    /// When one does not boot, serve or end as it should.
    pub(super) async fn prepare(images: &Images, hardware: Hardware) -> Result<Self> {
        let package = native_example()?;
        let config = NodeConfig::default();
        let mut world = Self { stratos: BTreeMap::new(), debian: None };
        for kernel in images.stratos.keys() {
            eprintln!("preparing StratOS with the {kernel} kernel");
            let checked = async |guest: &Guest| serve(guest).await;
            let prepared = Prepared::new(*kernel, hardware, &config, std::slice::from_ref(&package), checked);
            let prepared = prepared.await.with_context(|| format!("prepare StratOS, {kernel} kernel"))?;
            world.stratos.insert(*kernel, prepared);
        }
        if let Some(debian) = &images.debian {
            eprintln!("preparing Debian");
            let debian = PreparedDebian::new(debian.clone(), hardware).await.context("prepare Debian")?;
            world.debian = Some(debian);
        }
        Ok(world)
    }

    /// Boots one of them, until it is of use.
    ///
    /// # Errors
    /// When it does not boot or serve as it should.
    pub(super) async fn boot(&self, subject: Subject, hardware: Hardware) -> Result<Booted> {
        let Some(kernel) = subject.kernel() else {
            return self.debian.as_ref().context("Debian is not prepared")?.boot(hardware).await;
        };
        let prepared = self.stratos.get(&kernel).context("StratOS is not prepared")?;
        let guest = prepared.boot(subject.loading(), hardware, &NodeConfig::default()).await?;
        let ready = guest.running.ready(BOOT_LIMIT).await?;
        serve(&guest).await.with_context(|| guest.console())?;
        let (total, cpu) = (guest.running.elapsed(), guest.running.cpu_time()?);
        let node: NodeStatus = guest.get(stratos_api::path::NODE).await?;
        let init = node.init.context("the node does not say how its PID 1 is")?;
        Ok(Booted { total, cpu, ready: Some(ready.at), init_rss_kb: Some(init.init_rss_kb) })
    }
}

/// The native example as a package.
fn native_example() -> Result<Package> {
    let program = std::fs::read(stratos_tests::package::native_example()?).context("the native example")?;
    let toml = stratos_tests::repository().join("examples/hello-native/stratos.toml");
    let toml = std::fs::read(&toml).with_context(|| format!("read {}", toml.display()))?;
    Ok(Package::new().file("stratos.toml", toml).executable("bootstrap", program))
}

/// One request to it, the first of this boot.
async fn serve(guest: &Guest) -> Result<()> {
    let answer = guest.invoke(FUNCTION, "{}").await?;
    ensure!(answer.body.starts_with(ANSWER), "answered `{}`", answer.body.escape_ascii());
    ensure!(answer.fresh, "an instance was there before the first request");
    Ok(())
}

impl PreparedDebian {
    async fn new(image: Debian, hardware: Hardware) -> Result<Self> {
        let prepared = Self { image, folder: guest::folder()? };
        let machine = prepared.machine(hardware, "prepared").kernel_option(debian::POWER_OFF);
        let running = machine.start().await?;
        let status = running.ended(BOOT_LIMIT).await?;
        ensure!(status.success(), "the machine ended with {status}; {}", running.tail());
        Ok(prepared)
    }

    async fn boot(&self, hardware: Hardware) -> Result<Booted> {
        let disk = self.folder.path().join("fresh");
        std::fs::copy(self.folder.path().join("prepared"), &disk).context("copy the prepared disk")?;
        let running = self.machine(hardware, "fresh").start().await;
        std::fs::remove_file(&disk).context("remove the copied disk's name")?;
        let running = running?;
        let report = |line: &str| Some(line.split_once(debian::REPORT)?.1.trim().to_owned());
        let state = running.wait_for("systemd told its state", 0, BOOT_LIMIT, |line| report(&line.text));
        let state = state.await?;
        let (total, cpu) = (running.elapsed(), running.cpu_time()?);
        ensure!(state == "running", "systemd says that the system is {state}; {}", running.tail());
        Ok(Booted { total, cpu, ready: None, init_rss_kb: None })
    }

    fn machine(&self, hardware: Hardware, disk: &str) -> Machine {
        let boot = Boot::Direct {
            kernel: self.image.kernel.clone(),
            initramfs: Some(self.image.initrd.clone()),
            cmdline: debian::CMDLINE.to_owned(),
        };
        let folder = self.folder.path();
        let machine = Machine::new(boot).disk(self.image.disk.clone()).keep_disk(folder.join(disk));
        hardware.of(machine, folder)
    }
}
