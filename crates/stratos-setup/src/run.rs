//! The interpreter proper: one system call (rarely a few) per operation.

use core::ffi::{CStr, c_void};
use core::ptr;

use crate::arch::{nr, syscall};
use crate::op::{BpfInstruction, Op};
use crate::report::{Errno, Failure};

const EEXIST: i32 = 17;
const AT_FDCWD: usize = -100_isize as usize;
const O_PATH_CLOEXEC: usize = 0o10_000_000 | 0o2_000_000;
const MOVE_MOUNT_F_EMPTY_PATH: usize = 4;
const LANDLOCK_RULE_PATH_BENEATH: usize = 1;
const PR_SET_KEEPCAPS: usize = 8;
const PR_CAPBSET_DROP: usize = 24;
const PR_SET_NO_NEW_PRIVS: usize = 38;
const PR_CAP_AMBIENT: usize = 47;
const PR_CAP_AMBIENT_CLEAR_ALL: usize = 4;
const SECCOMP_SET_MODE_FILTER: usize = 1;
const SIG_SETMASK: usize = 2;
/// Bytes of the kernel's signal set.
const SIGSET_BYTES: usize = 8;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Rlimit64 {
    soft: u64,
    hard: u64,
}

/// The kernel declares this one packed.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

#[repr(C)]
struct SockFprog {
    len: u16,
    filter: *const BpfInstruction,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Runs the operations in order and stops at the first that fails. Comes back with `Ok` only when the list holds no
/// [`Op::Exec`].
///
/// # Safety
/// The calling process must be one that may be reshaped: a fresh child, or a restorer. The operations change its
/// namespaces, descriptors and credentials behind the back of any library in it.
pub unsafe fn run(ops: &[Op<'_>]) -> Result<(), Failure> {
    for (index, op) in ops.iter().enumerate() {
        // SAFETY: the caller gave this process over to the list.
        if let Err(errno) = unsafe { step(op) } {
            return Err(Failure { index: index as u32, errno });
        }
    }
    Ok(())
}

/// Ends the calling process at once.
pub(crate) fn exit(code: i32) -> ! {
    loop {
        // SAFETY: exit_group takes no pointers and does not return; the loop only satisfies the type.
        unsafe { syscall(nr::EXIT_GROUP, [code as usize, 0, 0, 0, 0, 0]) };
    }
}

fn address(text: &CStr) -> usize {
    text.as_ptr() as usize
}

/// # Safety
/// As for [`run`].
unsafe fn step(op: &Op<'_>) -> Result<(), Errno> {
    let (number, args) = match *op {
        Op::SetNs { fd, kind } => (nr::SETNS, [fd as usize, kind as usize, 0, 0, 0, 0]),
        Op::Unshare(kinds) => (nr::UNSHARE, [kinds as usize, 0, 0, 0, 0, 0]),
        Op::SetHostname(name) => (nr::SETHOSTNAME, [name.as_ptr() as usize, name.len(), 0, 0, 0, 0]),
        Op::Mount { source, target, kind, flags, data } => {
            (nr::MOUNT, [address(source), address(target), address(kind), flags as usize, address(data), 0])
        }
        Op::Bind { source, target, recursive } => {
            let flags = crate::abi::MS_BIND | if recursive { crate::abi::MS_REC } else { 0 };
            (nr::MOUNT, [address(source), address(target), 0, flags as usize, 0, 0])
        }
        Op::Reflag { target, flags } => {
            let flags = crate::abi::MS_BIND | crate::abi::MS_REMOUNT | flags;
            (nr::MOUNT, [0, address(target), 0, flags as usize, 0, 0])
        }
        Op::MoveMount { fd, target } => (
            nr::MOVE_MOUNT,
            [fd as usize, address(c""), AT_FDCWD, address(target), MOVE_MOUNT_F_EMPTY_PATH, 0],
        ),
        Op::PivotRoot { new, old } => (nr::PIVOT_ROOT, [address(new), address(old), 0, 0, 0, 0]),
        Op::Unmount { target, flags } => (nr::UMOUNT2, [address(target), flags as usize, 0, 0, 0, 0]),
        Op::Mkdir { path, mode } => {
            // SAFETY: the path is a C string that outlives the call.
            return match unsafe { call(nr::MKDIRAT, [AT_FDCWD, address(path), mode as usize, 0, 0, 0]) } {
                Ok(_) | Err(Errno(EEXIST)) => Ok(()),
                Err(errno) => Err(errno),
            };
        }
        Op::Chdir(path) => (nr::CHDIR, [address(path), 0, 0, 0, 0, 0]),
        Op::Umask(mask) => (nr::UMASK, [mask as usize, 0, 0, 0, 0, 0]),
        Op::NewSession => (nr::SETSID, [0; 6]),
        Op::Dup { from, to } => (nr::DUP3, [from as usize, to as usize, 0, 0, 0, 0]),
        Op::CloseFrom(first) => (nr::CLOSE_RANGE, [first as usize, u32::MAX as usize, 0, 0, 0, 0]),
        Op::Limit { resource, value } => return limit(resource, value),
        Op::LandlockAllow { ruleset, path, access } => return landlock_allow(ruleset, path, access),
        Op::LandlockRestrict { ruleset } => (nr::LANDLOCK_RESTRICT_SELF, [ruleset as usize, 0, 0, 0, 0, 0]),
        Op::NoNewPrivs => (nr::PRCTL, [PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0]),
        Op::KeepCaps => (nr::PRCTL, [PR_SET_KEEPCAPS, 1, 0, 0, 0, 0]),
        Op::ClearAmbient => (nr::PRCTL, [PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0]),
        Op::DropBounding { last } => return drop_bounding(last),
        Op::SetCaps(bits) => return set_caps(bits),
        Op::DropGroups => (nr::SETGROUPS, [0; 6]),
        Op::SetGid(gid) => (nr::SETRESGID, [gid as usize, gid as usize, gid as usize, 0, 0, 0]),
        Op::SetUid(uid) => (nr::SETRESUID, [uid as usize, uid as usize, uid as usize, 0, 0, 0]),
        Op::Seccomp(filter) => return seccomp(filter),
        Op::UnblockSignals => {
            let none: u64 = 0;
            let set = ptr::from_ref(&none) as usize;
            // SAFETY: the set is read only, and lives over the call.
            return unsafe { call(nr::RT_SIGPROCMASK, [SIG_SETMASK, set, 0, SIGSET_BYTES, 0, 0]) }.map(drop);
        }
        Op::Exec { path, argv, envp } => {
            (nr::EXECVE, [address(path), argv.as_ptr() as usize, envp.as_ptr() as usize, 0, 0, 0])
        }
    };
    // SAFETY: every pointer above comes from a reference in the operation, valid for reading over the call (C strings
    // end with zero, `ArgList` with null); none of these calls writes to memory of this process.
    unsafe { call(number, args) }.map(drop)
}

/// # Safety
/// As for [`syscall`].
unsafe fn call(number: usize, args: [usize; 6]) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    let result = unsafe { syscall(number, args) };
    if (-4095..0).contains(&result) { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}

fn limit(resource: u32, value: u64) -> Result<(), Errno> {
    let limits = Rlimit64 { soft: value, hard: value };
    let new = ptr::from_ref(&limits) as usize;
    // SAFETY: `new` is read only and lives over the call; a null old limit asks for nothing back.
    unsafe { call(nr::PRLIMIT64, [0, resource as usize, new, 0, 0, 0]) }.map(drop)
}

fn landlock_allow(ruleset: i32, path: &CStr, access: u64) -> Result<(), Errno> {
    // SAFETY: the path is a C string that outlives the call.
    let fd = unsafe { call(nr::OPENAT, [AT_FDCWD, address(path), O_PATH_CLOEXEC, 0, 0, 0]) }?;
    let rule = PathBeneath { allowed_access: access, parent_fd: fd as i32 };
    let rule_address = ptr::from_ref(&rule) as usize;
    // SAFETY: the rule is read only, has the packed layout of this rule type, and lives over the call.
    let added = unsafe {
        call(nr::LANDLOCK_ADD_RULE, [ruleset as usize, LANDLOCK_RULE_PATH_BENEATH, rule_address, 0, 0, 0])
    };
    // SAFETY: the descriptor was opened above and is known to nobody else.
    unsafe { call(nr::CLOSE, [fd, 0, 0, 0, 0, 0]) }?;
    added.map(drop)
}

fn drop_bounding(last: u32) -> Result<(), Errno> {
    for capability in 0..=last {
        // SAFETY: no pointers.
        unsafe { call(nr::PRCTL, [PR_CAPBSET_DROP, capability as usize, 0, 0, 0, 0]) }?;
    }
    Ok(())
}

fn set_caps(bits: u64) -> Result<(), Errno> {
    let header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let (low, high) = (bits as u32, (bits >> 32) as u32);
    let data = [
        CapData { effective: low, permitted: low, inheritable: 0 },
        CapData { effective: high, permitted: high, inheritable: 0 },
    ];
    let args = [ptr::from_ref(&header) as usize, data.as_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: version 3 reads one header and two data words; both live over the call. (The kernel writes to the
    // header only when it does not know the version, which every kernel since 2.6.26 does.)
    unsafe { call(nr::CAPSET, args) }.map(drop)
}

fn seccomp(filter: &[BpfInstruction]) -> Result<(), Errno> {
    const EINVAL: i32 = 22;
    let len = u16::try_from(filter.len()).map_err(|_| Errno(EINVAL))?;
    let program = SockFprog { len, filter: filter.as_ptr() };
    let program = ptr::from_ref(&program).cast::<c_void>() as usize;
    // SAFETY: the program and its `len` instructions are read only and live over the call.
    unsafe { call(nr::SECCOMP, [SECCOMP_SET_MODE_FILTER, 0, program, 0, 0, 0]) }.map(drop)
}
