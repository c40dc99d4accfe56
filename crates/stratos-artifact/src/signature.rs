//! The last 128 bytes of a signed artifact.

use crate::header::HEADER_BYTES;
use crate::{ArtifactError, KeyId, PublicKey, SecretKey};

/// Bytes of a signature block.
pub const SIGNATURE_BYTES: usize = 128;
const MAGIC: [u8; 8] = *b"STRATSIG";
const VERSION: u32 = 1;
/// What the header follows in the bytes that are signed: no signature for anything else can be taken for one of these.
const CONTEXT: &[u8; 19] = b"StratOS artifact 1\n";

/// A signature, not yet checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// Which key is said to have made it.
    pub key: KeyId,
    bytes: [u8; 64],
}

impl Signature {
    pub(crate) fn of(header: &[u8; HEADER_BYTES], key: &SecretKey) -> Self {
        Self { key: key.public().id(), bytes: key.sign(&message(header)) }
    }

    /// Reads a block.
    ///
    /// # Errors
    /// When it is none.
    pub fn decode(block: &[u8; SIGNATURE_BYTES]) -> Result<Self, ArtifactError> {
        let wrong = |problem| Err(ArtifactError::SignatureBlock { problem });
        if block[..8] != MAGIC {
            return wrong("it does not begin with its magic number");
        }
        if block[8..12] != VERSION.to_le_bytes() {
            return wrong("it is of another version");
        }
        if block[12..16] != [0; 4] || block[88..] != [0; 40] {
            return wrong("its reserved fields are not zero");
        }
        let key = KeyId(block[16..24].try_into().expect("eight bytes"));
        Ok(Self { key, bytes: block[24..88].try_into().expect("sixty-four bytes") })
    }

    /// The block.
    pub fn encode(&self) -> [u8; SIGNATURE_BYTES] {
        let mut block = [0; SIGNATURE_BYTES];
        block[..8].copy_from_slice(&MAGIC);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        block[16..24].copy_from_slice(&self.key.0);
        block[24..88].copy_from_slice(&self.bytes);
        block
    }

    pub(crate) fn is_of(&self, header: &[u8; HEADER_BYTES], key: &PublicKey) -> bool {
        key.has_signed(&message(header), &self.bytes)
    }
}

fn message(header: &[u8; HEADER_BYTES]) -> Vec<u8> {
    [&CONTEXT[..], header].concat()
}
