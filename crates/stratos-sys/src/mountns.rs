//! A mount namespace of our own.

use std::io;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Moves the calling thread, and the threads it starts from now on, into a new mount namespace whose mounts neither
/// reach the old one nor follow it. Threads that run already stay where they are.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN.
pub fn unshare_private() -> io::Result<()> {
    // SAFETY: the hazard of unshare is CLONE_FILES, by which descriptors opened on one thread would mean something
    // else on another. A mount namespace changes how paths resolve, which no memory-safe code relies on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}
