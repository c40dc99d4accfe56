//! Files with limits: nothing is read further than expected, and what is written is there whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::error::InitError;

/// Most bytes of a file of the kernel's: /proc, /sys.
pub const KERNEL_FILE: usize = 64 << 10;

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// When it cannot be read, or is longer.
pub fn read(path: impl AsRef<Path>, most: usize) -> Result<Vec<u8>, InitError> {
    let path = path.as_ref();
    let failed = |source: io::Error| InitError::file("read", path, source);
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > most {
        return Err(InitError::invalid(path.display().to_string(), format!("has more than {most} bytes")));
    }
    Ok(bytes)
}

/// Reads a text of at most `most` bytes.
///
/// # Errors
/// As [`read`], and when it is not UTF-8.
pub fn read_text(path: impl AsRef<Path>, most: usize) -> Result<String, InitError> {
    let path = path.as_ref();
    String::from_utf8(read(path, most)?)
        .map_err(|_| InitError::invalid(path.display().to_string(), "is not UTF-8"))
}

/// Reads one value of the kernel's, without its line end.
///
/// # Errors
/// As [`read_text`].
pub fn read_value(path: impl AsRef<Path>) -> Result<String, InitError> {
    let mut text = read_text(path, KERNEL_FILE)?;
    text.truncate(text.trim_end().len());
    Ok(text)
}

/// Writes a value to a file of the kernel's, in one call.
///
/// # Errors
/// When the file is not there or refuses the value.
pub fn write_value(path: impl AsRef<Path>, value: &str) -> Result<(), InitError> {
    let path = path.as_ref();
    let write = || OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes());
    write().map_err(|source| InitError::file("write", path, source))
}

/// Puts a file in place whole, on the disk, with permission bits `mode`.
///
/// # Errors
/// When the folder is not there or full; the file is then what it was.
pub fn replace(path: impl AsRef<Path>, bytes: &[u8], mode: u32) -> Result<(), InitError> {
    let path = path.as_ref();
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        // The bits of a file that a predecessor left stay as they were when it is opened.
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|source| InitError::file("write", path, source))
}

/// Makes a folder and those above it.
///
/// # Errors
/// When it cannot be made.
pub fn folder(path: impl AsRef<Path>) -> Result<(), InitError> {
    let path = path.as_ref();
    std::fs::create_dir_all(path).map_err(|source| InitError::file("make", path, source))
}

/// The names in a folder, sorted, at most `most`.
///
/// # Errors
/// When it cannot be listed, or has more.
pub fn names(path: impl AsRef<Path>, most: usize) -> Result<Vec<String>, InitError> {
    let path = path.as_ref();
    let failed = |source: io::Error| InitError::file("list", path, source);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        if names.len() == most {
            return Err(InitError::invalid(
                path.display().to_string(),
                format!("has more than {most} entries"),
            ));
        }
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "four\n").unwrap();
        assert_eq!(read_value(&path).unwrap(), "four");
        assert_eq!(read(&path, 5).unwrap(), b"four\n");
        assert!(read(&path, 4).unwrap_err().to_string().ends_with("has more than 4 bytes"));
    }

    #[test]
    fn a_file_is_replaced_with_its_permissions() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "old, and longer").unwrap();
        replace(&path, b"new", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(names(dir.path(), 1).unwrap(), ["f"]);
        assert!(replace(dir.path().join("no/f"), b"", 0o600).is_err());
    }
}
