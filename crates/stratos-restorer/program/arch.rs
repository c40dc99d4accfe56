//! What is particular to x86-64.

use core::arch::{asm, global_asm};

pub mod nr {
    pub const WRITE: usize = 1;
    pub const CLOSE: usize = 3;
    pub const MMAP: usize = 9;
    pub const MPROTECT: usize = 10;
    pub const MREMAP: usize = 25;
    pub const RECVMSG: usize = 47;
    pub const FUTEX: usize = 202;
    pub const EXIT_GROUP: usize = 231;
    pub const DUP3: usize = 292;
    pub const CLONE3: usize = 435;
    pub const CLOSE_RANGE: usize = 436;
}

// The kernel enters with an aligned stack; a call leaves it as functions expect it.
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call begin", "ud2");

/// Makes a system call. A result in `-4095..0` is a negated errno.
///
/// # Safety
/// What the call asks of its arguments must hold.
pub unsafe fn syscall(number: usize, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; what the call does is the caller's promise.
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

/// Goes on on another stack, for good.
///
/// # Safety
/// `top` is the aligned end of unused writable memory.
pub unsafe fn switch_stack(top: usize, entry: extern "C" fn() -> !) -> ! {
    // SAFETY: the caller's promise; `call` gives the function the alignment it expects.
    unsafe { asm!("mov rsp, {}", "xor ebp, ebp", "call {}", "ud2", in(reg) top, in(reg) entry, options(noreturn)) }
}

/// Starts a thread with `clone_args` that name its stack, where it calls `entry(data)`.
///
/// # Safety
/// `args` points to `bytes` of a `clone_args` for a thread (`CLONE_THREAD`), whose stack is nobody else's.
pub unsafe fn thread(args: usize, bytes: usize, entry: extern "C" fn(usize) -> !, data: usize) -> isize {
    let result: isize;
    // SAFETY: the parent comes back as from any call. The thread begins with the same registers on its own stack, whose
    // top is aligned, and never comes back.
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
            in("rsi") bytes,
            in("r12") entry,
            in("r13") data,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// Lets the kernel take all registers from a signal frame, and goes on there.
///
/// # Safety
/// `frame` is what the stack pointer is at the end of a signal handler: the address after the frame's return address.
pub unsafe fn return_from_signal(frame: usize) -> ! {
    // SAFETY: the caller's promise; the call does not come back here.
    unsafe { asm!("mov rsp, {}", "mov eax, 15", "syscall", "ud2", in(reg) frame, options(noreturn)) }
}
