//! Machines that were saved when they were ready, from which others begin.
//!
//! A snapshot is a disk over the image's with the memory in it, and the node's identity. A machine that begins with one
//! has to be like the one that was saved: image, QEMU, devices, CPUs, memory. The folder's name holds the digest of that.

use std::path::{Path, PathBuf};
use std::time::Duration;

use stratos_types::NodeConfig;

use crate::accel::Accelerator;
use crate::error::{VmError, at};
use crate::identity::Identity;
use crate::image::Image;
use crate::machine::Machine;
use crate::qemu::Qemu;
use crate::running::Running;

/// Name of what is saved in the disk.
const NAME: &str = "ready";
/// How long QEMU may take to end when it was told to.
const END_LIMIT: Duration = Duration::from_secs(60);

/// A saved machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    folder: PathBuf,
    cpus: u32,
    memory_mib: u64,
    accelerator: Accelerator,
    image: Image,
}

impl Snapshot {
    /// Where the snapshot of such a machine is or would be.
    ///
    /// # Errors
    /// When QEMU is not there or the image lacks a file.
    pub fn of(image: &Image, cpus: u32, memory_mib: u64, accelerator: Accelerator) -> Result<Self, VmError> {
        let snapshot = Self { folder: PathBuf::new(), cpus, memory_mib, accelerator, image: image.clone() };
        let digest = snapshot.machine()?.fingerprint(&Qemu::find()?).hex();
        let name = format!("{}-{}", image.manifest().kernel, &digest[..16]);
        Ok(Self { folder: image.cache().join("snapshots").join(name), ..snapshot })
    }

    /// The folder it is in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether it was made.
    pub fn exists(&self) -> bool {
        self.disk().is_file()
    }

    /// Bytes that its disk, with the memory, takes.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn size(&self) -> Result<u64, VmError> {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(self.disk()).map(|m| m.blocks() * 512).map_err(at("read", &self.disk()))
    }

    /// Boots a machine, waits until its API answers, and saves it in place of an earlier one. `adjust` is given the
    /// machine before it is started, `watch` when it runs.
    ///
    /// # Errors
    /// When the machine does not become ready in time, or cannot be saved.
    pub async fn make(
        &self,
        limit: Duration,
        adjust: impl FnOnce(Machine) -> Machine,
        watch: impl FnOnce(&Running),
    ) -> Result<(), VmError> {
        let parent = self.folder.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(at("create", parent))?;
        let new = tempfile::Builder::new().prefix("new-").tempdir_in(parent);
        let new = new.map_err(at("create a folder in", parent))?;
        let identity = Identity::create(new.path())?;
        let machine = adjust(self.machine()?).identity(identity).keep_disk(new.path().join("disk"));
        let running = machine.start().await?;
        watch(&running);
        running.ready(limit).await?;
        running.answers(limit).await?;
        running.save(NAME, END_LIMIT).await?;
        match std::fs::remove_dir_all(&self.folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(at("remove", &self.folder)(e)),
            _ => {}
        }
        std::fs::rename(new.keep(), &self.folder).map_err(at("create", &self.folder))
    }

    /// Starts a machine from it; it need not be waited for longer than until its API answers. `adjust` is given the
    /// machine before it is started; it may add a console and a port.
    ///
    /// # Errors
    /// When it was not made, or QEMU does not start.
    pub async fn start(&self, adjust: impl FnOnce(Machine) -> Machine) -> Result<Running, VmError> {
        if !self.exists() {
            return Err(VmError::NoSnapshot { kernel: self.image.manifest().kernel });
        }
        let identity = Identity::open(&self.folder)?;
        let machine = adjust(self.machine()?).identity(identity).restore(self.disk(), NAME);
        let mut running = machine.start().await?;
        running.go_on().await?;
        Ok(running)
    }

    fn machine(&self) -> Result<Machine, VmError> {
        let machine = Machine::direct(&self.image)?.config(NodeConfig::default());
        Ok(machine.cpus(self.cpus).memory_mib(self.memory_mib).accelerator(self.accelerator))
    }

    fn disk(&self) -> PathBuf {
        self.folder.join("disk")
    }
}
