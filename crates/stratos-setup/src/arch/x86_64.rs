//! System calls on x86-64: number in `rax`, arguments in `rdi rsi rdx r10 r8 r9`, result in `rax`; `rcx` and `r11`
//! are lost.

use core::arch::asm;
use core::ffi::c_void;

/// System call numbers used by the interpreter.
pub(crate) mod nr {
    pub(crate) const CLOSE: usize = 3;
    pub(crate) const RT_SIGPROCMASK: usize = 14;
    pub(crate) const EXECVE: usize = 59;
    pub(crate) const CHDIR: usize = 80;
    pub(crate) const UMASK: usize = 95;
    pub(crate) const SETSID: usize = 112;
    pub(crate) const SETGROUPS: usize = 116;
    pub(crate) const SETRESUID: usize = 117;
    pub(crate) const SETRESGID: usize = 119;
    pub(crate) const CAPSET: usize = 126;
    pub(crate) const PIVOT_ROOT: usize = 155;
    pub(crate) const PRCTL: usize = 157;
    pub(crate) const MOUNT: usize = 165;
    pub(crate) const UMOUNT2: usize = 166;
    pub(crate) const SETHOSTNAME: usize = 170;
    pub(crate) const EXIT_GROUP: usize = 231;
    pub(crate) const OPENAT: usize = 257;
    pub(crate) const MKDIRAT: usize = 258;
    pub(crate) const UNSHARE: usize = 272;
    pub(crate) const DUP3: usize = 292;
    pub(crate) const PRLIMIT64: usize = 302;
    pub(crate) const SETNS: usize = 308;
    pub(crate) const SECCOMP: usize = 317;
    pub(crate) const MOVE_MOUNT: usize = 429;
    pub(crate) const CLONE3: usize = 435;
    pub(crate) const CLOSE_RANGE: usize = 436;
    pub(crate) const LANDLOCK_ADD_RULE: usize = 445;
    pub(crate) const LANDLOCK_RESTRICT_SELF: usize = 446;
}

/// Makes a system call. A result in `-4095..0` is a negated errno.
///
/// # Safety
/// Whatever the system call `number` asks of its arguments must hold: pointers it reads or writes must be valid for
/// that, and its effect on the process must be one that the caller may cause.
pub(crate) unsafe fn syscall(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the register use is the kernel's calling convention; memory is not declared untouched, so the compiler
    // keeps no value cached over the call. What the call itself does is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Calls clone3 with arguments that name a new stack; the child calls `entry(data)` on it and never comes back here.
/// The parent gets the child's pid or a negated errno.
///
/// # Safety
/// `args` points to `size` bytes of a valid `clone_args` whose stack is writable, 16-byte aligned at its top, large
/// enough for `entry`, and used by nobody else while the child runs. `entry` must be sound to run in a process with
/// the flags in `args`, above all that it touches no thread-local storage when memory is shared.
pub(crate) unsafe fn clone3_on_stack(
    args: *const c_void,
    size: usize,
    entry: unsafe extern "C" fn(*const c_void) -> !,
    data: *const c_void,
) -> isize {
    let result: isize;
    // SAFETY: in the parent this is a plain system call. In the child `rsp` is the top of the new stack (aligned, so
    // `call` gives `entry` the alignment its ABI expects) and every register but `rax` holds what it held in the
    // parent, so `r12` and `r13` still name the entry and its data. The child never reaches the parent's frame.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") nr::CLONE3 as isize => result,
            in("rdi") args,
            in("rsi") size,
            in("r12") entry,
            in("r13") data,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}
