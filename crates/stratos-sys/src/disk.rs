//! Disks: their sizes, and telling the kernel of partitions that changed.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

const BLKPG: libc::Ioctl = 0x1269;
const BLKRRPART: libc::Ioctl = 0x125F;
const BLKPG_RESIZE_PARTITION: i32 = 3;

/// The kernel's `blkpg_partition`.
#[repr(C)]
struct Partition {
    start: i64,
    length: i64,
    number: i32,
    device_name: [u8; 64],
    volume_name: [u8; 64],
}

/// The kernel's `blkpg_ioctl_arg`.
#[repr(C)]
struct PartitionChange {
    operation: i32,
    flags: i32,
    length: i32,
    data: *mut Partition,
}

/// Tells the kernel that partition `number` of a disk is `length` bytes long now. It may be in use.
///
/// # Errors
/// `EBUSY` when it would reach into another one, `ENXIO` when there is none, `EINVAL` when `start` is not its start.
pub fn resize_partition(disk: impl AsFd, number: i32, start: u64, length: u64) -> io::Result<()> {
    let bytes = |bytes: u64| i64::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput));
    let mut partition = Partition {
        start: bytes(start)?,
        length: bytes(length)?,
        number,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let change = PartitionChange {
        operation: BLKPG_RESIZE_PARTITION,
        flags: 0,
        length: size_of::<Partition>() as i32,
        data: &raw mut partition,
    };
    // SAFETY: the request reads one change and the partition that it points to; both outlive the call.
    let failed = unsafe { libc::ioctl(disk.as_fd().as_raw_fd(), BLKPG, &raw const change) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the kernel read a disk's partition table again.
///
/// # Errors
/// `EBUSY` while one of its partitions is in use.
pub fn read_partitions_again(disk: impl AsFd) -> io::Result<()> {
    // SAFETY: this request takes no argument.
    let failed = unsafe { libc::ioctl(disk.as_fd().as_raw_fd(), BLKRRPART) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
