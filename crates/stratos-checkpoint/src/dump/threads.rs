//! Stopping threads, and what each consists of.

use std::fs::{self, File};

use stratos_restorer::abi;
use stratos_sys::cpu::EXTENDED_ON_REQUEST;
use stratos_sys::ptrace::{Registers, Tracee};

use super::remote::Remote;
use super::{DumpError, Park, While as _, read};
use crate::image::Thread;

/// How often the list of threads is looked at until it stays the same.
const ROUNDS: usize = 16;

/// The threads of a process, in ascending order.
pub(super) fn tasks(pid: i32) -> Result<Vec<i32>, DumpError> {
    let path = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&path).during(|| format!("list {path}"))?;
    let mut tasks = Vec::new();
    for entry in entries {
        let entry = entry.during(|| format!("list {path}"))?;
        tasks.extend(entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    tasks.sort_unstable();
    Ok(tasks)
}

/// Stops all threads: those that a running thread still starts, too. The first one comes first.
pub(super) fn stop_all(pid: i32, park: Park) -> Result<Vec<Tracee>, DumpError> {
    let mut stopped: Vec<Tracee> = Vec::new();
    for _ in 0..ROUNDS {
        let known = stopped.len();
        for tid in tasks(pid)? {
            if stopped.iter().any(|tracee| tracee.tid() == tid) {
                continue;
            }
            match Tracee::seize(tid) {
                Ok(tracee) => stopped.push(tracee),
                // It has ended since it was listed.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) && tid != pid => {}
                // A signal was on its way to it: when it has had that, it waits again.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    return Err(DumpError::NotParked { park });
                }
                Err(error) => return Err(error).during(|| format!("stop thread {tid}")),
            }
        }
        if stopped.len() == known {
            stopped.sort_by_key(|tracee| (tracee.tid() != pid, tracee.tid()));
            return Ok(stopped);
        }
    }
    Err(DumpError::refused("it starts threads without end"))
}

/// The first thread must be in the read(2) of its release.
pub(super) fn check_parked(first: &Tracee, park: u32) -> Result<(), DumpError> {
    let registers = first.stopped();
    let reading = registers.orig_rax == libc::SYS_read.cast_unsigned() && registers.rdi == u64::from(park);
    // What it was interrupted with by the stop itself: it has read nothing yet (ERESTARTSYS).
    match reading && registers.rax.cast_signed() == -512 {
        true => Ok(()),
        false => Err(DumpError::NotParked { park: Park::Release(park) }),
    }
}

/// Every thread must wait in a call that goes on when it was interrupted, or that every program must expect to be
/// interrupted (epoll and the like: signal(7)).
pub(super) fn check_idle(stopped: &[Tracee]) -> Result<(), DumpError> {
    let idle = stopped.iter().all(|tracee| is_idle(tracee.stopped()));
    if idle { Ok(()) } else { Err(DumpError::NotParked { park: Park::Idle }) }
}

fn is_idle(registers: &Registers) -> bool {
    const WAITS: [i64; 15] = [
        libc::SYS_futex,
        libc::SYS_epoll_wait,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_poll,
        libc::SYS_ppoll,
        libc::SYS_select,
        libc::SYS_pselect6,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_pause,
        libc::SYS_rt_sigsuspend,
        libc::SYS_rt_sigtimedwait,
    ];
    /// `EINTR`, and what the kernel has for calls that it makes again: `ERESTARTSYS`, `ERESTARTNOINTR`, `ERESTARTNOHAND`
    /// and `ERESTART_RESTARTBLOCK`.
    const INTERRUPTED: [i64; 5] = [-4, -512, -513, -514, -516];
    WAITS.contains(&registers.orig_rax.cast_signed()) && INTERRUPTED.contains(&registers.rax.cast_signed())
}

/// A process that was restored a moment ago may have threads that are still in the restorer, which is no part of the
/// image: they would go on into nothing.
pub(super) fn check_restored(stopped: &[Tracee], park: Park) -> Result<(), DumpError> {
    let restorer = abi::BASE..abi::END;
    let inside = |tracee: &Tracee| {
        let registers = tracee.stopped();
        restorer.contains(&registers.rip) || restorer.contains(&registers.rsp)
    };
    match stopped.iter().any(inside) {
        true => Err(DumpError::NotParked { park }),
        false => Ok(()),
    }
}

/// A field of /proc/PID/status or of a thread's.
fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let line = status.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

pub(super) fn umask(pid: i32) -> Result<u32, DumpError> {
    let status = read(format!("/proc/{pid}/status"))?;
    let umask = status_field(&status, "Umask").and_then(|text| u32::from_str_radix(text, 8).ok());
    umask.ok_or_else(|| DumpError::refused("its umask cannot be learned"))
}

pub(super) fn describe(
    pid: i32,
    stopped: &mut [Tracee],
    memory: &File,
    instruction: u64,
) -> Result<Vec<Thread>, DumpError> {
    let threads = stopped.iter_mut().map(|tracee| describe_one(pid, tracee, memory, instruction));
    let mut threads: Vec<_> = threads.collect::<Result<_, _>>()?;
    threads.sort_by_key(|thread| thread.id);
    Ok(threads)
}

fn describe_one(pid: i32, tracee: &mut Tracee, memory: &File, instruction: u64) -> Result<Thread, DumpError> {
    let tid = tracee.tid();
    let status = read(format!("/proc/{pid}/task/{tid}/status"))?;
    for pending in ["SigPnd", "ShdPnd"] {
        let mask = status_field(&status, pending).and_then(|text| u64::from_str_radix(text, 16).ok());
        if mask != Some(0) {
            return Err(DumpError::refused("it has a signal that it has not handled yet"));
        }
    }
    // The last number is that of the innermost PID namespace.
    let id = status_field(&status, "NSpid").and_then(|text| text.split_whitespace().last()?.parse().ok());
    let id = id.ok_or_else(|| DumpError::refused("the kernel does not tell its thread numbers (NSpid)"))?;
    let name = read(format!("/proc/{pid}/task/{tid}/comm"))?;
    let during = |what: &str| format!("read {what} of thread {tid}");
    let extended = tracee.extended_state().during(|| during("the extended state"))?;
    // The header after the oldest part tells which parts are not in their initial state.
    let in_use = extended.get(512..520).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    if in_use & EXTENDED_ON_REQUEST != 0 {
        return Err(DumpError::refused("it has AMX tiles in use"));
    }
    let mask = tracee.signal_mask().during(|| during("the signal mask"))?;
    let rseq = tracee.rseq().during(|| during("the restartable sequence"))?;
    if rseq.flags != 0 {
        return Err(DumpError::refused("it has a restartable sequence of an unknown kind"));
    }
    let registers = words(tracee.stopped());
    let mut remote = Remote::new(tracee, memory, instruction);
    let scratch = remote.scratch();
    const PR_GET_TID_ADDRESS: u64 = 40;
    let [clear_tid] = remote.words(libc::SYS_prctl, [PR_GET_TID_ADDRESS, scratch, 0, 0, 0, 0], scratch)?;
    let robust: [u64; 2] =
        remote.words(libc::SYS_get_robust_list, [0, scratch, scratch + 8, 0, 0, 0], scratch)?;
    let [stack, flags, bytes] = remote.words(libc::SYS_sigaltstack, [0, scratch, 0, 0, 0, 0], scratch)?;
    Ok(Thread {
        id,
        name: name.trim_end_matches('\n').to_owned(),
        registers,
        extended,
        mask,
        clear_tid,
        robust: (robust[0], robust[1]),
        rseq: (rseq.pointer != 0).then_some((rseq.pointer, rseq.size, rseq.signature)),
        signal_stack: (stack, flags as u32, bytes),
    })
}

/// In the order of `struct user_regs_struct`.
fn words(r: &Registers) -> Vec<u64> {
    vec![
        r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8, r.rax, r.rcx, r.rdx, r.rsi,
        r.rdi, r.orig_rax, r.rip, r.cs, r.eflags, r.rsp, r.ss, r.fs_base, r.gs_base, r.ds, r.es, r.fs, r.gs,
    ]
}
