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

/// True when the kernel mounts EROFS straight from files: then it looks for a superblock in `file` (which holds
/// none) where otherwise it asks for a block device.
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
