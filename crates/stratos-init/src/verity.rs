//! dm-verity: the superblock that `veritysetup format` writes before a hash tree, and the table that makes a device of
//! it. Pure: bytes in, text out.
//!
//! The superblock itself is not protected by the root hash, so nothing of it is trusted further than to be tried: with
//! another salt or number of blocks, the tree does not fit the root hash any more.

use std::fmt::Write as _;

use stratos_types::Digest;

/// Bytes of a superblock.
pub const SUPERBLOCK_BYTES: usize = 512;
/// Bytes of a block, of data and of hashes.
pub const BLOCK: u64 = 4096;
const MAX_SALT: usize = 256;

/// A superblock of the one kind that StratOS writes: version 1, SHA-256, blocks of 4,096 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Blocks of data.
    pub data_blocks: u64,
    /// What is hashed before each block.
    pub salt: Vec<u8>,
}

/// Why bytes are no superblock.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum VerityError {
    /// There is none.
    #[error("there is no verity superblock")]
    None,
    /// It is of another kind.
    #[error("the verity superblock has {0}")]
    Kind(&'static str),
}

impl Superblock {
    /// Reads a superblock.
    ///
    /// # Errors
    /// See [`VerityError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, VerityError> {
        let bytes: &[u8; SUPERBLOCK_BYTES] =
            bytes.get(..SUPERBLOCK_BYTES).and_then(|bytes| bytes.try_into().ok()).ok_or(VerityError::None)?;
        let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        if bytes.get(..8) != Some(b"verity\0\0") {
            return Err(VerityError::None);
        }
        if word(8) != Some(1) || word(12) != Some(1) {
            return Err(VerityError::Kind("another version than 1"));
        }
        if bytes
            .get(32..64)
            .and_then(|name| name.strip_prefix(b"sha256"))
            .is_none_or(|rest| rest.iter().any(|byte| *byte != 0))
        {
            return Err(VerityError::Kind("another algorithm than sha256"));
        }
        if word(64) != Some(BLOCK as u32) || word(68) != Some(BLOCK as u32) {
            return Err(VerityError::Kind("blocks of another size than 4096"));
        }
        let number = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        // The kernel counts sectors in 64 bits.
        let data_blocks = number(72).filter(|blocks| (1..u64::MAX / BLOCK).contains(blocks));
        let salt_bytes = bytes.get(80..82).and_then(|size| size.try_into().ok()).map(u16::from_le_bytes);
        let salt = salt_bytes.map(usize::from).filter(|size| *size <= MAX_SALT);
        let salt = salt.and_then(|size| bytes.get(88..88 + size));
        match (data_blocks, salt) {
            (Some(data_blocks), Some(salt)) => Ok(Self { data_blocks, salt: salt.to_vec() }),
            (None, _) => Err(VerityError::Kind("no sensible number of blocks")),
            (_, None) => Err(VerityError::Kind("too long a salt")),
        }
    }

    /// Bytes of data.
    pub const fn data_bytes(&self) -> u64 {
        self.data_blocks * BLOCK
    }

    /// The device mapper's parameters for data on device `data` (as `MAJOR:MINOR`) and a superblock at byte `at` of the
    /// device `hashes`, with the tree behind it.
    pub fn table(&self, data: &str, hashes: &str, at: u64, root: &Digest) -> String {
        let mut salt = String::with_capacity(2 * self.salt.len());
        for byte in &self.salt {
            // Writing to a string does not fail.
            let written = write!(salt, "{byte:02x}");
            debug_assert!(written.is_ok());
        }
        if salt.is_empty() {
            salt.push('-');
        }
        let first_hash = at / BLOCK + 1;
        let (blocks, root) = (self.data_blocks, root.hex());
        format!("1 {data} {hashes} {BLOCK} {BLOCK} {blocks} {first_hash} sha256 {root} {salt}")
    }
}

/// How long the EROFS image is that begins with these bytes, in bytes; `None` when there is none. Tells where the
/// verity data of an image stands that came without a manifest.
pub fn erofs_bytes(start: &[u8]) -> Option<u64> {
    let superblock = start.get(1024..1152)?;
    if superblock.get(..4)? != 0xE0F5_E1E2_u32.to_le_bytes() {
        return None;
    }
    let shift = u32::from(*superblock.get(12)?);
    let blocks = u64::from(u32::from_le_bytes(superblock.get(36..40)?.try_into().ok()?));
    (9..=16).contains(&shift).then(|| blocks << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock() -> Vec<u8> {
        let mut bytes = b"verity\0\0".to_vec();
        bytes.extend([1, 0, 0, 0, 1, 0, 0, 0]);
        bytes.extend([7; 16]);
        bytes.extend(b"sha256");
        bytes.resize(64, 0);
        bytes.extend([0, 16, 0, 0, 0, 16, 0, 0]);
        bytes.extend(300_u64.to_le_bytes());
        bytes.extend([2, 0, 0, 0, 0, 0, 0, 0, 0xab, 0x01]);
        bytes.resize(SUPERBLOCK_BYTES, 0);
        bytes
    }

    #[test]
    fn a_superblock_becomes_a_table() {
        let superblock = Superblock::parse(&superblock()).unwrap();
        assert_eq!(superblock.data_bytes(), 1_228_800);
        let root = Digest::from_bytes([0x11; 32]);
        let hash = "11".repeat(32);
        assert_eq!(
            superblock.table("254:2", "254:3", 0, &root),
            format!("1 254:2 254:3 4096 4096 300 1 sha256 {hash} ab01")
        );
        assert_eq!(
            superblock.table("253:1", "253:1", 1_228_800, &root),
            format!("1 253:1 253:1 4096 4096 300 301 sha256 {hash} ab01")
        );
        let unsalted = Superblock { data_blocks: 1, salt: vec![] };
        assert!(unsalted.table("a", "b", 0, &root).ends_with(" -"));
    }

    #[test]
    fn other_kinds_are_refused() {
        for (at, byte, expected) in [
            (0, b'V', VerityError::None),
            (8, 2, VerityError::Kind("another version than 1")),
            (37, b'1', VerityError::Kind("another algorithm than sha256")),
            (38, b'x', VerityError::Kind("another algorithm than sha256")),
            (65, 8, VerityError::Kind("blocks of another size than 4096")),
            (79, 0xff, VerityError::Kind("no sensible number of blocks")),
            (81, 2, VerityError::Kind("too long a salt")),
        ] {
            let mut bytes = superblock();
            bytes[at] = byte;
            assert_eq!(Superblock::parse(&bytes), Err(expected), "byte {at}");
        }
        assert_eq!(Superblock::parse(&superblock()[..511]), Err(VerityError::None));
    }

    #[test]
    fn an_image_tells_its_length() {
        let mut bytes = vec![0; 2048];
        assert_eq!(erofs_bytes(&bytes), None);
        bytes[1024..1028].copy_from_slice(&[0xe2, 0xe1, 0xf5, 0xe0]);
        bytes[1036] = 12;
        bytes[1060] = 3;
        assert_eq!(erofs_bytes(&bytes), Some(12_288));
        assert_eq!(erofs_bytes(&bytes[..1100]), None);
    }
}
