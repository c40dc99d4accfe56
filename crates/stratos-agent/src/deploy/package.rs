//! The uploaded package: a tar archive of a function's folder, unpacked into a fresh folder.
//!
//! The archive comes from outside. Every entry passes [`check_entry`] before anything is made of it, nothing is ever
//! written through a symlink, and reading stops at the limits, whatever the archive claims about its size.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use tar::{Archive, EntryType};

use super::package_entry::{CheckedEntry, Kind, check_built_entry, check_entry};

/// Most bytes of all files together; AWS Lambda's limit is the same.
pub const MAX_BYTES: u64 = 250 << 20;
/// Most entries.
pub const MAX_ENTRIES: usize = 50_000;
/// Most bytes and entries of the code of an artifact, which has its dependencies with it.
pub(super) const MAX_BUILT: Limits = Limits { bytes: 1 << 30, entries: 250_000 };
const MAX_PACKAGE: Limits = Limits { bytes: MAX_BYTES, entries: MAX_ENTRIES };
/// Most bytes of one extended header (long names, PAX records).
const MAX_EXTENSION: u64 = 64 << 10;
/// What headers and padding may add to the files' bytes before the archive counts as a bomb.
const MAX_OVERHEAD: u64 = 128 << 20;

/// How much an archive may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) bytes: u64,
    pub(super) entries: usize,
}

/// Why a package is refused.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// One entry is not allowed.
    #[error("`{entry}` {problem}")]
    Entry {
        /// The entry's path, as far as it can be shown.
        entry: String,
        /// What is wrong with it.
        problem: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
    /// It is over a limit.
    #[error("the package holds more than {limit}")]
    TooLarge {
        /// The limit with its unit.
        limit: String,
    },
    /// It is no tar archive.
    #[error("the package is not a tar archive")]
    Format {
        /// What it seems to be, and what to do.
        hint: &'static str,
    },
    /// It breaks off or does not decompress.
    #[error("the package is damaged")]
    Damaged {
        /// What reading gave.
        source: io::Error,
    },
    /// It could not be read from or written to the node's disk.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Unpacks the archive at `archive` into the empty folder `into`.
///
/// # Errors
/// See [`PackageError`]; `into` then holds what was unpacked so far.
pub fn unpack(archive: &Path, into: &Path) -> Result<(), PackageError> {
    let file = File::open(archive).map_err(|source| io_error("open", archive, source))?;
    let reader = decompressed(BufReader::with_capacity(128 << 10, file))?;
    unpack_from(reader, into, MAX_PACKAGE, check_entry)
}

/// Unpacks the code of an artifact into the empty folder `into`.
///
/// # Errors
/// See [`PackageError`]; `into` then holds what was unpacked so far.
pub fn unpack_built(code: impl Read, into: &Path) -> Result<(), PackageError> {
    let reader = zstd::Decoder::new(code).map_err(damaged)?;
    unpack_from(reader, into, MAX_BUILT, check_built_entry)
}

type Check = fn(&[u8], EntryType, u32, Option<&[u8]>) -> Result<CheckedEntry, PackageError>;

fn io_error(action: &'static str, path: &Path, source: io::Error) -> PackageError {
    PackageError::Io { action, path: path.to_owned(), source }
}

/// Reads through whatever compression the first bytes tell.
fn decompressed(mut file: impl BufRead + 'static) -> Result<Box<dyn Read>, PackageError> {
    let damaged = |source| PackageError::Damaged { source };
    let head = file.fill_buf().map_err(damaged)?;
    Ok(match head {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(file).map_err(damaged)?),
        [b'P', b'K', 3 | 5, ..] => {
            return Err(PackageError::Format {
                hint: "it is a zip archive; send the folder as tar, tar.gz or tar.zst",
            });
        }
        [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', ..] => {
            return Err(PackageError::Format { hint: "compress it with gzip or zstd, or not at all" });
        }
        _ if head.get(257..262) == Some(b"ustar") => Box::new(file),
        [] => return Err(PackageError::Format { hint: "it is empty" }),
        _ => return Err(PackageError::Format { hint: "send the folder as tar, tar.gz or tar.zst" }),
    })
}

/// Ends the reading of a bomb.
struct Limited<R> {
    inner: R,
    left: u64,
}

/// Marks the error by which [`Limited`] ends the reading.
#[derive(Debug, thiserror::Error)]
#[error("the archive is over its limit")]
struct OverLimit;

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(n as u64).ok_or_else(|| io::Error::other(OverLimit))?;
        Ok(n)
    }
}

fn too_many_bytes(limits: Limits) -> PackageError {
    PackageError::TooLarge { limit: format!("{} MiB", limits.bytes >> 20) }
}

fn damaged(source: io::Error) -> PackageError {
    PackageError::Damaged { source }
}

fn unpack_from(reader: impl Read, into: &Path, limits: Limits, check: Check) -> Result<(), PackageError> {
    let limited = Limited { inner: reader, left: limits.bytes + MAX_OVERHEAD };
    unpack_entries(limited, into, limits, check).map_err(|error| match error {
        PackageError::Damaged { source } if source.get_ref().is_some_and(|e| e.is::<OverLimit>()) => {
            too_many_bytes(limits)
        }
        error => error,
    })
}

fn unpack_entries(reader: impl Read, into: &Path, limits: Limits, check: Check) -> Result<(), PackageError> {
    let mut archive = Archive::new(reader);
    let mut unpacking = Unpacking { root: into, made: HashMap::new(), bytes: 0, limits };
    let mut long = Extensions::default();
    // Raw: the tar crate would read long names and PAX records into memory at whatever size they claim.
    for (count, entry) in archive.entries().map_err(damaged)?.raw(true).enumerate() {
        if count >= limits.entries * 2 || unpacking.made.len() > limits.entries {
            return Err(PackageError::TooLarge { limit: format!("{} entries", limits.entries) });
        }
        let mut entry = entry.map_err(damaged)?;
        let kind = entry.header().entry_type();
        if long.take_in(kind, &mut entry)? {
            continue;
        }
        let names = std::mem::take(&mut long);
        let path = names.path.unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let link = names.link.or_else(|| entry.header().link_name_bytes().map(|l| l.into_owned()));
        let mode = entry.header().mode().map_err(damaged)?;
        let checked = check(&path, kind, mode, link.as_deref())?;
        unpacking.make(checked, &mut entry)?;
    }
    Ok(())
}

/// What extended headers say about the entry that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Extensions {
    /// True when the entry was an extended header and not one of the package.
    fn take_in(&mut self, kind: EntryType, entry: &mut impl Read) -> Result<bool, PackageError> {
        if !matches!(
            kind,
            EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader | EntryType::XGlobalHeader
        ) {
            return Ok(false);
        }
        let mut bytes = Vec::new();
        let read = entry.take(MAX_EXTENSION + 1).read_to_end(&mut bytes).map_err(damaged)?;
        if read as u64 > MAX_EXTENSION {
            return Err(PackageError::TooLarge { limit: "64 KiB in one extended header".into() });
        }
        let until_nul = |bytes: &[u8]| bytes.split(|b| *b == 0).next().unwrap_or_default().to_vec();
        match kind {
            EntryType::GNULongName => self.path = Some(until_nul(&bytes)),
            EntryType::GNULongLink => self.link = Some(until_nul(&bytes)),
            EntryType::XHeader => {
                for record in tar::PaxExtensions::new(&bytes) {
                    let record = record.map_err(damaged)?;
                    match record.key_bytes() {
                        b"path" => self.path = Some(record.value_bytes().to_vec()),
                        b"linkpath" => self.link = Some(record.value_bytes().to_vec()),
                        // The header's own size is what is read; a file it cannot state is over the limit anyway.
                        _ => {}
                    }
                }
            }
            // A global header speaks of the archive, not of a file.
            _ => {}
        }
        Ok(true)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    Dir,
    File,
    Symlink,
}

struct Unpacking<'a> {
    root: &'a Path,
    /// What is there by now. A path is written to only when all its parents are folders made here.
    made: HashMap<String, Made>,
    bytes: u64,
    limits: Limits,
}

impl Unpacking<'_> {
    fn make(&mut self, entry: CheckedEntry, content: &mut impl Read) -> Result<(), PackageError> {
        let CheckedEntry { path, kind } = entry;
        if path.is_empty() {
            return Ok(());
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.make_parents(parent, &path)?;
        }
        let at = self.root.join(&path);
        let made = match kind {
            Kind::Dir if self.made.get(&path) == Some(&Made::Dir) => return Ok(()),
            _ if self.made.contains_key(&path) => {
                return Err(refused(&path, "is in the package twice", "make the archive again"));
            }
            Kind::Dir => {
                fs::create_dir(&at).map_err(|e| io_error("create", &at, e))?;
                Made::Dir
            }
            Kind::File { executable } => {
                self.write(&at, executable, content)?;
                Made::File
            }
            Kind::Symlink { target } => {
                symlink(target, &at).map_err(|e| io_error("create", &at, e))?;
                Made::Symlink
            }
            Kind::HardLink { target } => {
                if self.made.get(&target) != Some(&Made::File) {
                    let hint = "put a copy of the file into the package";
                    return Err(refused(&path, "is a hard link to no file of the package", hint));
                }
                let target = self.root.join(target);
                fs::hard_link(&target, &at).map_err(|e| io_error("link", &at, e))?;
                Made::File
            }
        };
        self.made.insert(path, made);
        Ok(())
    }

    fn make_parents(&mut self, parent: &str, entry: &str) -> Result<(), PackageError> {
        match self.made.get(parent) {
            Some(Made::Dir) => return Ok(()),
            Some(_) => {
                return Err(refused(entry, "lies below a file or a link", "make the archive again"));
            }
            None => {}
        }
        if let Some((above, _)) = parent.rsplit_once('/') {
            self.make_parents(above, entry)?;
        }
        let at = self.root.join(parent);
        fs::create_dir(&at).map_err(|e| io_error("create", &at, e))?;
        self.made.insert(parent.to_owned(), Made::Dir);
        Ok(())
    }

    fn write(&mut self, at: &Path, executable: bool, content: &mut impl Read) -> Result<(), PackageError> {
        let mode = if executable { 0o755 } else { 0o644 };
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(at)
            .map_err(|e| io_error("create", at, e))?;
        let mut buffer = [0; 64 << 10];
        loop {
            let n = match content.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(damaged(e)),
            };
            self.bytes += n as u64;
            if self.bytes > self.limits.bytes {
                return Err(too_many_bytes(self.limits));
            }
            file.write_all(&buffer[..n]).map_err(|e| io_error("write", at, e))?;
        }
    }
}

fn refused(entry: &str, problem: &'static str, hint: &'static str) -> PackageError {
    PackageError::Entry { entry: entry.to_owned(), problem, hint }
}

#[cfg(test)]
#[path = "package_tests.rs"]
mod tests;
