//! Keeping the memory of a process together, for the sake of those that will be cloned from it.
//!
//! V8 asks for each piece of its heap at an address that it draws from all of 46 bits. Every such piece takes page tables of
//! its own, three pages of them as a rule, which a clone has to copy and to keep: more than half a megabyte of a small
//! Node.js server. Where the address is taken, the kernel chooses one, next to what is there. So all of these addresses are
//! taken before the program begins, by one mapping that nothing can be read from or written to. It costs nothing, becomes
//! part of the image like any other, and instances grow in the same way.
//!
//! What an attacker has to guess stays what the kernel draws, once for each checkpoint: see docs/security.md.

use std::fs::File;
use std::ops::Range;

use stratos_sys::ptrace::Tracee;

use super::mappings::Maps;
use super::remote::{self, Remote};
use super::{DumpError, While as _};

/// Above the heap of a program at a fixed address, which begins below 4 GiB; below what the kernel places by itself, and
/// the restorer.
const DRAWN: Range<u64> = 64 << 30..1 << 46;

/// Takes the addresses that V8 draws from in a process that has just begun. What it has mapped there already stays.
///
/// # Errors
/// When the process cannot be stopped, or already has something there.
pub fn keep_together(pid: i32) -> Result<(), DumpError> {
    let mut first = Tracee::seize(pid).during(|| format!("stop process {pid}"))?;
    let path = format!("/proc/{pid}/mem");
    let memory = File::open(&path).during(|| format!("open {path}"))?;
    let instruction = remote::find_instruction(&Maps::read(pid)?, &memory)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    let args = [DRAWN.start, DRAWN.end - DRAWN.start, libc::PROT_NONE as u64, flags as u64, u64::MAX, 0];
    Remote::new(&mut first, &memory, instruction).call(libc::SYS_mmap, args).map(drop)
}
