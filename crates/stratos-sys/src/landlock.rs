//! Landlock rulesets, as far as the running kernel knows them.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use stratos_setup::abi::landlock as rights;

const CREATE_RULESET_VERSION: u32 = 1;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
const SCOPE_SIGNAL: u64 = 2;

/// The kernel's `landlock_ruleset_attr`, up to ABI 6.
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// The Landlock ABI of the running kernel; 0 when it has none or has it switched off.
pub fn abi() -> u32 {
    // SAFETY: asking for the version passes no pointer; the size must be zero then.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttr>(),
            0,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}

/// The rights on files that the given ABI can control. Rights a kernel does not know must not be asked of it.
pub const fn known_rights(abi: u32) -> u64 {
    const ABI_1: u64 = rights::REFER - 1;
    match abi {
        0 => 0,
        1 => ABI_1,
        2 => ABI_1 | rights::REFER,
        3 | 4 => ABI_1 | rights::REFER | rights::TRUNCATE,
        _ => ABI_1 | rights::REFER | rights::TRUNCATE | rights::IOCTL_DEV,
    }
}

/// Makes a ruleset that handles every right on files known to `abi` and, from ABI 6, keeps abstract Unix sockets and
/// signals inside the domain. It grants nothing yet. TCP is left alone: the network namespace decides on it.
///
/// # Errors
/// `EOPNOTSUPP` or `ENOSYS` without Landlock.
pub fn ruleset(abi: u32) -> io::Result<OwnedFd> {
    let attr = RulesetAttr {
        handled_access_fs: known_rights(abi),
        handled_access_net: 0,
        scoped: SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL,
    };
    // Older kernels know a prefix of the structure only and refuse a longer one with other bits set.
    let size: usize = match abi {
        0..=3 => 8,
        4 | 5 => 16,
        _ => size_of::<RulesetAttr>(),
    };
    // SAFETY: `attr` is read only, at least `size` bytes long, and outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor (closed on exec) for us; a descriptor number fits an i32.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
