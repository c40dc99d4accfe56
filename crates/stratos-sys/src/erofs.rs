//! Mounting EROFS images: straight from the file where the kernel can (Linux 6.12), else through a loop device.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use crate::loopdev;

/// How an image is backed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// The filesystem reads the file itself.
    File,
    /// A loop device stands between.
    Loop,
}

/// Why an image was not mounted.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// The image cannot be opened.
    #[error("cannot open the image")]
    Open {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has no EROFS.
    #[error("the kernel has no erofs filesystem")]
    Unsupported {
        /// What the kernel said.
        source: io::Error,
    },
    /// No loop device could be had.
    #[error("cannot make a loop device")]
    Loop {
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is no EROFS image, or one of a kind this kernel does not read.
    #[error("the kernel refuses the image")]
    Image {
        /// What the kernel said.
        source: io::Error,
    },
    /// The mount could not be attached to its directory.
    #[error("cannot attach the mount")]
    Attach {
        /// What the kernel said.
        source: io::Error,
    },
}

/// Mounts the image at `target`: read-only, no set-user-ID programs, no device nodes. Visible in the mount namespace
/// of the calling thread.
///
/// # Errors
/// See [`ErofsError`]; in each case nothing stays mounted.
pub fn mount(image: &Path, target: &Path) -> Result<Backing, ErofsError> {
    let file = File::open(image).map_err(|source| ErofsError::Open { source })?;
    // The file was opened once; its descriptor names it from here on, so that what is mounted is what was opened.
    let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    let (mount, backing) = match superblock(&by_descriptor) {
        Ok(mount) => (mount, Backing::File),
        Err(ErofsError::Image { source }) if source.raw_os_error() == Some(libc::ENOTBLK) => {
            let device = loopdev::attach(file.as_fd()).map_err(|source| ErofsError::Loop { source })?;
            let device_path = device.path.to_string_lossy().into_owned();
            (superblock(&device_path)?, Backing::Loop)
        }
        Err(error) => return Err(error),
    };
    move_mount(&mount, "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| ErofsError::Attach { source: errno.into() })?;
    Ok(backing)
}

/// The smallest image there is: one block with a superblock and an empty root, as the kernel documents the format
/// (Documentation/filesystems/erofs.rst, fs/erofs/erofs_fs.h).
pub fn empty_image() -> [u8; 4096] {
    const SUPERBLOCK: usize = 1024;
    const ROOT: usize = SUPERBLOCK + 128;
    let mut image = [0; 4096];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(SUPERBLOCK, &0xE0F5_E1E2u32.to_le_bytes());
    // Blocks of 2^12 bytes, of which there is one.
    put(SUPERBLOCK + 12, &[12]);
    put(SUPERBLOCK + 36, &1u32.to_le_bytes());
    // The root's number counts slots of 32 bytes; it is the only file.
    put(SUPERBLOCK + 14, &((ROOT / 32) as u16).to_le_bytes());
    put(SUPERBLOCK + 16, &1u64.to_le_bytes());
    // A compact inode: a folder of no bytes, with mode and links.
    put(ROOT + 4, &0o040_755u16.to_le_bytes());
    put(ROOT + 6, &2u16.to_le_bytes());
    image
}

/// True when the kernel mounts EROFS straight from files; else it asks for a block device. `file` holds an image, such
/// as [`empty_image`]: of anything else the kernel would complain in its log.
pub fn reads_files(file: impl AsFd) -> bool {
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    match superblock(&path) {
        Err(ErofsError::Image { source }) => source.raw_os_error() != Some(libc::ENOTBLK),
        Err(_) => false,
        Ok(_) => true,
    }
}

fn superblock(source: &str) -> Result<OwnedFd, ErofsError> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| ErofsError::Unsupported { source: errno.into() })?;
    let image = |errno: rustix::io::Errno| ErofsError::Image { source: errno.into() };
    fsconfig_set_string(&context, "source", source).map_err(image)?;
    fsconfig_set_flag(&context, "ro").map_err(image)?;
    fsconfig_create(&context).map_err(image)?;
    let flags = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(image)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Mounting takes root, and a kernel that reads files.
    #[test]
    fn the_empty_image_is_one() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&empty_image()).unwrap();
        match superblock(&format!("/proc/self/fd/{}", file.as_raw_fd())) {
            Ok(_) => assert!(reads_files(&file)),
            Err(ErofsError::Unsupported { source }) => eprintln!("not run here: {source}"),
            Err(ErofsError::Image { source }) => {
                let other = [libc::ENOTBLK, libc::EPERM].map(Some);
                assert!(other.contains(&source.raw_os_error()), "{source}");
            }
            Err(error) => panic!("{error}"),
        }
    }
}
