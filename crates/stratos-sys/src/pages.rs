//! Pages of files: which are in memory, and reading them in such that few of them are needed.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd as _};

/// Most bytes of a file that are looked at.
const MAX_LENGTH: u64 = 4 << 30;

/// A mapping of a file, never read from or written to.
struct Mapping {
    at: *mut libc::c_void,
    length: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and nothing points into it.
        unsafe { libc::munmap(self.at, self.length) };
    }
}

/// The ranges of bytes of the first `length` of `file` that are in the page cache, in whole pages and in order. The
/// kernel tells root, and whoever may write to the file.
///
/// # Errors
/// What mmap(2) and mincore(2) say; `EINVAL` for more than 4 GiB.
pub fn resident(file: impl AsFd, length: u64) -> io::Result<Vec<Range<u64>>> {
    if length == 0 {
        return Ok(Vec::new());
    }
    if length > MAX_LENGTH {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let length = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, libc::MAP_SHARED, fd, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let mapping = Mapping { at, length };
    let page = rustix::param::page_size();
    let mut pages = vec![0u8; length.div_ceil(page)];
    // SAFETY: the vector has a byte for each page of the mapping, which is what the kernel writes.
    if unsafe { libc::mincore(mapping.at, mapping.length, pages.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ranges(&pages, page as u64))
}

/// Bytes that one entry of the second level of page tables maps, with pages of 4 KiB.
pub const HUGE: u64 = 2 << 20;
/// Memory of a machine, in bytes, from which on pages of [`HUGE`] bytes are used: below, what is left over in each of them,
/// and 100 MB for Node.js's program, is more than can be spared.
const LARGE_MACHINE: u64 = 4 << 30;

/// Whether this machine has the memory for pages of [`HUGE`] bytes.
pub fn huge_pages_fit() -> bool {
    let mut info = std::mem::MaybeUninit::<libc::sysinfo>::uninit();
    // SAFETY: the kernel writes all of the structure, or nothing when it fails.
    let told = unsafe { libc::sysinfo(info.as_mut_ptr()) } == 0;
    if !told {
        return false;
    }
    // SAFETY: it has written all of it.
    let info = unsafe { info.assume_init() };
    info.totalram.saturating_mul(u64::from(info.mem_unit)) >= LARGE_MACHINE
}

/// Reads a range of a file into the page cache in pages of [`HUGE`] bytes, where kernel and file system can: EROFS does
/// since Linux 6.2 for files that are not compressed, and the kernel needs `CONFIG_TRANSPARENT_HUGEPAGE`. Whoever maps the
/// file at addresses that are the same as its offsets, modulo [`HUGE`], maps each with one entry then. What is in the page
/// cache already stays as it is. Blocks until all is read.
///
/// # Errors
/// What mmap(2) and madvise(2) say; `EIO` when the file cannot be read.
pub fn read_huge(file: impl AsFd, range: Range<u64>) -> io::Result<()> {
    let first = range.start / HUGE * HUGE;
    let Some(length) = range.end.checked_sub(first).filter(|length| *length > 0) else { return Ok(()) };
    let length = usize::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    let offset = libc::off_t::try_from(first).map_err(|_| io::ErrorKind::InvalidInput)?;
    let spare = HUGE as usize;
    let reserved = length.checked_add(spare).ok_or(io::ErrorKind::InvalidInput)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory that is in use.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), reserved, libc::PROT_NONE, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let mapping = Mapping { at, length: reserved };
    let at = mapping.at.wrapping_byte_add(mapping.at.align_offset(spare));
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    // SAFETY: it takes the place of a part of the mapping above: that is longer by what aligning takes at most.
    let placed = unsafe { libc::mmap(at, length, libc::PROT_READ, flags, file.as_fd().as_raw_fd(), offset) };
    if placed == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // Without the second, reading ahead goes on in small pages.
    for advice in [libc::MADV_HUGEPAGE, libc::MADV_RANDOM, libc::MADV_POPULATE_READ] {
        // SAFETY: the range was just mapped, and none of these changes what can be read there.
        if unsafe { libc::madvise(at, length, advice) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The lowest bit of each byte says that its page is resident (mincore(2)).
fn ranges(pages: &[u8], page: u64) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (at, _) in (0u64..).zip(pages).filter(|(_, bits)| **bits & 1 == 1) {
        match ranges.last_mut() {
            Some(last) if last.end == at * page => last.end += page,
            _ => ranges.push(at * page..(at + 1) * page),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn pages_next_to_each_other_are_one_range() {
        assert_eq!(ranges(&[1, 0, 3, 1, 0, 2, 1], 10), [0..10, 20..40, 60..70]);
        assert_eq!(ranges(&[], 10), []);
    }

    #[test]
    fn what_was_just_written_is_resident() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 10_000]).unwrap();
        let page = rustix::param::page_size() as u64;
        let expected = 0..10_000u64.next_multiple_of(page);
        assert_eq!(resident(&file, 10_000).unwrap(), [expected]);
        assert_eq!(resident(&file, 0).unwrap(), []);
        assert!(resident(&file, u64::MAX).is_err());
    }

    #[test]
    fn a_range_is_resident_once_it_was_read() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 3 << 20]).unwrap();
        // What waits to be written cannot be forgotten, and a file system that has nothing but memory forgets nothing.
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let before = resident(&file, 3 << 20).unwrap();
        let is_on_disk = rustix::fs::fstatfs(&file).unwrap().f_type != libc::TMPFS_MAGIC;
        assert!(before.is_empty() || !is_on_disk, "{before:?}");
        // A kernel without huge pages says so; the page cache of a temporary file may have them or not.
        match read_huge(&file, HUGE + 4096..3 << 20) {
            Ok(()) => {
                let last = resident(&file, 3 << 20).unwrap().pop().unwrap();
                assert!(last.start <= HUGE && last.end == 3 << 20, "{last:?}");
            }
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}"),
        }
        read_huge(&file, 0..0).unwrap();
        assert!(read_huge(&file, 0..u64::MAX).is_err());
    }
}
