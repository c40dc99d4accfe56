//! The file: a header of 128 bytes, the metadata as JSON, the pages. Specified in docs/formats/checkpoint.md.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{Checkpoint, Invalid, PAGE};

const MAGIC: [u8; 8] = *b"STRATCKP";
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 128;
/// Most bytes of metadata. A Python process with pandas has some 0.5 MB.
pub const MOST_METADATA: u64 = 16 << 20;
/// Most bytes of pages: more than any function's memory.
const MOST_PAGES: u64 = 64 << 30;

/// Why a file is not used as an image.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It cannot be read or written.
    #[error("cannot {operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is no image, or one of another version.
    #[error("{} is not a checkpoint: {reason}", path.display())]
    Header {
        /// Which file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The digest of a part is another.
    #[error("the {part} of {} have another digest than its header says", path.display())]
    Digest {
        /// Which file.
        path: PathBuf,
        /// Which part.
        part: &'static str,
    },
    /// The metadata are no JSON of this format.
    #[error("the metadata of {} do not parse", path.display())]
    Metadata {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// The metadata contradict themselves.
    #[error("the metadata of {} make no sense", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: Invalid,
    },
}

/// The header, as fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    metadata_bytes: u64,
    pages_at: u64,
    pages_bytes: u64,
    metadata_digest: [u8; 32],
    pages_digest: [u8; 32],
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.metadata_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.pages_at.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.pages_bytes.to_le_bytes());
        bytes[40..72].copy_from_slice(&self.metadata_digest);
        bytes[72..104].copy_from_slice(&self.pages_digest);
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES], file_bytes: u64) -> Result<Self, String> {
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let digest_at = |at: usize| bytes[at..at + 32].try_into().expect("thirty-two bytes");
        if bytes[0..8] != MAGIC {
            return Err("it does not begin with its magic number".to_owned());
        }
        let version = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
        if version != VERSION {
            return Err(format!("it has version {version}, and this is for version {VERSION}"));
        }
        if bytes[12..16] != [0; 4] || bytes[104..] != [0; 24] {
            return Err("its reserved fields are not zero".to_owned());
        }
        let header = Self {
            metadata_bytes: u64_at(16),
            pages_at: u64_at(24),
            pages_bytes: u64_at(32),
            metadata_digest: digest_at(40),
            pages_digest: digest_at(72),
        };
        if header.metadata_bytes > MOST_METADATA || header.pages_bytes > MOST_PAGES {
            return Err("its parts are larger than allowed".to_owned());
        }
        let pages_at = (HEADER_BYTES as u64 + header.metadata_bytes).next_multiple_of(PAGE);
        if header.pages_at != pages_at || !header.pages_bytes.is_multiple_of(PAGE) {
            return Err("its parts do not lie where they should".to_owned());
        }
        if file_bytes != header.pages_at + header.pages_bytes {
            return Err(format!(
                "it has {file_bytes} bytes, and its header says {}",
                header.pages_at + header.pages_bytes
            ));
        }
        Ok(header)
    }
}

/// Writes an image, readable for its owner only, and brings it to the disk. `pages` writes the pages of all mappings in
/// their order.
///
/// # Errors
/// When it cannot be written; no file is left then.
pub fn write(
    path: &Path,
    checkpoint: &Checkpoint,
    pages: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> Result<(), FormatError> {
    let result = write_parts(path, checkpoint, pages);
    let result =
        result.map_err(|source| FormatError::File { operation: "write", path: path.to_owned(), source });
    if result.is_err()
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::debug!(path = %path.display(), %error, "cannot remove half a checkpoint");
    }
    result
}

fn write_parts(
    path: &Path,
    checkpoint: &Checkpoint,
    pages: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> io::Result<()> {
    let metadata = serde_json::to_vec(checkpoint)?;
    if metadata.len() as u64 > MOST_METADATA {
        return Err(io::Error::other("the process has more mappings than a checkpoint can hold"));
    }
    let pages_at = (HEADER_BYTES as u64 + metadata.len() as u64).next_multiple_of(PAGE);
    // It holds the secrets that a process has in memory.
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.seek(SeekFrom::Start(pages_at))?;
    let mut digested = Digested { file: &file, digest: Sha256::new(), bytes: 0 };
    pages(&mut digested)?;
    let (pages_digest, pages_bytes) = (digested.digest.finalize().into(), digested.bytes);
    let header = Header {
        metadata_bytes: metadata.len() as u64,
        pages_at,
        pages_bytes,
        metadata_digest: Sha256::digest(&metadata).into(),
        pages_digest,
    };
    file.write_all_at(&header.encode(), 0)?;
    file.write_all_at(&metadata, HEADER_BYTES as u64)?;
    if pages_bytes == 0 {
        file.set_len(pages_at)?;
    }
    file.sync_all()
}

/// Counts and digests what is written.
struct Digested<'a> {
    file: &'a File,
    digest: Sha256,
    bytes: u64,
}

impl io::Write for Digested<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.digest.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// An image whose metadata were checked.
#[derive(Debug)]
pub struct Image {
    file: File,
    checkpoint: Checkpoint,
    pages_at: u64,
    pages_bytes: u64,
}

impl Image {
    /// Opens an image: compares both digests, and checks all that its metadata say.
    ///
    /// # Errors
    /// When it is not whole and consistent. Nothing of it has been used then.
    pub fn open(path: &Path) -> Result<Self, FormatError> {
        let failed = |source| FormatError::File { operation: "read", path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let file_bytes = file.metadata().map_err(failed)?.len();
        let mut header = [0; HEADER_BYTES];
        let wrong = |reason: String| FormatError::Header { path: path.to_owned(), reason };
        match file.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(wrong(format!("it has {file_bytes} bytes only")));
            }
            result => result.map_err(failed)?,
        }
        let header = Header::decode(&header, file_bytes).map_err(wrong)?;
        let mut metadata = vec![0; header.metadata_bytes as usize];
        file.read_exact(&mut metadata).map_err(failed)?;
        let digest = |part| FormatError::Digest { path: path.to_owned(), part };
        if Sha256::digest(&metadata)[..] != header.metadata_digest {
            return Err(digest("metadata"));
        }
        let mut padding = vec![0; (header.pages_at - HEADER_BYTES as u64 - header.metadata_bytes) as usize];
        file.read_exact(&mut padding).map_err(failed)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(wrong("the bytes before its pages are not zero".to_owned()));
        }
        let checkpoint = Checkpoint::parse(&metadata)
            .map_err(|source| FormatError::Metadata { path: path.to_owned(), source })?;
        let invalid = |source| FormatError::Invalid { path: path.to_owned(), source };
        checkpoint.check(header.pages_bytes).map_err(invalid)?;
        if digest_of_rest(&mut file).map_err(failed)? != header.pages_digest {
            return Err(digest("pages"));
        }
        Ok(Self { file, checkpoint, pages_at: header.pages_at, pages_bytes: header.pages_bytes })
    }

    /// What it says.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The file, with the pages of all mappings in their order from [`Image::pages_at`] on.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Offset of the first page in the file.
    pub fn pages_at(&self) -> u64 {
        self.pages_at
    }

    /// Bytes of all pages.
    pub fn pages_bytes(&self) -> u64 {
        self.pages_bytes
    }
}

fn digest_of_rest(file: &mut File) -> io::Result<[u8; 32]> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digest.finalize().into()),
            count => digest.update(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::example;
    use super::*;

    fn written(folder: &Path) -> (PathBuf, Checkpoint) {
        let path = folder.join("image");
        let checkpoint = example();
        let pages = checkpoint.page_count() as usize * PAGE as usize;
        write(&path, &checkpoint, |to| to.write_all(&vec![7; pages])).unwrap();
        (path, checkpoint)
    }

    #[test]
    fn what_is_written_is_read_and_nobody_else_may() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (path, checkpoint) = written(folder.path());
        let image = Image::open(&path).unwrap();
        assert_eq!(*image.checkpoint(), checkpoint);
        let mut page = [0; 16];
        image.file().read_exact_at(&mut page, image.pages_at()).unwrap();
        assert_eq!(page, [7; 16]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    /// No byte can be changed without being noticed.
    #[test]
    fn every_changed_byte_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = written(folder.path());
        let good = std::fs::read(&path).unwrap();
        let end = good.len() - 2 * PAGE as usize;
        for at in (0..end).chain([good.len() - 1]) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&path, bad).unwrap();
            assert!(Image::open(&path).is_err(), "byte {at}");
        }
    }

    #[test]
    fn every_length_but_the_right_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = written(folder.path());
        let good = std::fs::read(&path).unwrap();
        for length in (0..good.len()).step_by(97).chain([good.len() + 1]) {
            let mut bad = good.clone();
            bad.resize(length, 0);
            std::fs::write(&path, bad).unwrap();
            assert!(Image::open(&path).is_err(), "{length} bytes");
        }
    }

    /// With the digest made right again, it is the parser and the checks that decide: they refuse or accept, and never
    /// panic; what they accept says the same or something as sound.
    #[test]
    fn changed_metadata_with_the_right_digest_are_refused_or_sound() {
        let folder = tempfile::tempdir().unwrap();
        let (path, checkpoint) = written(folder.path());
        let good = std::fs::read(&path).unwrap();
        let bytes = serde_json::to_vec(&checkpoint).unwrap().len();
        let mut refused = 0;
        for at in 0..bytes {
            let mut bad = good.clone();
            bad[HEADER_BYTES + at] ^= 1 << (at % 7);
            let digest = Sha256::digest(&bad[HEADER_BYTES..HEADER_BYTES + bytes]);
            bad[40..72].copy_from_slice(&digest);
            std::fs::write(&path, bad).unwrap();
            match Image::open(&path) {
                Ok(image) => image.checkpoint().check(image.pages_bytes()).unwrap(),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > bytes / 2, "{refused} of {bytes}");
    }
}
