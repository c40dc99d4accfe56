//! Packs a function's folder: a tar archive, compressed with zstd, the same bytes for the same content.
//!
//! Entries are in order of their paths, owned by nobody in particular, dated 1970; of the mode only the executable
//! bit is kept. Symbolic links stay links: whether they may lead where they lead is the node's decision.

pub(crate) mod ignore;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};
use ignore::Ignore;

/// A packed folder.
#[derive(Debug)]
pub(crate) struct Package {
    /// The archive.
    pub(crate) bytes: Vec<u8>,
    /// How many files it holds.
    pub(crate) files: usize,
    /// Their size before compression, in bytes.
    pub(crate) unpacked: u64,
    /// Paths that are neither file, folder nor symbolic link, and so were left out.
    pub(crate) skipped: Vec<String>,
}

/// An entry that belongs into the package.
struct Entry {
    /// Relative to the folder, with `/`.
    path: String,
    on_disk: PathBuf,
    kind: Kind,
}

enum Kind {
    Folder,
    File,
    Link,
    Other,
}

/// Packs `dir`.
pub(crate) fn pack(dir: &Path) -> Result<Package> {
    let entries = list(dir)?;
    let encoder =
        zstd::Encoder::new(Vec::new(), 3).map_err(|e| Failure::new("cannot start zstd").because(&e))?;
    let mut archive = tar::Builder::new(encoder);
    let mut package = Package { bytes: Vec::new(), files: 0, unpacked: 0, skipped: Vec::new() };
    for entry in entries {
        let failed =
            |e: io::Error| Failure::new(format!("cannot pack {}", entry.on_disk.display())).because(&e);
        append(&mut archive, &entry, &mut package).map_err(failed)?;
    }
    let finish = |archive: tar::Builder<zstd::Encoder<'_, Vec<u8>>>| archive.into_inner()?.finish();
    package.bytes = finish(archive).map_err(|e| Failure::new("cannot finish the package").because(&e))?;
    Ok(package)
}

/// Every folder of the package, `dir` among them: what a watcher has to look at.
pub(crate) fn folders(dir: &Path) -> Result<Vec<PathBuf>> {
    let below = list(dir)?.into_iter().filter(|e| matches!(e.kind, Kind::Folder)).map(|e| e.on_disk);
    Ok(std::iter::once(dir.to_owned()).chain(below).collect())
}

fn append<W: Write>(archive: &mut tar::Builder<W>, entry: &Entry, package: &mut Package) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    match entry.kind {
        Kind::Folder => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            archive.append_data(&mut header, format!("{}/", entry.path), io::empty())
        }
        Kind::File => {
            // Read whole first: its size stands before its content, and it may change while it is read.
            let content = fs::read(&entry.on_disk)?;
            let executable = fs::metadata(&entry.on_disk)?.permissions().mode() & 0o111 != 0;
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(if executable { 0o755 } else { 0o644 });
            header.set_size(content.len() as u64);
            package.files += 1;
            package.unpacked += content.len() as u64;
            archive.append_data(&mut header, &entry.path, content.as_slice())
        }
        Kind::Link => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            archive.append_link(&mut header, &entry.path, fs::read_link(&entry.on_disk)?)
        }
        Kind::Other => {
            package.skipped.push(entry.path.clone());
            Ok(())
        }
    }
}

/// Everything in `dir` that belongs into the package, each folder before what it holds.
fn list(dir: &Path) -> Result<Vec<Entry>> {
    let own = match fs::read_to_string(dir.join(ignore::FILE_NAME)) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(unreadable(&dir.join(ignore::FILE_NAME), &e)),
    };
    let ignore = Ignore::new(&own);
    let mut entries = Vec::new();
    walk(dir, "", &ignore, &mut entries)?;
    Ok(entries)
}

fn walk(dir: &Path, prefix: &str, ignore: &Ignore, entries: &mut Vec<Entry>) -> Result<()> {
    let read = || -> io::Result<Vec<fs::DirEntry>> { fs::read_dir(dir)?.collect() };
    let mut children = read().map_err(|e| unreadable(dir, &e))?;
    children.sort_by_key(fs::DirEntry::file_name);
    for child in children {
        let on_disk = child.path();
        let Ok(name) = child.file_name().into_string() else {
            return Err(Failure::new(format!("the name of {} is not UTF-8", on_disk.display()))
                .hint(format!("rename it, or leave it out with {}", ignore::FILE_NAME)));
        };
        let path = format!("{prefix}{name}");
        let kind = child.file_type().map_err(|e| unreadable(&on_disk, &e))?;
        if ignore.leaves_out(&path, kind.is_dir().then_some(on_disk.as_path())) {
            continue;
        }
        let kind = match kind {
            k if k.is_dir() => Kind::Folder,
            k if k.is_file() => Kind::File,
            k if k.is_symlink() => Kind::Link,
            _ => Kind::Other,
        };
        let below = matches!(kind, Kind::Folder).then(|| (on_disk.clone(), format!("{path}/")));
        entries.push(Entry { path, on_disk, kind });
        if let Some((dir, prefix)) = below {
            walk(&dir, &prefix, ignore, entries)?;
        }
    }
    Ok(())
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("cannot read {}", path.display())).because(error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The archive's entries: mode, path, and link target or content.
    fn entries(package: &Package) -> Vec<String> {
        let tar = zstd::decode_all(package.bytes.as_slice()).unwrap();
        let mut archive = tar::Archive::new(tar.as_slice());
        let mut lines = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
            let mode = header.mode().unwrap();
            let path = entry.path().unwrap().display().to_string();
            let link = entry.link_name().unwrap().map(|l| format!("-> {}", l.display()));
            let mut content = String::new();
            io::Read::read_to_string(&mut entry, &mut content).unwrap();
            lines.push(format!("{mode:o} {path} {}", link.unwrap_or(content)).trim_end().to_owned());
        }
        lines
    }

    fn make(dir: &Path, names: &[&str]) {
        for name in names {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
    }

    #[test]
    fn a_package_holds_what_it_should_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let names = [
            "index.js",
            "lib/b.js",
            "lib/a.js",
            "package-lock.json",
            "node_modules/x/index.js",
            ".git/HEAD",
            "lib/__pycache__/a.pyc",
            "note.txt",
            ".stratosignore",
        ];
        make(dir.path(), &names);
        fs::write(dir.path().join(".stratosignore"), "*.txt\n").unwrap();
        make(dir.path(), &["run"]);
        fs::set_permissions(dir.path().join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("../index.js", dir.path().join("lib/link")).unwrap();
        symlink("lib", dir.path().join("folder-link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("pipe"), 0o600.into()).unwrap();
        let package = pack(dir.path()).unwrap();
        assert_eq!(
            entries(&package),
            [
                "777 folder-link -> lib",
                "644 index.js index.js",
                "755 lib/",
                "644 lib/a.js lib/a.js",
                "644 lib/b.js lib/b.js",
                "777 lib/link -> ../index.js",
                "644 package-lock.json package-lock.json",
                "755 run run",
            ]
        );
        assert_eq!((package.files, package.skipped.as_slice()), (5, &["pipe".to_owned()][..]));
        assert_eq!(folders(dir.path()).unwrap(), [dir.path().to_owned(), dir.path().join("lib")]);
    }

    #[test]
    fn the_same_content_is_the_same_package() {
        let make_one = |names: &[&str]| {
            let dir = tempfile::tempdir().unwrap();
            make(dir.path(), names);
            pack(dir.path()).unwrap().bytes
        };
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
        assert_eq!(make_one(&["a", "b/c", &long]), make_one(&[&long, "b/c", "a"]));
    }
}
