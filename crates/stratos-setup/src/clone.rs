//! Starting a child that runs a list of operations.

use core::ffi::c_void;
use core::mem::size_of;
use core::ptr;

use crate::abi;
use crate::arch::clone3_on_stack;
use crate::op::Op;
use crate::report::{Errno, Report};
use crate::run::{exit, run};

/// Exit code of a child whose list failed; it is told apart from a program's own code by the [`Report`].
const FAILED: i32 = 127;

/// The kernel's `clone_args`, up to the cgroup field (Linux 5.7).
#[derive(Debug, Default)]
#[repr(C, align(8))]
pub struct CloneArgs {
    /// `CLONE_*` bits.
    pub flags: u64,
    /// Address of an `i32` that gets the pidfd, with `CLONE_PIDFD`.
    pub pidfd: u64,
    /// Unused here.
    pub child_tid: u64,
    /// Unused here.
    pub parent_tid: u64,
    /// Signal at the child's end.
    pub exit_signal: u64,
    /// Lowest address of the child's stack.
    pub stack: u64,
    /// Size of the child's stack, bytes.
    pub stack_size: u64,
    /// Unused here.
    pub tls: u64,
    /// Address of an array of pids for the child, innermost namespace first.
    pub set_tid: u64,
    /// Length of that array.
    pub set_tid_size: u64,
    /// Descriptor of a cgroup directory, with `CLONE_INTO_CGROUP`.
    pub cgroup: u64,
}

struct Work<'a> {
    ops: &'a [Op<'a>],
    report: &'a Report,
}

/// Starts a child that shares memory with the caller and runs `ops` on the stack that `args` names; comes back when
/// the child has executed a program or ended (`CLONE_VM | CLONE_VFORK` are added to the flags). The result is the
/// child's pid; `report` then tells whether the list failed.
///
/// # Safety
/// `args` must name a stack that is writable, at least 16 KiB, with a 16-byte aligned top, and used by nobody else;
/// its `pidfd` and `set_tid` addresses must be valid for what the flags make of them. All signals must be blocked in
/// the calling thread: a handler of the caller must not run in the child, which has the caller's memory.
pub unsafe fn clone_and_run(args: &mut CloneArgs, ops: &[Op<'_>], report: &Report) -> Result<i32, Errno> {
    args.flags |= abi::CLONE_VM | abi::CLONE_VFORK;
    args.exit_signal = abi::SIGCHLD;
    let work = Work { ops, report };
    // SAFETY: the stack is the caller's promise. `work` and what it refers to outlive the child's use of them: the
    // kernel holds this thread (CLONE_VFORK) until the child has left this memory by exec or exit. `child` makes raw
    // system calls only, so it touches neither thread-local storage nor libc's state, which it shares with us.
    let result = unsafe {
        clone3_on_stack(
            ptr::from_ref(args).cast::<c_void>(),
            size_of::<CloneArgs>(),
            child,
            ptr::from_ref(&work).cast::<c_void>(),
        )
    };
    if result < 0 { Err(Errno(-result as i32)) } else { Ok(result as i32) }
}

/// # Safety
/// `data` points to a `Work` that lives until this process executes or ends.
unsafe extern "C" fn child(data: *const c_void) -> ! {
    // SAFETY: the caller's promise.
    let work = unsafe { &*data.cast::<Work<'_>>() };
    // SAFETY: this process was made a moment ago for nothing but this list.
    match unsafe { run(work.ops) } {
        Ok(()) => exit(0),
        Err(failure) => {
            work.report.set(failure);
            exit(FAILED)
        }
    }
}
