//! Starting a process whose set-up is a list of operations.
//!
//! The child shares the caller's memory until it executes (`CLONE_VM | CLONE_VFORK`): copying the page tables of an
//! agent would cost more than everything else here. What follows from sharing:
//! - The child runs on a stack of its own and makes raw system calls only, so the caller's thread-local storage
//!   (errno too) and every lock stay as they are.
//! - Credentials belong to the task, not to the memory: a raw setresuid in the child changes the child only. But the
//!   kernel then marks the *memory* as not dumpable, which is also ours until the exec. [`crate::process::harden`]
//!   sets that mark at start, so that it does not depend on whether an instance was started.
//! - A signal handler of the caller must never run in the child. All signals are blocked around the clone, and
//!   `CLONE_CLEAR_SIGHAND` resets the handlers of the child, so they are gone when its list unblocks signals.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};

use stratos_setup::{CloneArgs, Failure, Op, Report, abi, clone_and_run};

/// Bytes of the child's stack. The interpreter needs well under 4 KiB of it.
const STACK_BYTES: usize = 64 * 1024;
/// Bytes of the guard page below it.
const GUARD_BYTES: usize = 4096;

/// A started process.
#[derive(Debug)]
pub struct Child {
    /// Its pid as the caller sees it. Valid until the process is waited for.
    pub pid: i32,
    /// A descriptor of the process, closed on exec.
    pub pidfd: OwnedFd,
}

/// Why no process was started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No memory for the child's stack.
    #[error("cannot map a stack for the new process")]
    Stack {
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused the clone: its limits, or a namespace that it lacks.
    #[error("cannot clone a process")]
    Clone {
        /// What the kernel said.
        source: io::Error,
    },
    /// A step of the list failed in the child, which is gone again.
    #[error("step {index} of the set-up failed")]
    Step {
        /// Index of the operation in the list.
        index: usize,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Starts a process in the new namespaces `namespaces` (`CLONE_NEW*` bits) and, if given, in a cgroup, and runs
/// `ops` in it. Blocks the calling thread until the process has executed a program, or fails.
///
/// # Errors
/// See [`SpawnError`]; in each case no process is left.
pub fn spawn(namespaces: u64, cgroup: Option<BorrowedFd<'_>>, ops: &[Op<'_>]) -> Result<Child, SpawnError> {
    let stack = Stack::map().map_err(|source| SpawnError::Stack { source })?;
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: namespaces | abi::CLONE_PIDFD | abi::CLONE_CLEAR_SIGHAND,
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        stack: stack.lowest_address(),
        stack_size: STACK_BYTES as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= abi::CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    let report = Report::new();
    let cloned = {
        let _blocked = SignalsBlocked::new().map_err(|source| SpawnError::Clone { source })?;
        // SAFETY: the stack was mapped above for this call alone and is unmapped after it; its top is page aligned.
        // `pidfd` is an i32 that outlives the call, and signals are blocked for its length.
        unsafe { clone_and_run(&mut args, ops, &report) }
    };
    let pid = cloned.map_err(|errno| SpawnError::Clone { source: io::Error::from_raw_os_error(errno.0) })?;
    // SAFETY: with CLONE_PIDFD a successful clone stored a new descriptor here, which nobody else knows.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    match report.get() {
        None => Ok(Child { pid, pidfd }),
        Some(Failure { index, errno }) => {
            // The child has ended already; this only takes its exit status away. That can fail only when somebody
            // else has waited for it, and then there is nothing left to do.
            if let Err(error) = crate::process::wait(&pidfd) {
                debug_assert_eq!(error.raw_os_error(), Some(libc::ECHILD));
            }
            Err(SpawnError::Step { index: index as usize, source: io::Error::from_raw_os_error(errno.0) })
        }
    }
}

/// Memory for the child's stack, with a guard page that turns an overflow into a crash of the child alone... which
/// shares our memory but not our threads.
struct Stack(NonNull<libc::c_void>);

impl Stack {
    fn map() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), GUARD_BYTES + STACK_BYTES, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Self(NonNull::new(base).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?);
        // SAFETY: the range lies inside the mapping made above, which nobody uses yet.
        let opened = unsafe {
            libc::mprotect(base.byte_add(GUARD_BYTES), STACK_BYTES, libc::PROT_READ | libc::PROT_WRITE)
        };
        if opened == 0 { Ok(stack) } else { Err(io::Error::last_os_error()) }
    }

    fn lowest_address(&self) -> u64 {
        self.0.as_ptr() as u64 + GUARD_BYTES as u64
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the child that ran on it has left this memory by exec or exit (CLONE_VFORK
        // held us until then).
        let unmapped = unsafe { libc::munmap(self.0.as_ptr(), GUARD_BYTES + STACK_BYTES) };
        debug_assert_eq!(unmapped, 0, "unmapping a whole mapping of our own cannot fail");
    }
}

/// All signals blocked in the calling thread, until dropped.
struct SignalsBlocked(libc::sigset_t);

impl SignalsBlocked {
    fn new() -> io::Result<Self> {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigfillset initialises `all`; pthread_sigmask reads it and initialises `before` when it succeeds.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            match libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) {
                0 => Ok(Self(before.assume_init())),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set was filled in by the kernel when this guard was made.
        let restored = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, ptr::null_mut()) };
        debug_assert_eq!(restored, 0, "restoring a mask that was in force cannot fail");
    }
}
