//! The operations: what a child can be told to do before it executes a program.

use core::ffi::CStr;

use crate::args::ArgList;

/// One instruction of a classic BPF program, with the layout of the kernel's `sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct BpfInstruction {
    /// Operation, size and addressing mode.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// One step. Steps run in the order given; the first one that fails ends the child.
///
/// Descriptors are bare numbers on purpose: they name entries of the child's own table, a copy of the parent's taken
/// at clone, so no owner in the parent's memory stands for them.
#[derive(Clone, Copy, Debug)]
pub enum Op<'a> {
    /// Enter the namespace behind a descriptor; `kind` is its `CLONE_NEW*` bit.
    SetNs {
        /// Descriptor of the namespace.
        fd: i32,
        /// The kind of namespace it must be.
        kind: u64,
    },
    /// Leave namespaces for new ones: `CLONE_NEW*` bits.
    Unshare(u64),
    /// Set the host name of the current UTS namespace, at most 64 bytes.
    SetHostname(&'a [u8]),
    /// Mount a filesystem.
    Mount {
        /// What is mounted: a device, or a name for filesystems without one.
        source: &'a CStr,
        /// Directory that it covers.
        target: &'a CStr,
        /// Kind of filesystem.
        kind: &'a CStr,
        /// `MS_*` bits.
        flags: u64,
        /// Options of the filesystem, comma separated.
        data: &'a CStr,
    },
    /// Show a file or a tree at a second place, with the mount flags of the source.
    Bind {
        /// What is shown.
        source: &'a CStr,
        /// What it covers.
        target: &'a CStr,
        /// The mounts below the source too.
        recursive: bool,
    },
    /// Set the `MS_*` flags of the mount at a path, leaving its filesystem alone.
    Reflag {
        /// A mount point.
        target: &'a CStr,
        /// The whole new set of `MS_*` flags.
        flags: u64,
    },
    /// Attach a detached mount.
    MoveMount {
        /// Descriptor of the mount.
        fd: i32,
        /// Directory that it covers.
        target: &'a CStr,
    },
    /// Swap the root directory.
    PivotRoot {
        /// The new root, a mount point.
        new: &'a CStr,
        /// Where the old root goes; the same as `new` stacks it on top, for the next `Unmount`.
        old: &'a CStr,
    },
    /// Unmount; `flags` are `MNT_*` bits.
    Unmount {
        /// A mount point.
        target: &'a CStr,
        /// `MNT_*` bits.
        flags: u32,
    },
    /// Make a directory unless it exists.
    Mkdir {
        /// The directory; its parent must exist.
        path: &'a CStr,
        /// Permission bits before the umask.
        mode: u32,
    },
    /// Change the working directory.
    Chdir(&'a CStr),
    /// Set the mask of permission bits.
    Umask(u32),
    /// Start a session, away from the parent's terminal and its signals.
    NewSession,
    /// Make descriptor `to` name what `from` names; it stays open over exec. The two must differ.
    Dup {
        /// Existing descriptor.
        from: i32,
        /// Number it gets; closed first when open.
        to: i32,
    },
    /// Close every descriptor from this number up.
    CloseFrom(i32),
    /// Set a resource limit, soft and hard.
    Limit {
        /// `RLIMIT_*` number.
        resource: u32,
        /// Both limits, in the unit of the resource.
        value: u64,
    },
    /// Add to a Landlock ruleset the rights `access` on everything at and below `path`.
    LandlockAllow {
        /// Descriptor of the ruleset.
        ruleset: i32,
        /// Top of the tree.
        path: &'a CStr,
        /// `abi::landlock` bits, each one handled by the ruleset.
        access: u64,
    },
    /// Enforce a Landlock ruleset on this process for good.
    LandlockRestrict {
        /// Descriptor of the ruleset.
        ruleset: i32,
    },
    /// Exec never grants privileges again.
    NoNewPrivs,
    /// Keep permitted capabilities over the next change of user ID.
    KeepCaps,
    /// Empty the ambient capability set.
    ClearAmbient,
    /// Drop the capabilities `0..=last` from the bounding set.
    DropBounding {
        /// Highest capability number that the kernel knows.
        last: u32,
    },
    /// Set the effective and permitted capability sets to these bits and the inheritable set to none.
    SetCaps(u64),
    /// Leave all supplementary groups.
    DropGroups,
    /// Set real, effective and saved group ID.
    SetGid(u32),
    /// Set real, effective and saved user ID.
    SetUid(u32),
    /// Install a seccomp filter on this process for good.
    Seccomp(&'a [BpfInstruction]),
    /// Let every signal through.
    UnblockSignals,
    /// Become another program. The last step.
    Exec {
        /// The program.
        path: &'a CStr,
        /// Its arguments, the name first.
        argv: ArgList<'a>,
        /// Its environment.
        envp: ArgList<'a>,
    },
}

impl<'a> Op<'a> {
    /// What the step does, in a few words for an error message.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SetNs { .. } => "enter namespace",
            Self::Unshare(_) => "make namespace",
            Self::SetHostname(_) => "set host name",
            Self::Mount { .. } => "mount",
            Self::Bind { .. } => "bind mount",
            Self::Reflag { .. } => "change mount flags",
            Self::MoveMount { .. } => "attach mount",
            Self::PivotRoot { .. } => "pivot root",
            Self::Unmount { .. } => "unmount",
            Self::Mkdir { .. } => "make directory",
            Self::Chdir(_) => "change directory",
            Self::Umask(_) => "set umask",
            Self::NewSession => "start session",
            Self::Dup { .. } => "place descriptor",
            Self::CloseFrom(_) => "close descriptors",
            Self::Limit { .. } => "set resource limit",
            Self::LandlockAllow { .. } => "add landlock rule",
            Self::LandlockRestrict { .. } => "enforce landlock",
            Self::NoNewPrivs => "set no_new_privs",
            Self::KeepCaps => "keep capabilities",
            Self::ClearAmbient => "clear ambient capabilities",
            Self::DropBounding { .. } => "drop bounding capabilities",
            Self::SetCaps(_) => "set capabilities",
            Self::DropGroups => "drop groups",
            Self::SetGid(_) => "set group id",
            Self::SetUid(_) => "set user id",
            Self::Seccomp(_) => "install seccomp filter",
            Self::UnblockSignals => "unblock signals",
            Self::Exec { .. } => "execute",
        }
    }

    /// The path that the step is about, if it is about one.
    pub const fn path(&self) -> Option<&'a CStr> {
        match self {
            Self::Mount { target, .. }
            | Self::Bind { target, .. }
            | Self::Reflag { target, .. }
            | Self::MoveMount { target, .. }
            | Self::Unmount { target, .. } => Some(target),
            Self::PivotRoot { new, .. } => Some(new),
            Self::Mkdir { path, .. } | Self::LandlockAllow { path, .. } | Self::Exec { path, .. } => {
                Some(path)
            }
            Self::Chdir(path) => Some(path),
            _ => None,
        }
    }
}
