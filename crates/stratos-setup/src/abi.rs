//! Numbers of the kernel's interface that the operations take as arguments.
//!
//! They are spelled out here, not taken from libc, because a freestanding program uses them too.

/// Mount read-only.
pub const MS_RDONLY: u64 = 1;
/// Ignore set-user-ID bits.
pub const MS_NOSUID: u64 = 2;
/// Device nodes do not open.
pub const MS_NODEV: u64 = 4;
/// Programs do not execute.
pub const MS_NOEXEC: u64 = 8;
/// Change the flags of an existing mount.
pub const MS_REMOUNT: u64 = 32;
/// Show an existing tree at a second place.
pub const MS_BIND: u64 = 4096;
/// With `MS_BIND`: the mounts below it too.
pub const MS_REC: u64 = 16384;

/// Detach a mount now and free it when its last user is gone.
pub const MNT_DETACH: u32 = 2;

/// New mount namespace.
pub const CLONE_NEWNS: u64 = 0x0002_0000;
/// New cgroup namespace.
pub const CLONE_NEWCGROUP: u64 = 0x0200_0000;
/// New UTS (host name) namespace.
pub const CLONE_NEWUTS: u64 = 0x0400_0000;
/// New IPC namespace.
pub const CLONE_NEWIPC: u64 = 0x0800_0000;
/// New PID namespace.
pub const CLONE_NEWPID: u64 = 0x2000_0000;
/// New network namespace.
pub const CLONE_NEWNET: u64 = 0x4000_0000;
/// Parent and child share memory.
pub const CLONE_VM: u64 = 0x100;
/// The parent waits until the child executes or ends.
pub const CLONE_VFORK: u64 = 0x4000;
/// Store a pidfd of the child.
pub const CLONE_PIDFD: u64 = 0x1000;
/// Every signal that the parent handles goes back to its default in the child.
pub const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
/// The child starts in the cgroup given by a descriptor.
pub const CLONE_INTO_CGROUP: u64 = 1 << 33;
/// Signal that tells the parent of the child's end.
pub const SIGCHLD: u64 = 17;

/// Largest core dump, bytes.
pub const RLIMIT_CORE: u32 = 4;
/// Processes and threads of the user.
pub const RLIMIT_NPROC: u32 = 6;
/// One more than the highest descriptor number.
pub const RLIMIT_NOFILE: u32 = 7;

/// Landlock rights on files, named as in the kernel's documentation.
pub mod landlock {
    /// Execute a file.
    pub const EXECUTE: u64 = 1 << 0;
    /// Open a file for writing.
    pub const WRITE_FILE: u64 = 1 << 1;
    /// Open a file for reading.
    pub const READ_FILE: u64 = 1 << 2;
    /// List a directory.
    pub const READ_DIR: u64 = 1 << 3;
    /// Remove an empty directory.
    pub const REMOVE_DIR: u64 = 1 << 4;
    /// Remove a file.
    pub const REMOVE_FILE: u64 = 1 << 5;
    /// Make a character device.
    pub const MAKE_CHAR: u64 = 1 << 6;
    /// Make a directory.
    pub const MAKE_DIR: u64 = 1 << 7;
    /// Make a regular file.
    pub const MAKE_REG: u64 = 1 << 8;
    /// Make a Unix socket.
    pub const MAKE_SOCK: u64 = 1 << 9;
    /// Make a named pipe.
    pub const MAKE_FIFO: u64 = 1 << 10;
    /// Make a block device.
    pub const MAKE_BLOCK: u64 = 1 << 11;
    /// Make a symbolic link.
    pub const MAKE_SYM: u64 = 1 << 12;
    /// Link or rename across directories (ABI 2).
    pub const REFER: u64 = 1 << 13;
    /// Truncate a file (ABI 3).
    pub const TRUNCATE: u64 = 1 << 14;
    /// Control a device (ABI 5).
    pub const IOCTL_DEV: u64 = 1 << 15;
}
