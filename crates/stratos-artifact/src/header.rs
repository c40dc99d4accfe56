//! Header and manifest, read from any source.

use std::io::{self, Read};

use sha2::{Digest as _, Sha256};
use stratos_types::Digest;

use crate::manifest::PAGE;
use crate::signature::SIGNATURE_BYTES;
use crate::{ArtifactError, Manifest};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 128;
const MAGIC: [u8; 8] = *b"STRATART";
const VERSION: u32 = 1;
const MOST_MANIFEST: u64 = 4 << 20;
/// Most bytes of an artifact.
pub const MOST_BYTES: u64 = 16 << 30;
/// Bytes that are read at a time.
pub(crate) const PIECE: usize = 256 << 10;

/// True for the first bytes of an artifact.
pub fn is_artifact(head: &[u8]) -> bool {
    head.starts_with(&MAGIC)
}

/// Header and manifest of an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub(crate) header: [u8; HEADER_BYTES],
    pub(crate) sections_at: u64,
    pub(crate) end: u64,
    pub(crate) signed: bool,
    /// What it says.
    pub manifest: Manifest,
}

impl Head {
    /// The head of an artifact with this manifest, and the bytes that come before its first section.
    ///
    /// # Errors
    /// When the manifest is none that a reader would take.
    pub(crate) fn new(manifest: &Manifest) -> Result<(Self, Vec<u8>), ArtifactError> {
        let json = serde_json::to_vec(manifest).map_err(|source| ArtifactError::Manifest { source })?;
        let sections_at = (HEADER_BYTES as u64 + json.len() as u64).next_multiple_of(PAGE);
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[16..24].copy_from_slice(&(json.len() as u64).to_le_bytes());
        header[24..32].copy_from_slice(&sections_at.to_le_bytes());
        let end = sections_at + manifest.sections_bytes();
        header[32..40].copy_from_slice(&end.to_le_bytes());
        header[40..72].copy_from_slice(&Sha256::digest(&json));
        let mut bytes = [&header[..], &json].concat();
        bytes.resize(usize::try_from(sections_at).expect("a manifest has 4 MiB at most"), 0);
        Ok((Self::read(&mut bytes.as_slice(), end)?, bytes))
    }

    /// Reads up to the first section. `file_bytes` is the size of all of it.
    ///
    /// # Errors
    /// When it is not whole and consistent.
    pub fn read(reader: &mut impl Read, file_bytes: u64) -> Result<Self, ArtifactError> {
        let wrong = |reason: String| ArtifactError::Header { reason };
        if file_bytes < HEADER_BYTES as u64 {
            return Err(wrong(format!("it has {file_bytes} bytes only")));
        }
        let mut header = [0; HEADER_BYTES];
        reader.read_exact(&mut header).map_err(read_error)?;
        let u64_at = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        if !is_artifact(&header) {
            return Err(wrong("it does not begin with its magic number".to_owned()));
        }
        let version = u32::from_le_bytes(header[8..12].try_into().expect("four bytes"));
        if version != VERSION {
            return Err(wrong(format!("it has version {version}, and this is for version {VERSION}")));
        }
        if header[12..16] != [0; 4] || header[72..] != [0; 56] {
            return Err(wrong("its reserved fields are not zero".to_owned()));
        }
        let (manifest_bytes, sections_at, end) = (u64_at(16), u64_at(24), u64_at(32));
        if manifest_bytes > MOST_MANIFEST || end > MOST_BYTES {
            return Err(wrong("it is larger than allowed".to_owned()));
        }
        if sections_at != (HEADER_BYTES as u64 + manifest_bytes).next_multiple_of(PAGE) {
            return Err(wrong("its parts do not lie where they should".to_owned()));
        }
        let signed = file_bytes == end + SIGNATURE_BYTES as u64;
        if file_bytes != end && !signed {
            return Err(wrong(format!("it has {file_bytes} bytes, and should have {end} and a signature")));
        }
        let json = read_bytes(reader, manifest_bytes)?;
        if Sha256::digest(&json)[..] != header[40..72] {
            return Err(ArtifactError::ManifestDigest);
        }
        let zeros = read_bytes(reader, sections_at - HEADER_BYTES as u64 - manifest_bytes)?;
        if zeros.iter().any(|byte| *byte != 0) {
            return Err(wrong("the bytes after its manifest are not zero".to_owned()));
        }
        let manifest = Manifest::parse(&json)?;
        if sections_at + manifest.sections_bytes() != end {
            let problem = "its sections are not as long as the header says".to_owned();
            return Err(ArtifactError::Invalid { problem });
        }
        Ok(Self { header, sections_at, end, signed, manifest })
    }

    /// Reads all sections and compares them with their digests.
    ///
    /// # Errors
    /// [`ArtifactError::Section`] or [`ArtifactError::Padding`], with the first that does not fit.
    pub fn verify(&self, reader: &mut impl Read) -> Result<(), ArtifactError> {
        for (section, bytes, digest) in self.manifest.sections() {
            let found = Digest::of_reader(reader.by_ref().take(bytes)).map_err(read_error)?;
            if found != digest {
                return Err(ArtifactError::Section { section });
            }
            let zeros = read_bytes(reader, bytes.next_multiple_of(PAGE) - bytes)?;
            if zeros.iter().any(|byte| *byte != 0) {
                return Err(ArtifactError::Padding { section });
            }
        }
        Ok(())
    }
}

pub(crate) fn read_error(source: io::Error) -> ArtifactError {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => ArtifactError::Header { reason: "it is cut off".to_owned() },
        _ => ArtifactError::Io { operation: "read", source },
    }
}

/// Reads what a header announced: memory is taken as bytes come.
fn read_bytes(reader: &mut impl Read, count: u64) -> Result<Vec<u8>, ArtifactError> {
    let mut bytes = Vec::new();
    reader.by_ref().take(count).read_to_end(&mut bytes).map_err(read_error)?;
    match bytes.len() as u64 == count {
        true => Ok(bytes),
        false => Err(read_error(io::ErrorKind::UnexpectedEof.into())),
    }
}
