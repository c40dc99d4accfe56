//! Writing cpio archives as the kernel unpacks them ("newc"; see the kernel's `initramfs-buffer-format`).
//!
//! Nothing of the building machine shows in an archive: no owner, no time, no inode number, and of a file's mode only
//! whether it is executable.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::error::{FileError, at};

/// Everything in an archive begins at a multiple of this many bytes.
const ALIGNMENT: usize = 4;

/// An archive being written. [`finish`](Self::finish) ends it.
#[derive(Debug)]
pub struct Archive<W: Write> {
    out: W,
    folders: BTreeSet<PathBuf>,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// An empty archive that is written to `out`.
    pub fn new(out: W) -> Self {
        Self { out, folders: [PathBuf::new()].into(), inode: 0 }
    }

    /// Adds the device that the first process finds as its standard output.
    ///
    /// # Errors
    /// What writing gave.
    pub fn console(&mut self) -> io::Result<()> {
        self.folder(Path::new("dev"))?;
        self.entry("dev/console", 0o020_600, 0, (5, 1))
    }

    /// Adds a file of this machine at `to`, with the folders above it.
    ///
    /// # Errors
    /// A file that cannot be read, is too large for the format or changes meanwhile; what writing gave.
    pub fn file(&mut self, from: &Path, to: &Path) -> Result<(), FileError> {
        let mut file = File::open(from).map_err(at("open", from))?;
        let metadata = file.metadata().map_err(at("inspect", from))?;
        let executable = metadata.permissions().mode() & 0o111 != 0;
        self.content(to, executable, metadata.len(), &mut file).map_err(at("archive", from))
    }

    /// Adds a file with this content.
    ///
    /// # Errors
    /// Content that is too large for the format; what writing gave.
    pub fn bytes(&mut self, to: &Path, executable: bool, bytes: &[u8]) -> io::Result<()> {
        self.content(to, executable, bytes.len() as u64, &mut { bytes })
    }

    fn content(&mut self, to: &Path, executable: bool, size: u64, from: &mut impl Read) -> io::Result<()> {
        let to = to.strip_prefix("/").unwrap_or(to);
        self.folder(to.parent().unwrap_or(Path::new("")))?;
        let size = u32::try_from(size).map_err(|_| io::Error::other("it is too large for a cpio archive"))?;
        let mode = if executable { 0o100_755 } else { 0o100_644 };
        self.entry(&to.to_string_lossy(), mode, size, (0, 0))?;
        let copied = io::copy(&mut from.take(u64::from(size)), &mut self.out)?;
        if copied != u64::from(size) {
            return Err(io::Error::other("it changed while it was read"));
        }
        self.pad(size as usize)
    }

    /// Adds a folder's files at the place where they are on this machine.
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn tree(&mut self, from: &Path) -> Result<(), FileError> {
        let entries = std::fs::read_dir(from).map_err(at("list", from))?;
        let mut entries = entries.collect::<io::Result<Vec<_>>>().map_err(at("list", from))?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            if entry.file_type().map_err(at("inspect", &entry.path()))?.is_dir() {
                self.tree(&entry.path())?;
            } else {
                self.file(&entry.path(), &entry.path())?;
            }
        }
        Ok(())
    }

    fn folder(&mut self, path: &Path) -> io::Result<()> {
        if self.folders.contains(path) {
            return Ok(());
        }
        self.folder(path.parent().unwrap_or(Path::new("")))?;
        self.folders.insert(path.to_owned());
        self.entry(&path.to_string_lossy(), 0o040_755, 0, (0, 0))
    }

    fn entry(&mut self, name: &str, mode: u32, size: u32, device: (u32, u32)) -> io::Result<()> {
        self.inode += 1;
        let fields = [
            self.inode,
            mode,
            0, // owner
            0, // group
            1, // links
            0, // time of change
            size,
            0, // device it is on
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0, // check sum, unused
        ];
        self.out.write_all(b"070701")?;
        for field in fields {
            write!(self.out, "{field:08X}")?;
        }
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(6 + 8 * fields.len() + name.len() + 1)
    }

    fn pad(&mut self, length: usize) -> io::Result<()> {
        self.out.write_all(&[0; ALIGNMENT - 1][..length.next_multiple_of(ALIGNMENT) - length])
    }

    /// Ends the archive and gives what it was written to.
    ///
    /// # Errors
    /// What writing gave.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, 0, (0, 0))?;
        self.out.flush()?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, modes and contents of an archive's entries, read as the kernel's documentation says.
    fn entries(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut rest = archive;
        while !rest.is_empty() {
            assert_eq!(&rest[..6], b"070701");
            let field = |n: usize| {
                let digits = std::str::from_utf8(&rest[6 + 8 * n..14 + 8 * n]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let (mode, size, name) = (field(1), field(6) as usize, field(11) as usize);
            let content = (110 + name).next_multiple_of(4);
            let text = String::from_utf8(rest[110..110 + name - 1].to_vec()).unwrap();
            entries.push((text, mode, rest[content..content + size].to_vec()));
            rest = &rest[(content + size).next_multiple_of(4)..];
        }
        entries
    }

    #[test]
    fn folders_come_before_their_files_and_modes_are_only_executable_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("program");
        std::fs::write(&file, "12345").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4700)).unwrap();
        let mut archive = Archive::new(Vec::new());
        archive.console().unwrap();
        archive.file(&file, Path::new("/usr/bin/program")).unwrap();
        archive.bytes(Path::new("usr/text"), false, b"t").unwrap();
        let found = entries(&archive.finish().unwrap());
        let expected: [(&str, u32, &[u8]); 7] = [
            ("dev", 0o040_755, b""),
            ("dev/console", 0o020_600, b""),
            ("usr", 0o040_755, b""),
            ("usr/bin", 0o040_755, b""),
            ("usr/bin/program", 0o100_755, b"12345"),
            ("usr/text", 0o100_644, b"t"),
            ("TRAILER!!!", 0, b""),
        ];
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!((found.0.as_str(), found.1, found.2.as_slice()), expected);
        }
        assert_eq!(found.len(), expected.len());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let mut archive = Archive::new(Vec::new());
        let error = archive.file(Path::new("/nonexistent/x"), Path::new("x")).unwrap_err();
        assert_eq!(error.to_string(), "cannot open /nonexistent/x");
    }
}
