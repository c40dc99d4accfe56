//! The signal frame by which the kernel gives a thread all its registers at once (rt_sigreturn(2)), for x86-64.
//!
//! Layouts are those of `struct ucontext` and `struct _fpstate_64` in the kernel's arch/x86/include/uapi/asm.

use stratos_sys::cpu::{EXTENDED_ON_REQUEST, extended_state_bytes};

use super::Arena;
use crate::image::Thread;

/// Positions in `struct user_regs_struct`.
mod register {
    pub(super) const R15: usize = 0;
    pub(super) const R14: usize = 1;
    pub(super) const R13: usize = 2;
    pub(super) const R12: usize = 3;
    pub(super) const RBP: usize = 4;
    pub(super) const RBX: usize = 5;
    pub(super) const R11: usize = 6;
    pub(super) const R10: usize = 7;
    pub(super) const R9: usize = 8;
    pub(super) const R8: usize = 9;
    pub(super) const RAX: usize = 10;
    pub(super) const RCX: usize = 11;
    pub(super) const RDX: usize = 12;
    pub(super) const RSI: usize = 13;
    pub(super) const RDI: usize = 14;
    pub(super) const ORIG_RAX: usize = 15;
    pub(super) const RIP: usize = 16;
    pub(super) const CS: usize = 17;
    pub(super) const EFLAGS: usize = 18;
    pub(super) const RSP: usize = 19;
    pub(super) const SS: usize = 20;
    pub(super) const FS_BASE: usize = 21;
    pub(super) const GS_BASE: usize = 22;
}
use register::*;

/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`.
const FLAGS: u64 = 1 | 2 | 4;
/// What a system call that was interrupted by the stop has as its result. The kernel would make it again.
const RESTART: [i64; 3] = [-512, -513, -514];
/// The same for one that goes on with a timeout that only the kernel knows: it fails with `EINTR`.
const RESTART_BLOCK: i64 = -516;
const EINTR: i64 = -4;
/// Bytes of the instruction `syscall`.
const SYSCALL_BYTES: u64 = 2;
/// Where in the extended state the kernel looks for its own mark, and what it finds there.
const MARK_AT: usize = 464;
const MAGIC_1: u32 = 0x4650_5853;
const MAGIC_2: u32 = 0x4650_5845;

/// The segment base of thread-local storage.
pub(super) fn fs_base(thread: &Thread) -> u64 {
    thread.registers[FS_BASE]
}

/// The other segment base, 0 in every usual program.
pub(super) fn gs_base(thread: &Thread) -> u64 {
    thread.registers[GS_BASE]
}

/// Result and instruction to go on with.
fn restarted(registers: &[u64]) -> (u64, u64) {
    let (result, instruction) = (registers[RAX], registers[RIP]);
    let in_call = registers[ORIG_RAX].cast_signed() >= 0;
    match result.cast_signed() {
        code if in_call && RESTART.contains(&code) => (registers[ORIG_RAX], instruction - SYSCALL_BYTES),
        RESTART_BLOCK if in_call => (EINTR.cast_unsigned(), instruction),
        _ => (result, instruction),
    }
}

/// Puts a thread's frame into the arena; gives what the stack pointer must be for rt_sigreturn.
pub(super) fn put(thread: &Thread, arena: &mut Arena) -> u64 {
    let fpstate = arena.put_aligned(&extended_state(&thread.extended), 64);
    let r = &thread.registers;
    let (rax, rip) = restarted(r);
    let (stack, stack_flags, stack_bytes) = thread.signal_stack;
    let segments = r[CS] & 0xffff | (r[SS] & 0xffff) << 48;
    let mut words = vec![FLAGS, 0, stack, u64::from(stack_flags), stack_bytes];
    words.extend([R8, R9, R10, R11, R12, R13, R14, R15, RDI, RSI, RBP, RBX, RDX].map(|name| r[name]));
    words.extend([rax, r[RCX], r[RSP], rip, r[EFLAGS], segments]);
    // err, trapno, oldmask, cr2
    words.extend([0; 4]);
    words.push(fpstate);
    words.extend([0; 8]);
    words.push(thread.mask);
    arena.words(&words)
}

/// The state as a signal frame has it: with the kernel's mark in the bytes that the processor leaves to software. Before,
/// the mask of its parts is there, as ptrace hands it out, for all parts that there can be. A frame must not be larger than
/// those that the process has, or the kernel takes the oldest part only.
fn extended_state(state: &[u8]) -> Vec<u8> {
    let features = u64::from_le_bytes(state[MARK_AT..MARK_AT + 8].try_into().expect("eight bytes"));
    let features = features & !EXTENDED_ON_REQUEST;
    let size = extended_state_bytes(features).min(state.len());
    let mut bytes = state[..size].to_vec();
    let size = size as u32;
    let mut mark = Vec::with_capacity(48);
    mark.extend_from_slice(&MAGIC_1.to_le_bytes());
    mark.extend_from_slice(&(size + 4).to_le_bytes());
    mark.extend_from_slice(&features.to_le_bytes());
    mark.extend_from_slice(&size.to_le_bytes());
    mark.resize(48, 0);
    bytes[MARK_AT..MARK_AT + 48].copy_from_slice(&mark);
    bytes.extend_from_slice(&MAGIC_2.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupted_calls_are_made_again_or_fail_as_the_kernel_has_it() {
        let mut registers = vec![0; 27];
        registers[RIP] = 0x1002;
        for (in_call, result, rax, rip) in [
            (0, -512, 0, 0x1000),
            (202, -514, 202, 0x1000),
            (202, -516, -4, 0x1002),
            (-1, -512, -512, 0x1002),
            (-1, 7, 7, 0x1002),
            (0, 5, 5, 0x1002),
        ] {
            registers[ORIG_RAX] = i64::cast_unsigned(in_call);
            registers[RAX] = i64::cast_unsigned(result);
            assert_eq!(restarted(&registers), (i64::cast_unsigned(rax), rip), "{in_call} {result}");
        }
    }
}
