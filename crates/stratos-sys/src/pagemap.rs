//! Which pages of a process are its own: the PAGEMAP_SCAN ioctl (Linux 6.7).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610;
const FILE: u64 = 1 << 2;
const PRESENT: u64 = 1 << 3;
const SWAPPED: u64 = 1 << 4;
const ZERO: u64 = 1 << 5;
/// Ranges that one call gives at most.
const RANGES: usize = 512;

#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// Which pages are looked for: bits that they must lack, bits that they must have, and bits of which they must have one.
struct Categories {
    lacks: u64,
    has: u64,
    has_one: u64,
}

/// The pagemap of a process.
#[derive(Debug)]
pub struct Pagemap(File);

impl Pagemap {
    /// Opens the pagemap of a process.
    ///
    /// # Errors
    /// When it has ended, or may not be looked at.
    pub fn open(pid: i32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/pagemap")).map(Self)
    }

    /// The parts of a range that hold anonymous pages of the process's own, in memory or swapped out: neither a file's
    /// pages nor the shared page of zeros.
    ///
    /// # Errors
    /// `ENOTTY` before Linux 6.7.
    pub fn own(&self, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        self.scan(range, Categories { lacks: FILE | ZERO, has: 0, has_one: PRESENT | SWAPPED })
    }

    /// The parts of a range where pages of a file are mapped now.
    ///
    /// # Errors
    /// `ENOTTY` before Linux 6.7.
    pub fn of_files(&self, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        self.scan(range, Categories { lacks: 0, has: FILE | PRESENT, has_one: PRESENT })
    }

    /// The parts of a range that hold pages of the process's own which no other process maps: of a child that was cloned,
    /// what it has written since.
    ///
    /// # Errors
    /// `ENOTTY` before Linux 6.7.
    pub fn exclusive(&self, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        const PAGE: u64 = 4096;
        const ENTRY: u64 = 8;
        const PRESENT_BIT: u64 = 1 << 63;
        const EXCLUSIVE_BIT: u64 = 1 << 56;
        let mut found: Vec<Range<u64>> = Vec::new();
        for own in self.own(range)? {
            let mut entries = vec![0; ((own.end - own.start) / PAGE * ENTRY) as usize];
            self.0.read_exact_at(&mut entries, own.start / PAGE * ENTRY)?;
            let pages = (own.start..).step_by(PAGE as usize).zip(entries.chunks_exact(ENTRY as usize));
            for (page, entry) in pages {
                let entry = u64::from_ne_bytes(entry.try_into().map_err(io::Error::other)?);
                if entry & PRESENT_BIT == 0 || entry & EXCLUSIVE_BIT == 0 {
                    continue;
                }
                match found.last_mut() {
                    Some(last) if last.end == page => last.end += PAGE,
                    _ => found.push(page..page + PAGE),
                }
            }
        }
        Ok(found)
    }

    fn scan(&self, range: Range<u64>, wanted: Categories) -> io::Result<Vec<Range<u64>>> {
        let mut found: Vec<Range<u64>> = Vec::new();
        let mut regions = vec![Region::default(); RANGES];
        let mut start = range.start;
        while start < range.end {
            let mut arg = ScanArg {
                size: size_of::<ScanArg>() as u64,
                start,
                end: range.end,
                vec: regions.as_mut_ptr() as u64,
                vec_len: RANGES as u64,
                category_inverted: wanted.lacks,
                category_mask: wanted.lacks | wanted.has,
                category_anyof_mask: wanted.has_one,
                ..ScanArg::default()
            };
            // SAFETY: the argument and the vector it points to live over the call and are as large as it says.
            let count = unsafe { libc::ioctl(self.0.as_raw_fd(), PAGEMAP_SCAN, &raw mut arg) };
            if count < 0 {
                return Err(io::Error::last_os_error());
            }
            for region in regions.iter().take(count as usize) {
                match found.last_mut() {
                    Some(last) if last.end == region.start => last.end = region.end,
                    _ => found.push(region.start..region.end),
                }
            }
            if arg.walk_end <= start {
                break;
            }
            start = arg.walk_end;
        }
        Ok(found)
    }
}

/// Whether two descriptors, one of each process, are the same open file (kcmp(2), KCMP_FILE).
///
/// # Errors
/// When a process has ended, or the kernel lacks the call (CONFIG_KCMP).
pub fn same_open_file(one: (i32, i32), other: (i32, i32)) -> io::Result<bool> {
    const KCMP_FILE: libc::c_int = 0;
    // SAFETY: takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, one.0, other.0, KCMP_FILE, one.1, other.1) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result == 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_pages_are_found_and_untouched_ones_are_not() {
        let page = 4096;
        let mut memory = vec![0_u8; 64 * page];
        let start = (memory.as_ptr() as u64).next_multiple_of(page as u64);
        let offset = (start - memory.as_ptr() as u64) as usize;
        for touched in [3, 4, 9] {
            memory[offset + touched * page] = 1;
        }
        let pagemap = Pagemap::open(std::process::id().cast_signed()).unwrap();
        let own = match pagemap.own(start..start + 16 * page as u64) {
            Ok(own) => own,
            // A kernel before 6.7.
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => return,
            Err(error) => panic!("{error}"),
        };
        let at = |index: u64| start + index * page as u64;
        assert_eq!(own, [at(3)..at(5), at(9)..at(10)]);
    }

    #[test]
    fn a_duplicate_is_the_same_open_file() {
        use std::os::fd::AsRawFd as _;
        let pid = std::process::id().cast_signed();
        let file = File::open("/dev/null").unwrap();
        let copy = file.try_clone().unwrap();
        let other = File::open("/dev/null").unwrap();
        assert!(same_open_file((pid, file.as_raw_fd()), (pid, copy.as_raw_fd())).unwrap());
        assert!(!same_open_file((pid, file.as_raw_fd()), (pid, other.as_raw_fd())).unwrap());
    }
}
