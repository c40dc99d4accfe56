//! What the first request of an instance touches, so that later instances have it before they ask.
//!
//! A clone shares its template's pages, but each first write costs a fault and a copy, and of files nothing is mapped at
//! first. Recorded once, written pages are copied in a few calls, and a file's pages are mapped in the template in such a
//! way that a clone inherits them (a Node.js server of five lines: 250 faults of 5 us each in place of 0.4 ms).
//!
//! Tried and worse: having another thread of the instance copy them while the first one serves. What the clone saved, the
//! request lost, and more.

use std::io;
use std::ops::Range;

use stratos_restorer::abi::Call;
use stratos_sys::pagemap::Pagemap;

use crate::image::{Checkpoint, Mapping, PAGE};
use crate::plan::call;

/// Most ranges of each kind that are used: a request is not to be made longer than what it saves.
const MOST_RANGES: usize = 512;
/// Most bytes that an instance copies ahead.
const MOST_WRITTEN: u64 = 16 << 20;
const PROT_WRITE: u32 = 2;
const MADV_POPULATE_READ: u64 = 22;
const MADV_POPULATE_WRITE: u64 = 23;

/// Addresses that an instance touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkingSet {
    /// Pages that it wrote.
    pub written: Vec<Range<u64>>,
    /// Pages of files that it has mapped.
    pub files: Vec<Range<u64>>,
}

impl WorkingSet {
    /// Looks at a restored instance after its first request.
    ///
    /// # Errors
    /// When it has ended, or the kernel cannot tell.
    pub fn of(pid: i32, checkpoint: &Checkpoint) -> io::Result<Self> {
        let pagemap = Pagemap::open(pid)?;
        let mut set = Self::default();
        for mapping in checkpoint.mappings.iter().filter(|mapping| mapping.protection != 0) {
            if mapping.protection & PROT_WRITE != 0 && !mapping.traits.droppable && !mapping.traits.grows_down
            {
                set.written.extend(pagemap.exclusive(mapping.range())?);
            }
            if mapping.file.is_some() {
                set.files.extend(pagemap.of_files(mapping.range())?);
            }
        }
        set.written.sort_by_key(|range| std::cmp::Reverse(range.end - range.start));
        set.written.truncate(MOST_RANGES);
        let mut bytes = 0;
        set.written.retain(|range| {
            bytes += range.end - range.start;
            bytes <= MOST_WRITTEN
        });
        set.files.truncate(MOST_RANGES);
        Ok(set)
    }

    /// What an instance is to have pages of its own of before it goes on: first address and bytes of each range. They are
    /// in writable mappings of the checkpoint, which its template has as they were.
    pub(crate) fn own(&self) -> Vec<u64> {
        self.written.iter().flat_map(|range| [range.start, range.end - range.start]).collect()
    }

    /// What the template does once. The kernel leaves out a file's pages when it clones a process, unless the mapping has
    /// a page of the process's own: one is made of each mapping's first page, with the same bytes.
    pub(crate) fn calls_of_template(&self, checkpoint: &Checkpoint) -> Vec<Call> {
        let mut calls = Vec::new();
        for mapping in checkpoint.mappings.iter().filter(|mapping| mapping.file.is_some()) {
            let is_in_it = |range: &&Range<u64>| mapping.range().contains(&range.start);
            let touched: Vec<_> = self.files.iter().filter(is_in_it).collect();
            if touched.is_empty() {
                continue;
            }
            if mapping.pages.is_empty() {
                own_first_page(mapping, &mut calls);
            }
            calls.extend(touched.into_iter().map(|range| advise(range, MADV_POPULATE_READ).may_fail()));
        }
        calls
    }
}

fn own_first_page(mapping: &Mapping, calls: &mut Vec<Call>) {
    let bytes = mapping.end - mapping.start;
    let protect = |protection: u32| call(libc::SYS_mprotect, [mapping.start, bytes, u64::from(protection)]);
    calls.push(protect(mapping.protection | PROT_WRITE));
    calls.push(advise(&(mapping.start..mapping.start + PAGE), MADV_POPULATE_WRITE).may_fail());
    calls.push(protect(mapping.protection));
}

fn advise(range: &Range<u64>, advice: u64) -> Call {
    call(libc::SYS_madvise, [range.start, range.end - range.start, advice])
}
