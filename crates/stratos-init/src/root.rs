//! The verified root: finding it, having the kernel check every block of it, and making it `/`.

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, mount, mount_move};
use stratos_sys::dm::{DeviceMapper, Target};
use stratos_types::Digest;

use crate::boot::Node;
use crate::disk::{self, Device, Disk};
use crate::error::InitError;
use crate::gpt::{self, Guid};
use crate::modules;
use crate::mounts;
use crate::patience;
use crate::phase::Outcome;
use crate::verity::{BLOCK, SUPERBLOCK_BYTES, Superblock};

/// How long a disk may take to appear: a slow controller, or an emulated machine on a busy host.
const DISK_DEADLINE: Duration = Duration::from_secs(30);
/// How long the first verified block may take.
const READ_DEADLINE: Duration = Duration::from_secs(30);
/// Name of the verified root's device.
const NAME: &str = "root";
/// Where the new root is mounted before it is the root.
const PLACE: &str = "/sysroot";

/// Where the root was found.
#[derive(Debug, Clone)]
pub struct RootDisk {
    /// The disk.
    pub disk: Disk,
    /// Its data.
    pub data: Device,
    /// Its hashes.
    pub hashes: Device,
    /// Label of its partition, such as `root-a`.
    pub label: String,
}

/// The ids of the two partitions of a root: the halves of its root hash, read as the text of a GUID.
pub fn ids(root: &Digest) -> Option<(Guid, Guid)> {
    let hex = root.hex();
    let half = |range| u128::from_str_radix(hex.get(range)?, 16).ok().map(gpt::guid);
    Some((half(0..32)?, half(32..64)?))
}

/// Waits for the partitions of the root that the command line names.
///
/// # Errors
/// When there is no root hash, or no such partitions come.
pub fn find(node: &mut Node) -> Result<Outcome, InitError> {
    let Some(root) = &node.cmdline.root_hash else {
        return Err(InitError::missing("roothash= on the kernel's command line"));
    };
    let ids = ids(root).ok_or_else(|| InitError::missing("a root hash"))?;
    let late = InitError::Late { what: format!("a disk with the root {}", root.hex()), after: DISK_DEADLINE };
    // Each look may hang with a disk, so the deadline is on all of them together.
    let looked = patience::within(DISK_DEADLINE + READ_DEADLINE, "disk", move || {
        let mut notices = Vec::new();
        let found = patience::until(DISK_DEADLINE, || {
            notices.clear();
            look(&ids, &mut |notice| notices.push(notice))
        });
        (found, notices)
    });
    let (found, notices) = looked.unwrap_or_default();
    for notice in notices {
        node.journal.say(&notice);
    }
    let found = found.ok_or(late)?;
    let detail = format!("{} on {} and {}", found.label, found.data.name, found.hashes.name);
    node.root_disk = Some(found);
    Outcome::done(detail)
}

fn look(ids: &(Guid, Guid), notice: &mut dyn FnMut(String)) -> Option<RootDisk> {
    let disks = disk::with_tables(notice).ok()?;
    let (disk, data) = disk::find(&disks, &ids.0)?;
    let (hash_disk, hashes) = disk::find(&disks, &ids.1)?;
    Some(RootDisk {
        disk: disk.clone(),
        data: disk.device(data)?,
        hashes: hash_disk.device(hashes)?,
        label: data.label.clone(),
    })
}

/// Makes the device on which the kernel checks every block of the root, and has it check the first.
///
/// # Errors
/// When the kernel lacks dm-verity, or the root does not fit its root hash.
pub fn verify(node: &mut Node) -> Result<Outcome, InitError> {
    let (Some(found), Some(root)) = (&node.root_disk, &node.cmdline.root_hash) else {
        return Err(InitError::missing("a root"));
    };
    let superblock = superblock(&found.hashes, 0)?;
    if superblock.data_bytes() > found.data.bytes {
        return Err(InitError::invalid("the verity superblock of the root", "it is of a longer root"));
    }
    let table = superblock.table(&found.data.numbers, &found.hashes.numbers, 0, root);
    let device = make(NAME, "verity", superblock.data_bytes(), &table)?;
    check_first_block(&device)?;
    node.record.root_hash = root.hex();
    node.ability(
        "verified root",
        true,
        format!("{} on {}, checked block by block", found.label, found.data.name),
    );
    Outcome::done(format!("{} MiB", superblock.data_bytes() >> 20))
}

/// Reads the superblock at byte `at` of a device.
pub(crate) fn superblock(device: &Device, at: u64) -> Result<Superblock, InitError> {
    let bytes = device.read(at, SUPERBLOCK_BYTES)?;
    Superblock::parse(&bytes).map_err(|error| InitError::invalid(device.name.as_str(), error.to_string()))
}

/// Makes a read-only device of the device mapper, and a name for it in /dev/mapper.
pub(crate) fn make(name: &str, kind: &str, bytes: u64, parameters: &str) -> Result<Device, InitError> {
    let failed = |source: io::Error| InitError::system(format!("make the {kind} device {name}"), source);
    let mapper = DeviceMapper::open().map_err(failed)?;
    let target = Target { kind, sectors: bytes / 512, parameters };
    let minor = mapper.create(name, &format!("STRATOS-{name}"), &target).map_err(failed)?;
    let link = Path::new("/dev/mapper").join(name);
    match std::os::unix::fs::symlink(format!("../dm-{minor}"), &link) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(InitError::file("make", link, error)),
    }
    Device::named(&format!("dm-{minor}")).ok_or_else(|| InitError::missing(format!("device dm-{minor}")))
}

/// Has the kernel check the first block of a verified device, which takes one path through the whole tree.
pub(crate) fn check_first_block(device: &Device) -> Result<Vec<u8>, InitError> {
    let read = device.clone();
    match patience::within(READ_DEADLINE, "read", move || read.read(0, BLOCK as usize)) {
        Some(Ok(bytes)) => Ok(bytes),
        Some(Err(InitError::File { source, .. })) if source.raw_os_error() == Some(EIO) => {
            Err(InitError::invalid(device.name.as_str(), "its first block does not fit the root hash"))
        }
        Some(Err(error)) => Err(error),
        None => {
            Err(InitError::Late { what: format!("the first block of {}", device.name), after: READ_DEADLINE })
        }
    }
}

const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

/// Mounts the verified root and makes it `/`. The files of the initramfs go.
///
/// # Errors
/// When it cannot be mounted, or lacks the folders for what is mounted already.
pub fn switch(_: &mut Node) -> Result<Outcome, InitError> {
    crate::files::folder(PLACE)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    patience::within(READ_DEADLINE, "mount", move || mount("/dev/mapper/root", PLACE, "erofs", flags, c""))
        .ok_or_else(|| InitError::Late { what: "the mount of the root".to_owned(), after: READ_DEADLINE })?
        .map_err(|errno| InitError::system("mount the verified root", errno))?;
    mounts::move_into(PLACE)?;
    let freed = free_initramfs();
    let enter = || {
        rustix::process::chdir(PLACE)?;
        mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        rustix::process::chdir("/")
    };
    enter().map_err(|errno: rustix::io::Errno| InitError::system("enter the verified root", errno))?;
    Outcome::done(format!("{} files of the initramfs freed", freed))
}

/// Removes the files of the initramfs, whose memory nothing else would free. This program stays in memory for as long
/// as it runs.
fn free_initramfs() -> usize {
    let mut freed = 0;
    let mut folders = vec![Path::new(modules::FOLDER).to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if std::fs::remove_file(&path).is_ok() {
                freed += 1;
            }
        }
    }
    freed + usize::from(std::fs::remove_file("/init").is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partitions_of_a_root_are_named_after_its_hash() {
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(0..).for_each(|(byte, number)| *byte = number);
        let (data, hashes) = ids(&Digest::from_bytes(bytes)).unwrap();
        // 00010203-0405-0607-0809-0a0b0c0d0e0f, as the disk has it.
        assert_eq!(data, [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(hashes, [19, 18, 17, 16, 21, 20, 23, 22, 24, 25, 26, 27, 28, 29, 30, 31]);
    }
}
