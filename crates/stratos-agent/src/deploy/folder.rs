//! An unpacked function: its files, read without ever leaving the folder.
//!
//! A package may hold symlinks, and a chain of them can point anywhere. Every name is therefore resolved by the kernel
//! beneath the folder (openat2, `RESOLVE_BENEATH`): a name that leads out on its way is no file here. What is read so is
//! what pip and npm read in the sandbox, where the folder lies elsewhere. Walks never follow a link.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use stratos_types::spec::SpecError;

use super::error::DeployError;

/// Most bytes of a file that is read as text; lock files are the largest.
const MAX_TEXT: u64 = 16 << 20;
/// Most bytes of a file that is parsed as values of any kind, which take many times the memory of their text.
const MAX_SETTINGS: u64 = 1 << 20;
/// Most bytes of a function with its dependencies.
const MAX_RESOLVED_BYTES: u64 = 1 << 30;
/// Most files and folders of a function with its dependencies.
const MAX_RESOLVED_ENTRIES: usize = 250_000;

/// A function's folder on the node.
pub(super) struct Folder {
    path: PathBuf,
    fd: OwnedFd,
}

/// One file at the top of the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopFile {
    /// Its x bit.
    pub executable: bool,
    /// It starts as an ELF file does.
    pub elf: bool,
}

/// A function with its dependencies is too large.
#[derive(Debug, thiserror::Error)]
pub(super) enum TidyError {
    #[error("the function with its dependencies holds more than {limit}")]
    TooLarge { limit: &'static str },
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Folder {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), fd: File::open(path)?.into() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn open_file(&self, name: &str) -> io::Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        match openat2(self.fd.as_fd(), name, flags, Mode::empty(), ResolveFlags::BENEATH) {
            Ok(fd) => {
                let file = File::from(fd);
                Ok(file.metadata()?.is_file().then_some(file))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// True when there is a regular file of this name, also behind a link that stays inside.
    pub(super) fn has_file(&self, name: &str) -> io::Result<bool> {
        Ok(self.open_file(name)?.is_some())
    }

    /// True when the file has an x bit.
    pub(super) fn is_executable(&self, name: &str) -> io::Result<bool> {
        let Some(file) = self.open_file(name)? else { return Ok(false) };
        Ok(file.metadata()?.permissions().mode() & 0o111 != 0)
    }

    /// A file's text; `None` when there is none, or when it is over 16 MiB or not UTF-8.
    pub(super) fn text(&self, name: &str) -> io::Result<Option<String>> {
        let Some(file) = self.open_file(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(MAX_TEXT + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_TEXT {
            return Ok(None);
        }
        Ok(String::from_utf8(bytes).ok())
    }

    /// The text of a file of settings, such as `package.json`; `None` when there is none, or when it is not UTF-8.
    /// Over 1 MiB it is refused.
    pub(super) fn settings(&self, name: &str) -> Result<Option<String>, DeployError> {
        let read = |source| DeployError::io("read", &self.path, source);
        let Some(file) = self.open_file(name).map_err(read)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(MAX_SETTINGS + 1).read_to_end(&mut bytes).map_err(read)?;
        if bytes.len() as u64 > MAX_SETTINGS {
            return Err(DeployError::Spec(SpecError {
                file: name.to_owned(),
                key: None,
                message: "is over 1 MiB".into(),
                hint: "keep settings in it only, and data in files of its own".into(),
            }));
        }
        Ok(String::from_utf8(bytes).ok())
    }

    /// The first bytes of a file, at most `most`; empty when there is no such file.
    pub(super) fn head(&self, name: &str, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some(file) = self.open_file(name)? {
            file.take(most).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }

    /// The files at the top, by name.
    pub(super) fn top_files(&self) -> io::Result<BTreeMap<String, TopFile>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.path)? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            if self.has_file(&name)? {
                let elf = self.head(&name, 4)? == *b"\x7fELF";
                files.insert(name.clone(), TopFile { executable: self.is_executable(&name)?, elf });
            }
        }
        Ok(files)
    }

    /// Makes every file readable and every folder searchable for any user, drops all other mode bits, and checks the
    /// size. Called when no job that could change the folder runs any more.
    pub(super) fn tidy(&self) -> Result<(), TidyError> {
        let (mut bytes, mut entries) = (0, 0);
        let mut folders = vec![self.path.clone()];
        fs::set_permissions(&self.path, Permissions::from_mode(0o755))?;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                entries += 1;
                if entries > MAX_RESOLVED_ENTRIES {
                    return Err(TidyError::TooLarge { limit: "250,000 files" });
                }
                // Neither `metadata` nor `file_type` of an entry follows a link.
                let metadata = entry.metadata()?;
                if metadata.is_symlink() {
                    continue;
                }
                let executable = metadata.permissions().mode() & 0o111 != 0;
                let mode = if metadata.is_dir() || executable { 0o755 } else { 0o644 };
                fs::set_permissions(entry.path(), Permissions::from_mode(mode))?;
                if metadata.is_dir() {
                    folders.push(entry.path());
                } else if metadata.is_file() {
                    bytes += metadata.len();
                } else {
                    fs::remove_file(entry.path())?;
                }
                if bytes > MAX_RESOLVED_BYTES {
                    return Err(TidyError::TooLarge { limit: "1 GiB" });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use stratos_api::{ApiError, ErrorCode};

    use super::*;

    #[test]
    fn names_that_lead_out_are_no_files() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), "outside").unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("a")).unwrap();
        fs::write(root.join("file"), "inside").unwrap();
        for (target, link) in [
            ("..", "a/up"),
            ("a/up/../secret", "chain"),
            ("/etc/hostname", "absolute"),
            ("a/../file", "within"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        let folder = Folder::open(&root).unwrap();
        for (name, expected) in [
            ("file", Some("inside")),
            ("within", Some("inside")),
            ("a/up/file", Some("inside")),
            ("chain", None),
            ("absolute", None),
            ("../secret", None),
            ("a", None),
            ("missing/file", None),
        ] {
            assert_eq!(folder.text(name).unwrap().as_deref(), expected, "{name}");
        }
        folder.tidy().unwrap();
        assert_eq!(fs::metadata(dir.path().join("secret")).unwrap().permissions().mode() & 0o777, 0o644);
    }
    #[test]
    fn settings_have_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert_eq!(folder.settings("package.json").unwrap(), None);
        let most = usize::try_from(MAX_SETTINGS).unwrap();
        fs::write(dir.path().join("package.json"), " ".repeat(most)).unwrap();
        assert_eq!(folder.settings("package.json").unwrap().unwrap().len(), most);
        fs::write(dir.path().join("package.json"), " ".repeat(most + 1)).unwrap();
        let error = ApiError::from(folder.settings("package.json").unwrap_err());
        assert_eq!((error.code, error.file.as_deref()), (ErrorCode::InvalidFunction, Some("package.json")));
        assert_eq!(folder.text("package.json").unwrap().unwrap().len(), most + 1);
    }
}
