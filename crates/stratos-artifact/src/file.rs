//! Artifacts as files.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;

use stratos_types::Digest;

use crate::header::{HEADER_BYTES, PIECE, read_error};
use crate::manifest::{PAGE, reason};
use crate::signature::SIGNATURE_BYTES;
use crate::{ArtifactError, Head, Manifest, PublicKey, SecretKey, Section, Signature};

/// An artifact whose header and manifest were checked.
#[derive(Debug)]
pub struct Artifact {
    file: File,
    head: Head,
    signature: Option<Signature>,
}

impl Artifact {
    /// Reads header, manifest and signature block. The file must be one that nobody else changes.
    ///
    /// # Errors
    /// When they are not whole and consistent.
    pub fn open(file: File) -> Result<Self, ArtifactError> {
        let file_bytes = file.metadata().map_err(read_error)?.len();
        let mut reader = BufReader::with_capacity(PIECE, At { file: &file, position: 0 });
        let head = Head::read(&mut reader, file_bytes)?;
        let signature = match head.signed {
            true => {
                let mut block = [0; SIGNATURE_BYTES];
                file.read_exact_at(&mut block, head.end).map_err(read_error)?;
                Some(Signature::decode(&block)?)
            }
            false => None,
        };
        Ok(Self { file, head, signature })
    }

    /// What it says.
    pub fn manifest(&self) -> &Manifest {
        &self.head.manifest
    }

    /// Its signature, not yet checked.
    pub fn signature(&self) -> Option<&Signature> {
        self.signature.as_ref()
    }

    /// Compares all sections with their digests. Reads all of the file.
    ///
    /// # Errors
    /// What does not fit.
    pub fn verify(&self) -> Result<(), ArtifactError> {
        self.head.verify(&mut At { file: &self.file, position: self.head.sections_at })
    }

    /// Checks that `key` made the signature. (What was signed is whole only if [`Artifact::verify`] says so.)
    ///
    /// # Errors
    /// [`ArtifactError::Signature`].
    pub fn check_signature(&self, signature: &Signature, key: &PublicKey) -> Result<(), ArtifactError> {
        match signature.key == key.id() && signature.is_of(&self.head.header, key) {
            true => Ok(()),
            false => Err(ArtifactError::Signature { key: signature.key }),
        }
    }

    /// A section's bytes, if it has it.
    pub fn section(&self, wanted: Section) -> Option<SectionReader<'_>> {
        let mut position = self.head.sections_at;
        for (section, bytes, _) in self.head.manifest.sections() {
            if section == wanted {
                return Some(At { file: &self.file, position }.take(bytes));
            }
            position += bytes.next_multiple_of(PAGE);
        }
        None
    }
}

/// Reads a section.
pub type SectionReader<'a> = io::Take<At<'a>>;

/// Reads a file from some place on, wherever its own position is.
#[derive(Debug)]
pub struct At<'a> {
    file: &'a File,
    position: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

/// Where the sections of a new artifact come from. Each is read from its beginning to its end.
#[derive(Debug)]
pub struct Sources<'a> {
    /// The code.
    pub code: &'a File,
    /// The runtime layer's image, when it is to be included.
    pub runtime: Option<&'a File>,
    /// The checkpoint's image, when the manifest has one.
    pub checkpoint: Option<&'a File>,
}

/// Writes an artifact without a signature to an empty file. Sizes and digests of code and checkpoint, and whether the
/// runtime is included, are filled into the manifest.
///
/// # Errors
/// When it cannot be read or written, or would be none.
pub fn write(
    to: &mut File,
    mut manifest: Manifest,
    sources: &Sources<'_>,
) -> Result<Manifest, ArtifactError> {
    (manifest.code.bytes, manifest.code.digest) = measure(sources.code)?;
    manifest.runtime.included = sources.runtime.is_some();
    if let Some((part, file)) = manifest.checkpoint.as_mut().zip(sources.checkpoint) {
        (part.bytes, part.digest) = measure(file)?;
    }
    manifest.no_checkpoint = manifest.no_checkpoint.as_deref().map(reason);
    let (head, bytes) = Head::new(&manifest)?;
    let written = |source| ArtifactError::Io { operation: "write", source };
    io::Write::write_all(to, &bytes).map_err(written)?;
    for (section, bytes, _) in manifest.sections() {
        let source = match section {
            Section::Code => Some(sources.code),
            Section::Runtime => sources.runtime,
            Section::Checkpoint => sources.checkpoint,
        };
        let missing = || ArtifactError::Invalid { problem: format!("it has no section `{section}`") };
        let mut source = At { file: source.ok_or_else(missing)?, position: 0 }.take(bytes);
        let copied = io::copy(&mut source, to).map_err(written)?;
        if copied != bytes {
            let problem = format!("its section `{section}` has {copied} bytes, and not {bytes}");
            return Err(ArtifactError::Invalid { problem });
        }
        let end = to.stream_position().map_err(written)?.next_multiple_of(PAGE);
        to.set_len(end).and_then(|()| to.seek(SeekFrom::Start(end))).map_err(written)?;
    }
    debug_assert_eq!(to.stream_position().ok(), Some(head.end));
    Ok(manifest)
}

fn measure(file: &File) -> Result<(u64, Digest), ArtifactError> {
    let bytes = file.metadata().map_err(read_error)?.len();
    let digest = Digest::of_reader(At { file, position: 0 }).map_err(read_error)?;
    Ok((bytes, digest))
}

/// Signs an artifact, in place of the signature it may have, and brings it to the disk. It is verified first: nobody
/// signs what is damaged.
///
/// # Errors
/// When it is damaged, or cannot be written.
pub fn sign(file: File, key: &SecretKey) -> Result<Signature, ArtifactError> {
    let artifact = Artifact::open(file)?;
    artifact.verify()?;
    let header: &[u8; HEADER_BYTES] = &artifact.head.header;
    let signature = Signature::of(header, key);
    let written = |source| ArtifactError::Io { operation: "write", source };
    artifact.file.write_all_at(&signature.encode(), artifact.head.end).map_err(written)?;
    artifact.file.sync_all().map_err(written)?;
    Ok(signature)
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
