//! Looking which pages of an image are in memory, and reading them in again.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{Advice, OFlags, fadvise};

use super::recording::{MAX_FILES, MAX_IMAGE_BYTES, MAX_RANGES, WarmFile};

/// Ranges with no more than this between them are read as one.
const GAP: u64 = 32 << 10;
/// What is read at once: as much as a device is asked for in one go.
const CHUNK: usize = 128 << 10;
/// Deepest folder of an image that is looked into.
const MAX_DEPTH: usize = 40;

/// What is resident of the files under `root`, the largest files first when there are too many. Ends early, with
/// `None`, when `stopped` says so.
pub(super) fn record(root: &Path, stopped: &dyn Fn() -> bool) -> io::Result<Option<Vec<WarmFile>>> {
    let mut files = Vec::new();
    let mut folders = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            if stopped() {
                return Ok(None);
            }
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() && depth < MAX_DEPTH {
                folders.push((entry.path(), depth + 1));
            } else if kind.is_file() {
                files.extend(resident(root, &entry.path())?);
            }
        }
    }
    files.sort_by_key(|file| std::cmp::Reverse(file.bytes()));
    let mut left = MAX_IMAGE_BYTES;
    files.retain(|file| {
        let fits = file.bytes() <= left;
        left -= if fits { file.bytes() } else { 0 };
        fits
    });
    files.truncate(MAX_FILES);
    Ok(Some(files))
}

/// What is resident of one file; `None` for nothing, and for names that are not text.
fn resident(root: &Path, path: &Path) -> io::Result<Option<WarmFile>> {
    let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str) else { return Ok(None) };
    let file = open(path)?;
    let length = file.metadata()?.len();
    let ranges = joined(stratos_sys::pages::resident(&file, length)?);
    Ok((!ranges.is_empty()).then(|| WarmFile { path: name.to_owned(), ranges }))
}

/// Fewer and longer ranges. Of too many, the first are kept.
fn joined(ranges: Vec<Range<u64>>) -> Vec<(u64, u64)> {
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.1 + GAP => last.1 = range.end,
            _ => joined.push((range.start, range.end)),
        }
    }
    joined.truncate(MAX_RANGES);
    joined
}

/// Opens what is in an image: never a link out of it, nor what blocks.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    File::options().read(true).custom_flags(flags).open(path)
}

/// Reads the ranges of a file under `root` into the page cache; gives how many bytes there were, at most `most`.
///
/// Read and thrown away, a piece at a time: asking the kernel to read ahead would queue it all at once, before what a
/// request may want next.
pub(super) fn replay(root: &Path, file: &WarmFile, most: u64, stopped: &dyn Fn() -> bool) -> io::Result<u64> {
    let opened = open(&root.join(&file.path))?;
    // The ranges are what was used: nothing around them is.
    fadvise(&opened, 0, None, Advice::Random)?;
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    for (from, to) in &file.ranges {
        let mut at = *from;
        while at < *to && done < most && !stopped() {
            let wanted = usize::try_from(*to - at).unwrap_or(CHUNK).min(CHUNK);
            match opened.read_at(&mut buffer[..wanted], at) {
                Ok(0) => break,
                Ok(read) => {
                    at += read as u64;
                    done += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_gaps_are_closed() {
        let page = |from: u64, to: u64| from * 4096..to * 4096;
        let ranges = joined(vec![page(0, 2), page(4, 5), page(100, 101)]);
        assert_eq!(ranges, [(0, 5 * 4096), (100 * 4096, 101 * 4096)]);
        let many = (0..1000).map(|i| page(i * 100, i * 100 + 1)).collect();
        assert_eq!(joined(many).len(), MAX_RANGES);
    }

    #[test]
    fn what_is_resident_is_recorded_and_can_be_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("usr/lib")).unwrap();
        std::fs::write(root.join("usr/lib/a"), vec![1; 300_000]).unwrap();
        std::fs::write(root.join("empty"), "").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
        let going_on = || false;
        let files = record(root, &going_on).unwrap().unwrap();
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].path, "usr/lib/a");
        // The last page is not whole.
        assert_eq!(replay(root, &files[0], u64::MAX, &going_on).unwrap(), 300_000);
        assert_eq!(replay(root, &files[0], 1, &going_on).unwrap(), CHUNK as u64);
        assert_eq!(replay(root, &files[0], u64::MAX, &|| true).unwrap(), 0);
        assert!(record(root, &|| true).unwrap().is_none());
        let link = WarmFile { path: "link".into(), ranges: vec![(0, 10)] };
        assert!(replay(root, &link, 10, &going_on).is_err());
    }
}
