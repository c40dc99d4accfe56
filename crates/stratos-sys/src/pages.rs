//! Which pages of a file are in memory.

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
}
