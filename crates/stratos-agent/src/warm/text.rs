//! The code of a layer's large programs, in large pages.
//!
//! A program of some 100 MB such as Node.js touches thousands of pages of its file until it has answered once, and a
//! clone of a template copies an entry for each (1.2 of 6 ms measured, and a fresh start pays as many faults). In pages
//! of 2 MiB it is some fifty, and all instances share them, as before. They must be read this way before anything else
//! has read the file, so it is done when a layer is mounted.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use stratos_sys::pages::{HUGE, read_huge};

use crate::deploy::elf::{self, HEAD, Segment};

/// Where a layer has its programs.
const PROGRAMS: &str = "usr/bin";
/// Programs that are smaller are left as they are, and so are segments.
const LARGE: u64 = 2 * HUGE;

/// Reads the large programs of the layer that is mounted at `root`; gives how many bytes that were.
///
/// # Errors
/// What the kernel says: one without large pages, `EINVAL`. Starts work in any case.
pub(crate) fn read(root: &Path) -> io::Result<u64> {
    let entries = match fs::read_dir(root.join(PROGRAMS)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_file() && metadata.len() >= LARGE {
            bytes += read_program(&File::open(entry.path())?)?;
        }
    }
    Ok(bytes)
}

fn read_program(file: &File) -> io::Result<u64> {
    let mut head = vec![0; HEAD as usize];
    file.read_exact_at(&mut head, 0)?;
    let segments = elf::segments(&head).into_iter().filter(is_mapped_in_large_pages);
    let mut bytes = 0;
    for segment in segments {
        read_huge(file, segment.offset..segment.offset + segment.bytes)?;
        bytes += segment.bytes;
    }
    Ok(bytes)
}

/// Whether the kernel can map it so: file and memory must be divided alike. The head is that of a file of the layer, and
/// no segment is longer than what can be mapped.
fn is_mapped_in_large_pages(segment: &Segment) -> bool {
    let alike = segment.offset % HUGE == segment.address % HUGE;
    !segment.writable
        && alike
        && segment.bytes >= LARGE
        && segment.offset.checked_add(segment.bytes).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_large_and_alike_is_read() {
        let segment = |offset, address, bytes, writable| Segment { offset, address, bytes, writable };
        let cases = [
            // Those of Node.js 24.
            (segment(0x33d000, 0x73d000, 0x2a02974, false), true),
            (segment(0x2e01000, 0x3201000, 0x38df9d8, false), true),
            (segment(0x66e0e58, 0x6ae1e58, 0x2cac8, true), false),
            (segment(0, 0x400000, 0x33c2d0, false), false),
            (segment(0x1000, 0x2000, 8 << 20, false), false),
            (segment(0, 0, 8 << 20, true), false),
            (segment(u64::MAX - HUGE + 1, 0, u64::MAX / HUGE * HUGE, false), false),
        ];
        for (segment, expected) in cases {
            assert_eq!(is_mapped_in_large_pages(&segment), expected, "{segment:x?}");
        }
    }
}
