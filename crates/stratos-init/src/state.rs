//! The state: the one partition that is written to. It is made as large as the disk and mounted at /var.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, mount, mount_move};

use crate::boot::Node;
use crate::disk::{self, Device, Disk};
use crate::error::InitError;
use crate::files;
use crate::gpt::{self, Partition};
use crate::patience;
use crate::phase::Outcome;

/// Label of the partition.
pub const LABEL: &str = "stratos-state";
/// Where it is mounted.
const PLACE: &str = "/var";
/// Where it is mounted first. A mount that comes too late stays there: it must not come over what stands in for it.
const FIRST_PLACE: &str = "/run/stratos-state";
/// The folder of the node's state in it.
pub const FOLDER: &str = "/var/lib/stratos";
/// How long the mount may take: the journal is replayed, on a slow disk.
const MOUNT_DEADLINE: Duration = Duration::from_secs(120);
/// How long the file system may take to grow.
const GROW_DEADLINE: Duration = Duration::from_secs(120);
/// - `errors=remount-ro`: what is damaged is not written on; the node stays up and tells.
/// - `data=ordered`: a file that was renamed into place has its content after a power cut, without every byte being
///   written twice.
const OPTIONS: &std::ffi::CStr = c"errors=remount-ro,data=ordered";
/// What stands in for a state that cannot be mounted.
const STAND_IN: &std::ffi::CStr = c"mode=0755,size=10%";
/// Folders that are made in it, with their permissions.
const FOLDERS: &[(&str, u32)] =
    &[("/var/lib", 0o755), (FOLDER, 0o700), ("/var/tmp", 0o1777), ("/var/log", 0o755)];

/// Makes the partition as large as its disk allows, mounts it and makes the file system as large.
///
/// # Errors
/// When there is none or it cannot be mounted. The node goes on with an empty state in memory then: it can be asked
/// what is wrong, and nothing that is on the disk is touched.
pub fn mount_state(node: &mut Node) -> Result<Outcome, InitError> {
    let result = mount_partition(node);
    match &result {
        Ok(Outcome::Done(detail) | Outcome::Skipped(detail)) => {
            node.ability("state", true, detail.clone());
        }
        Err(error) => {
            let detail = format!("in memory, lost with the next boot: {}", error.chain());
            node.ability("state", false, detail);
            mount("tmpfs", PLACE, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, STAND_IN)
                .map_err(|errno| InitError::system("mount a state in memory", errno))?;
        }
    }
    for (folder, mode) in FOLDERS {
        files::folder(folder)?;
        rustix::fs::chmod(*folder, rustix::fs::Mode::from_raw_mode(*mode))
            .map_err(|errno| InitError::file("set the permissions of", folder, errno))?;
    }
    result
}

fn mount_partition(node: &mut Node) -> Result<Outcome, InitError> {
    let (disk, partition) = find(node)?;
    let device = disk
        .device(&partition)
        .ok_or_else(|| InitError::missing(format!("the device of partition {}", partition.number)))?;
    let mut notes = Vec::new();
    // Not grown is no reason not to be used.
    let device = grow_partition(&disk, &partition, &device).unwrap_or_else(|error| {
        notes.push(error.chain());
        device
    });
    let path = device.path();
    files::folder(FIRST_PLACE)?;
    let mounted = patience::within(MOUNT_DEADLINE, "mount", move || {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
        mount(&path, FIRST_PLACE, "ext4", flags, OPTIONS)
    });
    match mounted {
        Some(Ok(())) => mount_move(FIRST_PLACE, PLACE)
            .map_err(|errno| InitError::system(format!("move the mount to {PLACE}"), errno))?,
        Some(Err(errno)) => return Err(InitError::system(format!("mount {}", device.name), errno)),
        None => return Err(InitError::Late { what: "the state's mount".to_owned(), after: MOUNT_DEADLINE }),
    }
    match grow_file_system(&device) {
        Ok(()) => {}
        Err(error) => notes.push(error.chain()),
    }
    notes.extend(damage(&device));
    let size = rustix::fs::statvfs(PLACE).map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize) >> 20);
    notes.insert(0, format!("{size} MiB on {}", device.name));
    Outcome::done(notes.join("; "))
}

/// The state's partition: on the root's disk, or else on another one.
fn find(node: &mut Node) -> Result<(Disk, Partition), InitError> {
    let on = |disk: &Disk| {
        let partition = disk.table.partitions.iter().find(|p| p.kind == gpt::LINUX && p.label == LABEL)?;
        Some((disk.clone(), partition.clone()))
    };
    if let Some(found) = node.root_disk.as_ref().and_then(|root| on(&root.disk)) {
        return Ok(found);
    }
    let disks = disk::with_tables(&mut |_| {})?;
    disks.iter().find_map(on).ok_or_else(|| InitError::missing(format!("a partition {LABEL}")))
}

/// Makes the partition reach to the disk's end: first on the disk, then in the kernel.
fn grow_partition(disk: &Disk, partition: &Partition, device: &Device) -> Result<Device, InitError> {
    let Some(growth) = disk.table.grow(partition.number, disk.blocks) else {
        return Ok(device.clone());
    };
    let grown = growth.partition.clone();
    let grow = || {
        let file = File::options().read(true).write(true).open(disk.path())?;
        for (at, bytes) in &growth.writes {
            file.write_all_at(bytes, *at)?;
            file.sync_all()?;
        }
        let number = i32::try_from(grown.number).map_err(|_| std::io::ErrorKind::InvalidInput)?;
        stratos_sys::disk::resize_partition(&file, number, grown.start_bytes(), grown.length_bytes())
    };
    grow().map_err(|source| InitError::system(format!("grow partition {}", device.name), source))?;
    Device::named(&device.name).ok_or_else(|| InitError::missing(device.name.as_str()))
}

/// Makes the mounted file system as large as its device.
fn grow_file_system(device: &Device) -> Result<(), InitError> {
    let failed = |source: std::io::Error| InitError::system("grow the state's file system", source);
    let folder = File::open(PLACE).map_err(failed)?;
    let stat = rustix::fs::fstatfs(&folder).map_err(|errno| failed(errno.into()))?;
    let block = u64::try_from(stat.f_bsize).unwrap_or(0).max(1024);
    let blocks = device.bytes / block;
    // What the file system needs for itself is not counted: grown already is within one part in sixteen.
    let result =
        patience::within(GROW_DEADLINE, "grow", move || rustix::fs::ext4_ioc_resize_fs(&folder, blocks));
    match result {
        Some(Ok(())) => Ok(()),
        Some(Err(errno)) => Err(failed(errno.into())),
        None => Err(InitError::Late { what: "the growth of the state".to_owned(), after: GROW_DEADLINE }),
    }
}

/// What the file system says of errors that it met, ever.
fn damage(device: &Device) -> Option<String> {
    let count = Path::new("/sys/fs/ext4").join(&device.name).join("errors_count");
    let count = files::read_value(count).ok()?;
    (count != "0").then(|| format!("its file system has met {count} errors"))
}
