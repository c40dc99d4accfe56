//! The machine's disks and their partitions.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::InitError;
use crate::files;
use crate::gpt::{self, GptError, Guid, Partition, Table};
use crate::{patience, state};

/// Most disks that are looked at.
const MOST_DISKS: usize = 256;
const SYS_BLOCK: &str = "/sys/class/block";
/// How long a disk may take for its partition table.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// A disk with a partition table.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Its name, such as `vda`.
    pub name: String,
    /// Its length in blocks of 512 bytes.
    pub blocks: u64,
    /// Its partitions.
    pub table: Table,
}

impl Disk {
    /// Its device node.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// The device of one of its partitions, `None` when the kernel has none.
    pub fn device(&self, partition: &Partition) -> Option<Device> {
        let plain = format!("{}{}", self.name, partition.number);
        let parted = format!("{}p{}", self.name, partition.number);
        [plain, parted].into_iter().find_map(|name| {
            let folder = Path::new(SYS_BLOCK).join(&name);
            let number = files::read_value(folder.join("partition")).ok()?;
            (number == partition.number.to_string()).then(|| Device::named(&name)).flatten()
        })
    }
}

/// A block device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name, such as `vda2`.
    pub name: String,
    /// Its numbers, `MAJOR:MINOR`.
    pub numbers: String,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Device {
    /// The device with this name, when the kernel has it.
    pub fn named(name: &str) -> Option<Self> {
        let folder = Path::new(SYS_BLOCK).join(name);
        let numbers = files::read_value(folder.join("dev")).ok()?;
        let sectors: u64 = files::read_value(folder.join("size")).ok()?.parse().ok()?;
        Some(Self { name: name.to_owned(), numbers, bytes: sectors.checked_mul(512)? })
    }

    /// Its device node.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// Reads `length` bytes from byte `at`.
    ///
    /// # Errors
    /// When the disk, or dm-verity, refuses them, or they lie behind its end.
    pub fn read(&self, at: u64, length: usize) -> Result<Vec<u8>, InitError> {
        read_at(&self.path(), at, length).map_err(|source| InitError::file("read", self.path(), source))
    }
}

fn read_at(path: &Path, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    File::open(path)?.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

/// Names of whole disks and other devices without partitions of their own, in the order of their names.
///
/// # Errors
/// When /sys is not mounted.
pub fn whole() -> Result<Vec<String>, InitError> {
    let names = files::names(SYS_BLOCK, MOST_DISKS)?;
    let other = |name: &str| ["loop", "ram", "zram", "dm-", "md"].iter().any(|kind| name.starts_with(kind));
    let folder = |name: &str| Path::new(SYS_BLOCK).join(name);
    Ok(names
        .into_iter()
        .filter(|name| !other(name) && !folder(name).join("partition").exists())
        .filter(|name| files::read_value(folder(name).join("size")).is_ok_and(|size| size != "0"))
        .collect())
}

/// The disks with a partition table. One of StratOS's whose first table is damaged is repaired from its second.
///
/// # Errors
/// When /sys is not mounted. A disk that cannot be read has no partitions; `notice` is told why.
pub fn with_tables(notice: &mut dyn FnMut(String)) -> Result<Vec<Disk>, InitError> {
    let mut disks = Vec::new();
    for name in whole()? {
        if hung().contains(&name) {
            continue;
        }
        let disk = name.clone();
        match patience::within(READ_DEADLINE, "disk", move || read_table(&disk)) {
            Some(Ok(Some(disk))) => disks.push(disk),
            Some(Ok(None)) => {}
            Some(Err(error)) => notice(error.chain()),
            None => {
                notice(InitError::Late { what: format!("disk {name}"), after: READ_DEADLINE }.chain());
                hung().insert(name);
            }
        }
    }
    Ok(disks)
}

/// Disks that did not answer: no other disk waits for them twice.
fn hung() -> MutexGuard<'static, BTreeSet<String>> {
    static HUNG: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    HUNG.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_table(name: &str) -> Result<Option<Disk>, InitError> {
    let Some(device) = Device::named(name) else { return Ok(None) };
    let blocks = device.bytes / gpt::BLOCK;
    if device.bytes < (gpt::HEAD_BYTES + gpt::TAIL_BYTES) as u64 {
        return Ok(None);
    }
    let disk = |table| Some(Disk { name: name.to_owned(), blocks, table });
    let head = device.read(0, gpt::HEAD_BYTES)?;
    match Table::parse(&head, blocks) {
        Ok(table) => Ok(disk(table)),
        Err(damage) => {
            let tail = device.read(device.bytes - gpt::TAIL_BYTES as u64, gpt::TAIL_BYTES)?;
            match (Table::parse_backup(&tail, blocks), damage) {
                (Ok(table), _) if is_ours(&head, &table) => {
                    repair(&device, &table)?;
                    Ok(disk(table))
                }
                (_, GptError::None) => Ok(None),
                (_, damage) => Err(InitError::invalid(format!("disk {name}"), damage.to_string())),
            }
        }
    }
}

/// Whether a disk whose first table is damaged is still one of StratOS's: its first block says that there is a table,
/// and the second table has our state. On any other disk, the second table may be all that is left of an earlier use.
fn is_ours(head: &[u8], backup: &Table) -> bool {
    gpt::is_protective(head) && backup.partitions.iter().any(|partition| partition.label == state::LABEL)
}

/// Writes the first table again and has the kernel read it.
fn repair(device: &Device, table: &Table) -> Result<(), InitError> {
    let (at, bytes) = table.as_first();
    let write = || {
        let disk = File::options().read(true).write(true).open(device.path())?;
        disk.write_all_at(&bytes, at)?;
        disk.sync_all()?;
        stratos_sys::disk::read_partitions_again(&disk)
    };
    write()
        .map_err(|source| InitError::system(format!("repair the partition table of {}", device.name), source))
}

/// Finds a partition by its id.
pub fn find<'a>(disks: &'a [Disk], id: &Guid) -> Option<(&'a Disk, &'a Partition)> {
    disks.iter().find_map(|disk| Some((disk, disk.table.by_id(id)?)))
}
