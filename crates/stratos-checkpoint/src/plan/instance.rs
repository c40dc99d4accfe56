//! How a clone of a template becomes the process that was checkpointed, in a sandbox of its own.

use std::ffi::CString;

use stratos_restorer::abi::{self, Call};
use stratos_setup::Op;

use super::lower::{lower, set_caps};
use super::{Arena, call, descriptors, frame};
use crate::image::{Checkpoint, Thread};

/// The capability to choose thread numbers (capabilities(7)).
const CAP_CHECKPOINT_RESTORE: u64 = 1 << 40;
const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_INTO_CGROUP: u64 = 1 << 33;
/// `CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS`.
const THREAD: u64 = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000 | 0x4_0000 | 0x8_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;

/// What stays the same for every instance: it lies in the template's memory.
#[derive(Debug, Clone, Copy)]
pub struct Fixed {
    /// Opens descriptors and sets what belongs to the first thread: calls, and their number.
    process: (u64, u64),
    /// Starts the other threads.
    threads: (u64, u64),
    frame: u64,
    reseed: u64,
}

pub(super) fn fixed(checkpoint: &Checkpoint, inherited: u32, arena: &mut Arena) -> Fixed {
    let (first, others) = checkpoint.threads.split_first().expect("the check found a thread");
    let mut process = descriptors::reopen(&checkpoint.descriptors, inherited, arena);
    // Not so in the template, or its clones would not have them.
    for mapping in checkpoint.mappings.iter().filter(|mapping| mapping.traits.not_inherited) {
        let bytes = mapping.end - mapping.start;
        process.push(call(libc::SYS_madvise, [mapping.start, bytes, libc::MADV_DONTFORK as u64]));
    }
    for (address, bytes) in &checkpoint.random {
        let bytes = u64::from(*bytes);
        process.push(call(libc::SYS_getrandom, [*address, bytes, 0]).exact(bytes));
    }
    process.push(call(libc::SYS_umask, [u64::from(checkpoint.process.umask)]));
    process.push(call(libc::SYS_set_tid_address, [first.clear_tid]));
    process.push(call(libc::SYS_arch_prctl, [ARCH_SET_FS, frame::fs_base(first)]));
    if frame::gs_base(first) != 0 {
        process.push(call(libc::SYS_arch_prctl, [ARCH_SET_GS, frame::gs_base(first)]));
    }
    of_itself(first, arena, &mut process);
    let mut threads: Vec<_> = (0..).zip(others).map(|(index, thread)| start(index, thread, arena)).collect();
    threads.push(Call::new(abi::AWAIT_THREADS, [others.len() as u64, 0, 0, 0, 0, 0]));
    Fixed {
        process: arena.calls(&process),
        threads: arena.calls(&threads),
        frame: frame::put(first, arena),
        reseed: checkpoint.reseed.unwrap_or(0),
    }
}

/// What a thread must set by itself.
fn of_itself(thread: &Thread, arena: &mut Arena, calls: &mut Vec<Call>) {
    if thread.robust.0 != 0 {
        calls.push(call(libc::SYS_set_robust_list, [thread.robust.0, thread.robust.1]));
    }
    if let Some((area, bytes, signature)) = thread.rseq {
        calls.push(call(libc::SYS_rseq, [area, u64::from(bytes), 0, u64::from(signature)]));
    }
    let name = arena.text(&CString::new(thread.name.as_str()).unwrap_or_default());
    calls.push(call(libc::SYS_prctl, [libc::PR_SET_NAME as u64, name]));
}

/// The call that starts a thread. It gives up its capabilities before any of the program's code runs.
fn start(index: u64, thread: &Thread, arena: &mut Arena) -> Call {
    let mut own = Vec::new();
    if frame::gs_base(thread) != 0 {
        own.push(call(libc::SYS_arch_prctl, [ARCH_SET_GS, frame::gs_base(thread)]));
    }
    of_itself(thread, arena, &mut own);
    own.push(set_caps(0, arena));
    let (calls, count) = arena.calls(&own);
    let frame = frame::put(thread, arena);
    let record = arena.words(&[calls, count, frame]);
    let id = arena.words(&[u64::from(thread.id)]);
    let cleared = if thread.clear_tid == 0 { 0 } else { CLONE_CHILD_CLEARTID };
    let arguments = clone_args(&CloneArgs {
        flags: THREAD | cleared,
        child_tid: thread.clear_tid,
        stack: abi::THREAD_STACKS + index * abi::THREAD_STACK_BYTES,
        stack_size: abi::THREAD_STACK_BYTES,
        tls: frame::fs_base(thread),
        set_tid: id,
        set_tid_size: 1,
        cgroup: 0,
    });
    let bytes = arguments.len() as u64 * 8;
    let arguments = arena.words(&arguments);
    Call::new(abi::THREAD, [arguments, bytes, record, 0, 0, 0])
}

#[derive(Default)]
struct CloneArgs {
    flags: u64,
    child_tid: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `struct clone_args` (clone(2)): flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
/// set_tid_size, cgroup.
fn clone_args(args: &CloneArgs) -> [u64; 11] {
    let CloneArgs { flags, child_tid, stack, stack_size, tls, set_tid, set_tid_size, cgroup } = *args;
    [flags, 0, child_tid, 0, 0, stack, stack_size, tls, set_tid, set_tid_size, cgroup]
}

/// What is particular to an instance. Descriptors in the operations have the numbers from [`abi::FIRST_FD`] on, in the
/// order in which they are sent; the first is where the instance reports.
#[derive(Debug)]
pub struct InstancePlan<'a> {
    /// New namespaces: `CLONE_NEW*` bits.
    pub namespaces: u64,
    /// Which of the sent descriptors is the cgroup it begins in.
    pub cgroup: Option<usize>,
    /// Namespaces, root, and placing the descriptors it is given.
    pub setup: &'a [Op<'a>],
    /// Giving up privileges, up to the change of user; without a filter.
    pub privileges: &'a [Op<'a>],
    /// The highest capability that exists, or nothing when capabilities are to be kept.
    pub drop_capabilities: bool,
    /// The system call filter, last of all.
    pub filter: &'a [Op<'a>],
}

/// The message that makes an instance: everything that a [`abi::Request`] points to, the request itself first. `own`: the
/// ranges that it is to have pages of its own of first, address and bytes of each.
pub fn instance(fixed: &Fixed, plan: &InstancePlan<'_>, own: &[u64], descriptors: u32) -> Vec<u8> {
    let mut arena = Arena::new(abi::REQUEST);
    let head = arena.put(&[0; size_of::<abi::Request>()]);
    let mut calls = Vec::with_capacity(128);
    let ranges = arena.words(own);
    calls.push(Call::new(abi::TOUCH, [ranges, own.len() as u64 / 2, 0, 0, 0, 0]));
    lower(plan.setup, &mut arena, &mut calls);
    calls.push(list(fixed.process));
    lower(plan.privileges, &mut arena, &mut calls);
    if plan.drop_capabilities {
        // One is needed until the threads have their numbers.
        calls.push(set_caps(CAP_CHECKPOINT_RESTORE, &mut arena));
    }
    calls.push(list(fixed.threads));
    if plan.drop_capabilities {
        calls.push(set_caps(0, &mut arena));
    }
    // A change of user hides the process from itself in /proc; executing a program would show it again.
    calls.push(call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as u64, 1]));
    let done = arena.put(&[0; size_of::<abi::Reply>()]);
    let bytes = size_of::<abi::Reply>() as u64;
    calls.push(call(libc::SYS_write, [abi::REPORT_FD as u64, done, bytes]).exact(bytes));
    calls.push(call(libc::SYS_close_range, [abi::TARGET_FDS as u64, u64::from(u32::MAX), 0]));
    lower(plan.filter, &mut arena, &mut calls);
    let (calls, count) = arena.calls(&calls);
    let finish = arena.words(&[fixed.frame, fixed.reseed]);
    let cgroup = plan.cgroup.map_or(0, |_| CLONE_INTO_CGROUP);
    let arguments = clone_args(&CloneArgs {
        flags: plan.namespaces | CLONE_PARENT | cgroup,
        cgroup: plan.cgroup.unwrap_or(0) as u64,
        ..CloneArgs::default()
    });
    let arguments_bytes = arguments.len() as u64 * 8;
    let arguments = arena.words(&arguments);
    let kind = u64::from(abi::CLONE) | u64::from(descriptors) << 32;
    let request: Vec<u8> = [kind, calls, count, arguments, arguments_bytes, finish]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    arena.replace(head, &request);
    arena.into_bytes()
}

/// The message that has a restorer make calls.
pub(crate) fn run(calls: &[Call], descriptors: u32) -> Vec<u8> {
    let mut arena = Arena::new(abi::REQUEST);
    let head = arena.put(&[0; size_of::<abi::Request>()]);
    let (at, count) = arena.calls(calls);
    let kind = u64::from(abi::RUN) | u64::from(descriptors) << 32;
    let request: Vec<u8> = [kind, at, count, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    arena.replace(head, &request);
    arena.into_bytes()
}

/// Makes the calls of a list that lies elsewhere.
pub(crate) fn list((calls, count): (u64, u64)) -> Call {
    Call::new(abi::LIST, [calls, count, 0, 0, 0, 0])
}
