//! How a fresh restorer becomes a template: its address space is exchanged for the image's.

use std::ops::Range;

use stratos_restorer::abi::{self, Call};

use super::instance::{self, Fixed};
use super::{Arena, call};
use crate::image::{Checkpoint, KernelMapping, Mapping};

/// Why an image cannot be restored on this machine.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlanError {
    /// The kernel maps other things into a process than it did.
    #[error("the kernel's mapping {name} is not the same here")]
    KernelMapping {
        /// Its name.
        name: String,
    },
}

/// Where things are in a fresh restorer.
#[derive(Debug, Default)]
pub struct Whereabouts {
    /// Mappings besides its own range and the kernel's.
    pub others: Vec<Range<u64>>,
    /// The kernel's mappings.
    pub kernel: Vec<KernelMapping>,
    /// `CLOCK_MONOTONIC` now, nanoseconds.
    pub monotonic_ns: u64,
    /// The highest capability that the kernel knows.
    pub last_capability: u32,
}

/// What a restorer is told so that it becomes a template.
#[derive(Debug)]
pub struct TemplatePlan {
    /// The memory at [`abi::PLAN`].
    pub memory: Vec<u8>,
    /// The calls that put it there; descriptor 0 is a file with the memory.
    pub load: Vec<Call>,
    /// Where in it the calls are that build the address space, and how many. Descriptor 0 is the image, from 1 on follow
    /// the mapped files.
    pub build: (u64, u64),
    /// What instances need of it.
    pub fixed: Fixed,
}

/// Iovecs that the kernel takes in one call.
const MOST_IOVECS: usize = 1024;
/// Bytes that one call reads at most; the kernel's own limit is a page less than 2 GiB.
const MOST_BYTES: u64 = 1 << 30;
const PROT_WRITE: u32 = 2;
const MAP_DROPPABLE: i32 = 0x08;
/// Where the kernel's mappings wait until their old place is free.
const STAGING: u64 = abi::BASE + 0xf00_0000;
const MAY_MOVE_TO: u64 = 1 | 2;
const CLONE_NEWTIME: u64 = 0x80;

/// Plans a template. `inherited`: descriptors that instances are given, from 0 on.
///
/// # Errors
/// See [`PlanError`].
pub fn template(
    checkpoint: &Checkpoint,
    here: &Whereabouts,
    pages_at: u64,
    inherited: u32,
) -> Result<TemplatePlan, PlanError> {
    let mut arena = Arena::new(abi::PLAN);
    let mut calls: Vec<_> = here
        .others
        .iter()
        .map(|range| call(libc::SYS_munmap, [range.start, range.end - range.start]))
        .collect();
    move_kernel_mappings(checkpoint, here, &mut calls)?;
    calls.extend(checkpoint.mappings.iter().map(map));
    read_pages(checkpoint, pages_at, &mut arena, &mut calls);
    checkpoint.mappings.iter().for_each(|mapping| protect(mapping, &mut calls));
    describe(checkpoint, &mut arena, &mut calls);
    clock(checkpoint, here, &mut arena, &mut calls);
    // For all instances at once: none ever executes a program that could give it a capability.
    calls.extend(
        (0..=here.last_capability)
            .map(|capability| call(libc::SYS_prctl, [libc::PR_CAPBSET_DROP as u64, u64::from(capability)])),
    );
    let fixed = instance::fixed(checkpoint, inherited, &mut arena);
    let build = arena.calls(&calls);
    let memory = arena.into_bytes();
    let load = load(memory.len() as u64, checkpoint.threads.len() as u64);
    Ok(TemplatePlan { memory, load, build, fixed })
}

fn load(bytes: u64, threads: u64) -> Vec<Call> {
    let new = |at: u64, bytes: u64| {
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
        call(libc::SYS_mmap, [at, bytes, protection, flags, u64::MAX, 0]).exact(at)
    };
    vec![
        new(abi::PLAN, bytes.next_multiple_of(4096)),
        new(abi::THREAD_STACKS, threads * abi::THREAD_STACK_BYTES),
        call(libc::SYS_pread64, [0, abi::PLAN, bytes, 0]).exact(bytes),
    ]
}

/// The vDSO and its data keep their contents and get their old addresses: functions of the C library have these in their
/// memory.
fn move_kernel_mappings(
    checkpoint: &Checkpoint,
    here: &Whereabouts,
    calls: &mut Vec<Call>,
) -> Result<(), PlanError> {
    let remap = |from: u64, bytes: u64, to: u64| {
        call(libc::SYS_mremap, [from, bytes, bytes, MAY_MOVE_TO, to]).exact(to)
    };
    let mut moves = Vec::new();
    let mut staging = STAGING;
    for wanted in &checkpoint.kernel_mappings {
        let bytes = wanted.end - wanted.start;
        let same = |now: &&KernelMapping| now.name == wanted.name && now.end - now.start == bytes;
        let now = here.kernel.iter().find(same);
        let now = now.ok_or_else(|| PlanError::KernelMapping { name: wanted.name.clone() })?;
        moves.push((now.start, bytes, staging, wanted.start));
        staging += bytes;
    }
    if let Some(extra) =
        here.kernel.iter().find(|now| !checkpoint.kernel_mappings.iter().any(|k| k.name == now.name))
    {
        return Err(PlanError::KernelMapping { name: extra.name.clone() });
    }
    calls.extend(moves.iter().map(|(from, bytes, staging, _)| remap(*from, *bytes, *staging)));
    calls.extend(moves.iter().map(|(_, bytes, staging, to)| remap(*staging, *bytes, *to)));
    Ok(())
}

fn map(mapping: &Mapping) -> Call {
    let mut protection = mapping.protection;
    if !mapping.pages.is_empty() {
        protection |= PROT_WRITE;
    }
    let mut flags = libc::MAP_FIXED_NOREPLACE;
    flags |= if mapping.traits.droppable { MAP_DROPPABLE } else { libc::MAP_PRIVATE };
    if mapping.traits.grows_down {
        flags |= libc::MAP_GROWSDOWN;
    }
    if mapping.traits.no_reserve {
        flags |= libc::MAP_NORESERVE;
    }
    let (fd, offset) = match mapping.file {
        // Descriptor 0 is the image.
        Some((file, offset)) => (u64::from(file) + 1, offset),
        None => {
            flags |= libc::MAP_ANONYMOUS;
            (u64::MAX, 0)
        }
    };
    let bytes = mapping.end - mapping.start;
    let args = [mapping.start, bytes, u64::from(protection), flags as u64, fd, offset];
    call(libc::SYS_mmap, args).exact(mapping.start)
}

/// Reads all pages from the image: they lie there in the order of the mappings.
fn read_pages(checkpoint: &Checkpoint, pages_at: u64, arena: &mut Arena, calls: &mut Vec<Call>) {
    let runs = checkpoint.mappings.iter().flat_map(|mapping| {
        mapping
            .pages
            .iter()
            .map(|(first, count)| (mapping.start + u64::from(*first) * 4096, u64::from(*count) * 4096))
    });
    let mut offset = pages_at;
    let mut batch: Vec<u64> = Vec::new();
    let mut bytes = 0;
    let mut flush = |batch: &mut Vec<u64>, bytes: &mut u64| {
        if !batch.is_empty() {
            let count = batch.len() as u64 / 2;
            let iovecs = arena.words(batch);
            calls.push(call(libc::SYS_preadv, [0, iovecs, count, offset, 0]).exact(*bytes));
            offset += *bytes;
            batch.clear();
            *bytes = 0;
        }
    };
    for (mut address, mut left) in runs {
        while left > 0 {
            let part = left.min(MOST_BYTES);
            if batch.len() == 2 * MOST_IOVECS || bytes + part > MOST_BYTES {
                flush(&mut batch, &mut bytes);
            }
            batch.extend([address, part]);
            bytes += part;
            address += part;
            left -= part;
        }
    }
    flush(&mut batch, &mut bytes);
}

fn protect(mapping: &Mapping, calls: &mut Vec<Call>) {
    let (start, bytes) = (mapping.start, mapping.end - mapping.start);
    let mut advise = |advice: i32| calls.push(call(libc::SYS_madvise, [start, bytes, advice as u64]));
    match mapping.traits.huge_pages {
        Some(true) => advise(libc::MADV_HUGEPAGE),
        Some(false) => advise(libc::MADV_NOHUGEPAGE),
        None => {}
    }
    if mapping.traits.wiped_on_fork {
        advise(libc::MADV_WIPEONFORK);
    }
    if !mapping.pages.is_empty() && mapping.protection & PROT_WRITE == 0 {
        calls.push(call(libc::SYS_mprotect, [start, bytes, u64::from(mapping.protection)]));
    }
}

/// What the kernel knows of a process, as prctl(2), PR_SET_MM_MAP sets it, and the signal actions: a clone inherits both.
fn describe(checkpoint: &Checkpoint, arena: &mut Arena, calls: &mut Vec<Call>) {
    let (process, layout) = (&checkpoint.process, &checkpoint.process.layout);
    let auxiliary = arena.words(&process.auxiliary);
    let sizes = (process.auxiliary.len() as u64 * 8) | (u64::from(process.executable + 1) << 32);
    let map = arena.words(&[
        layout.start_code,
        layout.end_code,
        layout.start_data,
        layout.end_data,
        layout.start_brk,
        layout.brk,
        layout.start_stack,
        layout.arg_start,
        layout.arg_end,
        layout.env_start,
        layout.env_end,
        auxiliary,
        sizes,
    ]);
    let (set, set_map) = (libc::PR_SET_MM as u64, libc::PR_SET_MM_MAP as u64);
    calls.push(call(libc::SYS_prctl, [set, set_map, map, 13 * 8, 0]));
    for action in &process.signals {
        let words = arena.words(&[action.handler, action.flags, action.restorer, action.mask]);
        calls.push(call(libc::SYS_rt_sigaction, [u64::from(action.signal), words, 0, 8]));
    }
    let name = arena.text(c"template");
    calls.push(call(libc::SYS_prctl, [libc::PR_SET_NAME as u64, name]));
}

/// The monotonic clock never goes back for a program. After the machine was started again it is behind what an image has
/// seen; then clones get a time namespace in which it goes on from there.
fn clock(checkpoint: &Checkpoint, here: &Whereabouts, arena: &mut Arena, calls: &mut Vec<Call>) {
    let Some(behind) = checkpoint.monotonic_ns.checked_sub(here.monotonic_ns).filter(|ns| *ns > 0) else {
        return;
    };
    let (seconds, nanoseconds) = (behind / 1_000_000_000, behind % 1_000_000_000);
    let offsets = format!("monotonic {seconds} {nanoseconds}\nboottime {seconds} {nanoseconds}\n");
    let path = arena.text(c"/proc/self/timens_offsets");
    let text = arena.put(offsets.as_bytes());
    let bytes = offsets.len() as u64;
    calls.push(call(libc::SYS_unshare, [CLONE_NEWTIME]));
    calls.push(call(libc::SYS_openat, [-100_i64 as u64, path, libc::O_WRONLY as u64]).keep(0));
    calls.push(call(libc::SYS_write, [0, text, bytes]).with(0, 0).exact(bytes));
    calls.push(call(libc::SYS_close, [0]).with(0, 0));
}
