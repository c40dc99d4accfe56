//! Machines that were saved when they were ready, from which others begin.
//!
//! A snapshot is a disk over the image's with the memory in it, and the node's identity. A machine that begins with one
//! has to be like the one that was saved: image, QEMU, devices, CPUs, memory. The folder's name holds the digest of that.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use stratos_types::NodeConfig;

use crate::accel::Accelerator;
use crate::error::{VmError, at};
use crate::identity::{Identity, folder_for_owner};
use crate::image::Image;
use crate::machine::Machine;
use crate::qemu::{Qemu, backing};
use crate::running::Running;

/// Name of what is saved in the disk.
const NAME: &str = "ready";
/// How long QEMU may take to end when it was told to.
const END_LIMIT: Duration = Duration::from_secs(60);
/// How folders begin that are no snapshots yet, or none any more.
const UNFINISHED: &str = "new-";
/// Between two looks whether another process has made its snapshot.
const LOCK_AGAIN: Duration = Duration::from_millis(200);

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
        let _alone = self.alone(parent).await?;
        let new = folder_for_owner(parent, UNFINISHED)?;
        let identity = Identity::create(new.path())?;
        let machine = adjust(self.machine()?).identity(identity).keep_disk(new.path().join("disk"));
        let running = machine.start().await?;
        watch(&running);
        running.ready(limit).await?;
        running.answers(limit).await?;
        running.save(NAME, END_LIMIT).await?;
        // The old one is whole until the new one is there, and what is left of it is swept away the next time.
        let old = parent.join(format!("{UNFINISHED}replaced"));
        if self.folder.exists() {
            std::fs::rename(&self.folder, &old).map_err(at("rename", &self.folder))?;
        }
        std::fs::rename(new.path(), &self.folder).map_err(at("create", &self.folder))?;
        drop(new.keep());
        remove_if_there(&old)
    }

    /// Waits until nobody else makes a snapshot in `parent`, and removes what is of no use: what others began and did
    /// not end, and snapshots of images that are gone.
    async fn alone(&self, parent: &Path) -> Result<File, VmError> {
        let path = parent.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(at("open", &path))?;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_AGAIN).await,
                Err(TryLockError::Error(source)) => return Err(at("lock", &path)(source)),
            }
        }
        for entry in std::fs::read_dir(parent).map_err(at("list", parent))? {
            let folder = entry.map_err(at("list", parent))?.path();
            let unfinished = |name: &OsStr| name.to_string_lossy().starts_with(UNFINISHED);
            let disk = folder.join("disk");
            let of_no_image = || disk.is_file() && backing(&disk).is_ok_and(|base| !base.is_file());
            if folder.file_name().is_some_and(unfinished) || of_no_image() {
                remove_if_there(&folder)?;
            }
        }
        Ok(file)
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

fn remove_if_there(folder: &Path) -> Result<(), VmError> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(at("remove", folder)(e)),
        _ => Ok(()),
    }
}
