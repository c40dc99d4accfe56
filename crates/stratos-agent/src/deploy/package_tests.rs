//! Evil archives, and the good ones beside them.

use tar::Header;

use super::*;

/// One entry as a tool would never write it: the name goes into the header's bytes as it is.
fn raw(path: &[u8], kind: EntryType, mode: u32, link: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_mut_bytes()[..path.len()].copy_from_slice(path);
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(path: &str, content: &str) -> Vec<u8> {
    raw(path.as_bytes(), EntryType::Regular, 0o644, b"", content.as_bytes())
}

fn run(bytes: &[u8]) -> (tempfile::TempDir, Result<(), PackageError>) {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("package");
    fs::write(&archive, bytes).unwrap();
    let into = dir.path().join("into");
    fs::create_dir(&into).unwrap();
    let result = unpack(&archive, &into);
    (dir, result)
}

fn whole(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

#[test]
fn entries_are_checked_by_name_kind_and_target() {
    use EntryType as T;
    let long = "a/".repeat(2100);
    let name = "n".repeat(256);
    let deep = "d/".repeat(100) + "f";
    let deepest = format!("{deep} File");
    let deeper = format!("d/{deep}");
    type Case<'a> = (&'a [u8], EntryType, Option<&'a [u8]>, &'a str);
    let cases: &[Case<'_>] = &[
        (b"index.js", T::Regular, None, "index.js File"),
        (b"./a//b/./c/", T::Directory, None, "a/b/c Dir"),
        (b"./", T::Directory, None, " Dir"),
        (b"a/..b", T::Regular, None, "a/..b File"),
        ("grüße/日本.js".as_bytes(), T::Regular, None, "grüße/日本.js File"),
        (b"a/link", T::Symlink, Some(b"../b"), "a/link Symlink"),
        (b"a/link", T::Symlink, Some(b"./../b/../c"), "a/link Symlink"),
        (b"a/hard", T::Link, Some(b"./b"), "a/hard HardLink"),
        (b"/etc/passwd", T::Regular, None, "`/etc/passwd` is an absolute path"),
        (b"../x", T::Regular, None, "`../x` leads out"),
        (b"a/../../x", T::Regular, None, "`a/../../x` leads out"),
        (b"a/..", T::Directory, None, "`a/..` leads out"),
        (b"a\0b", T::Regular, None, "`a\\0b` has a control character"),
        (b"a\x1b[2Jb", T::Regular, None, "has a control character"),
        (b"a\xffb", T::Regular, None, "is not UTF-8"),
        (long.as_bytes(), T::Regular, None, "more than 2048 bytes"),
        (deep.as_bytes(), T::Regular, None, &deepest),
        (deeper.as_bytes(), T::Regular, None, "more than 100 nested folders"),
        (deeper.as_bytes(), T::Directory, None, "more than 100 nested folders"),
        (name.as_bytes(), T::Regular, None, "more than 255 bytes"),
        (b"", T::Regular, None, "has no name"),
        (b".", T::Regular, None, "has no name"),
        (b".stratos/python/os.py", T::Regular, None, "fills itself"),
        (b"link", T::Symlink, Some(b"/etc/shadow"), "absolute path"),
        (b"link", T::Symlink, Some(b"../x"), "leads out of the package"),
        (b"a/link", T::Symlink, Some(b"../../x"), "leads out of the package"),
        (b"a/link", T::Symlink, Some(b"b/../../../x"), "leads out of the package"),
        (b"link", T::Symlink, Some(b""), "unusable target"),
        (b"link", T::Symlink, None, "link to nothing"),
        (b"hard", T::Link, Some(b"/etc/shadow"), "hard link out"),
        (b"hard", T::Link, Some(b"../x"), "hard link out"),
        (b"hard", T::Link, None, "hard link out"),
        (b"null", T::Char, None, "device or pipe"),
        (b"sda", T::Block, None, "device or pipe"),
        (b"pipe", T::Fifo, None, "device or pipe"),
        (b"sparse", T::GNUSparse, None, "of a kind"),
        (b"odd", T::new(b'Z'), None, "of a kind"),
    ];
    for (path, kind, link, expected) in cases {
        let shown = match check_entry(path, *kind, 0o777, *link) {
            Ok(entry) => {
                let kind = format!("{:?}", entry.kind);
                format!("{} {}", entry.path, kind.split([' ', '{']).next().unwrap())
            }
            Err(error) => error.to_string(),
        };
        assert!(
            shown == *expected || shown.starts_with('`') && shown.contains(expected),
            "{path:?}: {shown}"
        );
    }
}

#[test]
fn a_package_is_unpacked_in_any_compression() {
    let mut tool = tar::Builder::new(Vec::new());
    let mut add = |path: &str, mode: u32, content: &[u8]| {
        let mut header = Header::new_gnu();
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        tool.append_data(&mut header, path, content).unwrap();
    };
    let deep = format!("{}/file.txt", "folder/".repeat(30));
    add("index.mjs", 0o600, b"export const handler = 1");
    add("bin/tool", 0o4711, b"\x7fELF");
    add(&deep, 0o644, b"deep");
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Symlink);
    header.set_mode(0o777);
    header.set_size(0);
    tool.append_link(&mut header, "bin/link", "../index.mjs").unwrap();
    header.set_entry_type(EntryType::Link);
    tool.append_link(&mut header, "copy", "bin/tool").unwrap();
    let plain = tool.into_inner().unwrap();

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    for (what, bytes) in [("plain", plain), ("gzip", gzip), ("zstd", zstd)] {
        let (dir, result) = run(&bytes);
        result.unwrap_or_else(|e| panic!("{what}: {e}"));
        let at = |path: &str| dir.path().join("into").join(path);
        assert_eq!(fs::read(at("index.mjs")).unwrap(), b"export const handler = 1");
        assert_eq!(fs::read(at(&deep)).unwrap(), b"deep");
        assert_eq!(fs::read_link(at("bin/link")).unwrap(), Path::new("../index.mjs"));
        assert_eq!(fs::read(at("copy")).unwrap(), b"\x7fELF");
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &str| fs::metadata(at(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("index.mjs"), mode("bin/tool")), (0o644, 0o755));
    }
}

#[test]
fn pax_names_count_and_are_checked() {
    let record = |key: &str, value: &str| {
        let tail = format!(" {key}={value}\n");
        let mut length = tail.len() + 2;
        if length.to_string().len() != 2 {
            length += 1;
        }
        format!("{length}{tail}").into_bytes()
    };
    let named = |path: &str| {
        whole(&[raw(b"pax", EntryType::XHeader, 0o644, b"", &record("path", path)), file("short", "content")])
    };
    let (dir, result) = run(&named("from/pax"));
    result.unwrap();
    assert_eq!(fs::read(dir.path().join("into/from/pax")).unwrap(), b"content");
    let (dir, result) = run(&named("../../escaped"));
    assert!(result.unwrap_err().to_string().contains("leads out"));
    assert!(!dir.path().parent().unwrap().join("escaped").exists());
}

#[test]
fn nothing_is_written_through_a_link() {
    let outside = tempfile::tempdir().unwrap();
    // Each link's text stays inside; together they lead to the folder above.
    let chain = whole(&[
        raw(b"a/", EntryType::Directory, 0o755, b"", b""),
        raw(b"a/up", EntryType::Symlink, 0o777, b"..", b""),
        raw(b"out", EntryType::Symlink, 0o777, b"a/up/..", b""),
        file("out/escaped", "x"),
    ]);
    let over = whole(&[raw(b"l", EntryType::Symlink, 0o777, b"target", b""), file("l", "x")]);
    let below_file = whole(&[file("f", "x"), file("f/g", "y")]);
    let twice = whole(&[file("f", "x"), file("./f", "y")]);
    let hard_to_link = whole(&[
        raw(b"l", EntryType::Symlink, 0o777, b"target", b""),
        raw(b"h", EntryType::Link, 0o644, b"l", b""),
    ]);
    let cases = [
        ("chain of links", chain, "below a file or a link"),
        ("file over a link", over, "twice"),
        ("file below a file", below_file, "below a file or a link"),
        ("the same name twice", twice, "twice"),
        ("hard link to a link", hard_to_link, "no file of the package"),
    ];
    for (what, bytes, expected) in cases {
        let (dir, result) = run(&bytes);
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{what}: {error}");
        assert!(!dir.path().join("escaped").exists(), "{what}");
    }
    drop(outside);
}

#[test]
fn bombs_end_at_the_limit() {
    /// An archive of `count` entries with `size` zero bytes each, compressed as it is made.
    fn bomb(size: u64, count: usize, kind: EntryType) -> Vec<u8> {
        let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
        let zeros = vec![0; 1 << 20];
        for i in 0..count {
            let mut header = Header::new_ustar();
            header.set_path(format!("f{i}")).unwrap();
            header.set_entry_type(kind);
            header.set_mode(0o644);
            header.set_size(size);
            header.set_cksum();
            zstd.write_all(header.as_bytes()).unwrap();
            let mut left = size.next_multiple_of(512);
            while left > 0 {
                let n = left.min(zeros.len() as u64);
                zstd.write_all(&zeros[..n as usize]).unwrap();
                left -= n;
            }
        }
        zstd.finish().unwrap()
    }
    let cases = [
        ("one large file", bomb(MAX_BYTES + 1, 1, EntryType::Regular), "250 MiB"),
        ("many files", bomb(1, MAX_ENTRIES + 2, EntryType::Regular), "50000 entries"),
        ("a long long name", bomb(1 << 20, 1, EntryType::GNULongName), "64 KiB"),
        ("a long PAX record", bomb(1 << 20, 1, EntryType::XHeader), "64 KiB"),
        ("headers without files", bomb(512, MAX_ENTRIES * 2 + 2, EntryType::XGlobalHeader), "50000 entries"),
    ];
    for (what, bytes, limit) in cases {
        assert!(bytes.len() < 8 << 20, "{what} is small: {}", bytes.len());
        match run(&bytes).1 {
            Err(PackageError::TooLarge { limit: named }) => assert!(named.contains(limit), "{what}: {named}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn what_is_no_archive_is_told() {
    let good = whole(&[file("a", &"x".repeat(5000))]);
    let cut = good[..2000].to_vec();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&good).unwrap();
    let mut gzip = gzip.finish().unwrap();
    gzip.truncate(gzip.len() - 20);
    let cases: [(&str, Vec<u8>, &str); 6] = [
        ("nothing", vec![], "empty"),
        ("text", b"hello".repeat(200), "send the folder as tar"),
        ("zip", b"PK\x03\x04rest".to_vec(), "zip archive"),
        ("bzip2", b"BZh91AY".to_vec(), "gzip or zstd"),
        ("cut off", cut, "damaged"),
        ("cut off gzip", gzip, "damaged"),
    ];
    for (what, bytes, expected) in cases {
        let error = run(&bytes).1.err().unwrap_or_else(|| panic!("{what}: unpacked"));
        let said = match &error {
            PackageError::Format { hint } => format!("{error}: {hint}"),
            error => error.to_string(),
        };
        assert!(said.contains(expected), "{what}: {said}");
    }
}
