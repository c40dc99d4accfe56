//! The uploaded package.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use stratos_agent::deploy::{
    CheckedEntry, Kind, MAX_BYTES, MAX_ENTRIES, MAX_PATH, PackageError, check_built_entry, check_entry,
    unpack as unpack_package, unpack_built,
};
use tar::EntryType;

fn check_path(path: &str) {
    assert!(path.len() <= MAX_PATH);
    assert!(!path.contains(|c: char| c.is_control()), "{path:?}");
    let named = |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= 255;
    assert!(path.is_empty() || path.split('/').all(named), "{path:?}");
}

/// What is made of a package is never in the folder that StratOS fills itself.
fn check_made(path: &str) {
    check_path(path);
    assert_ne!(path.split('/').next(), Some(".stratos"));
}

/// That a link's text stays inside when it is followed from the folder of `path`.
fn check_link(path: &str, target: &str) {
    assert!(!target.is_empty() && !target.starts_with('/') && target.len() <= MAX_PATH, "{target:?}");
    let mut at: Vec<&str> = path.split('/').collect();
    at.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => assert!(at.pop().is_some(), "{path:?} -> {target:?} leads out"),
            part => at.push(part),
        }
    }
}

/// One entry: its type flag, a space, its mode in octal, and on lines of their own its path and its link's target.
pub fn package_entry(data: &[u8]) {
    let mut lines = data.splitn(3, |b| *b == b'\n');
    let Some((kind, mode)) = lines.next().and_then(<[u8]>::split_first) else { return };
    let mode = std::str::from_utf8(mode).ok().and_then(|mode| u32::from_str_radix(mode.trim(), 8).ok());
    let (path, link) = (lines.next().unwrap_or_default(), lines.next());
    let entry = match check_entry(path, EntryType::new(*kind), mode.unwrap_or(0o644), link) {
        Ok(entry) => entry,
        Err(error) => {
            assert!(error.to_string().len() < 4096, "{error}");
            return;
        }
    };
    let CheckedEntry { path, kind } = &entry;
    check_made(path);
    match kind {
        Kind::Dir => {}
        Kind::File { .. } => assert!(!path.is_empty()),
        Kind::Symlink { target } => check_link(path, target),
        Kind::HardLink { target } => check_path(target),
    }
    // What a package may hold, the code of an artifact may hold too.
    let built = check_built_entry(path.as_bytes(), EntryType::Directory, 0, None).expect("it was checked");
    assert_eq!(built.path, *path);
    // A cleaned path is clean.
    let again = check_entry(path.as_bytes(), EntryType::Directory, 0, None).expect("it was checked");
    assert_eq!(again.path, *path);
}

/// An archive as it comes over the wire.
pub fn unpack(data: &[u8]) {
    unpack_and_check(data);
}

/// An archive from a list, so that checksums are right and the entries themselves are what varies. The first line is
/// `plain`, `gzip` or `zstd`; each further one an entry: its type flag, a space, its mode in octal, a space, its path,
/// and after tabs its link's target and its content.
pub fn unpack_entries(data: &[u8]) {
    let mut lines = data.split(|b| *b == b'\n');
    let compression = lines.next().unwrap_or_default();
    let mut archive = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        add_entry(&mut archive, line);
    }
    archive.resize(archive.len() + 1024, 0);
    let packed = match compression {
        b"gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&archive).and_then(|()| encoder.finish()).expect("memory takes every write")
        }
        b"zstd" => zstd::encode_all(archive.as_slice(), 1).expect("memory takes every write"),
        _ => archive,
    };
    unpack_and_check(&packed);
}

fn add_entry(archive: &mut Vec<u8>, line: &[u8]) {
    let mut fields = line.splitn(3, |b| *b == b'\t');
    let head = fields.next().unwrap_or_default();
    let (link, content) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    let mut head = head.splitn(3, |b| *b == b' ');
    let kind = head.next().and_then(<[u8]>::first).copied().unwrap_or(b'0');
    let mode = head.next().and_then(|mode| std::str::from_utf8(mode).ok());
    let mode = mode.and_then(|mode| u32::from_str_radix(mode, 8).ok()).unwrap_or(0o644);
    let path = head.next().unwrap_or_default();
    let mut header = tar::Header::new_ustar();
    let old = header.as_old_mut();
    old.name[..path.len().min(100)].copy_from_slice(&path[..path.len().min(100)]);
    old.linkname[..link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
    header.set_entry_type(EntryType::new(kind));
    header.set_mode(mode);
    // A PAX record begins with its own length, which no mutation would get right.
    let mut records = Vec::new();
    let content = match (kind, content.iter().position(|b| *b == b'=')) {
        (b'x' | b'g', Some(_)) => {
            let mut length = content.len() + 3;
            length += length.to_string().len() - 1;
            records.extend_from_slice(format!("{length} ").as_bytes());
            records.extend_from_slice(content);
            records.push(b'\n');
            &records
        }
        _ => content,
    };
    header.set_size(content.len() as u64);
    header.set_cksum();
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

/// Unpacks into a folder beside others, as a package and as the code of an artifact, and looks at what is there afterwards.
fn unpack_and_check(package: &[u8]) {
    // In memory where that is possible: the folder is made and removed many thousand times.
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let dir = dir.expect("a temporary folder");
    let (into, built) = (dir.path().join("into"), dir.path().join("built"));
    for folder in [&into, &built] {
        fs::create_dir(folder).expect("a folder");
    }
    fs::write(dir.path().join("secret"), "outside").expect("a file");
    let archive = dir.path().join("package");
    fs::write(&archive, package).expect("a file");
    // The disk is fine; what an archive can bring about has to be told as the archive's fault.
    for unpacked in [unpack_package(&archive, &into), unpack_built(package, &built)] {
        if let Err(PackageError::Io { action, path, source }) = unpacked {
            panic!("cannot {action} {path:?}: {source}");
        }
    }
    let mut around: Vec<_> =
        fs::read_dir(dir.path()).expect("it is there").map(|e| e.expect("an entry").file_name()).collect();
    around.sort();
    assert_eq!(around, ["built", "into", "package", "secret"]);
    assert_eq!(fs::read(dir.path().join("secret")).expect("it is there"), b"outside");
    let mut all = Tally::default();
    check_tree(&into, "", check_made, &mut all);
    assert!(all.bytes <= MAX_BYTES);
    // One entry may bring the folders above it.
    assert!(all.entries <= MAX_ENTRIES + MAX_PATH / 2);
    check_tree(&built, "", check_path, &mut Tally::default());
}

#[derive(Default)]
struct Tally {
    entries: usize,
    bytes: u64,
}

fn check_tree(root: &Path, below: &str, check: fn(&str), all: &mut Tally) {
    for entry in fs::read_dir(root.join(below)).expect("a folder") {
        let entry = entry.expect("an entry");
        let mut path = below.to_owned();
        let slash = if below.is_empty() { "" } else { "/" };
        write!(path, "{slash}{}", entry.file_name().into_string().expect("UTF-8")).expect("a String");
        check(&path);
        let metadata = entry.metadata().expect("it is there");
        all.entries += 1;
        if metadata.is_dir() {
            check_tree(root, &path, check, all);
        } else if metadata.is_symlink() {
            let target = fs::read_link(entry.path()).expect("a link");
            check_link(&path, target.to_str().expect("UTF-8"));
        } else {
            assert!(metadata.is_file(), "{path:?}");
            assert_eq!(metadata.permissions().mode() & 0o7022, 0, "{path:?}");
            all.bytes += metadata.len();
        }
    }
}
