//! dm-verity hash trees, as `veritysetup format` writes them: a superblock, then the tree from its top level down.
//!
//! Superblock version 1 and hash type 1 (the salt is hashed before the block), SHA-256, blocks of 4,096 bytes for data
//! and hashes: what the kernel's dm-verity documentation and cryptsetup's on-disk format describe. The salt is given,
//! so that the same data has the same root hash on every machine.

use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};
use stratos_types::Digest;

/// Bytes of a block, of data as of hashes.
pub const BLOCK: usize = 4096;
/// Bytes of a hash.
const HASH: usize = 32;
/// Bytes of the superblock; the rest of its block is zero.
const SUPERBLOCK: usize = 512;

/// A hash tree over some data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verity {
    salt: [u8; 32],
    uuid: [u8; 16],
    data_blocks: u64,
    /// Each level's hashes, padded to whole blocks; the first is that of the data.
    levels: Vec<Vec<u8>>,
    root: Digest,
}

impl Verity {
    /// Hashes all that `data` holds; a last block that is not full counts as if zeros followed.
    ///
    /// # Errors
    /// What reading gave.
    pub fn of(mut data: impl Read, salt: [u8; 32], uuid: [u8; 16]) -> io::Result<Self> {
        let mut hashes = Vec::new();
        let mut block = [0; BLOCK];
        let mut data_blocks = 0;
        while let filled @ 1.. = fill(&mut data, &mut block)? {
            block[filled..].fill(0);
            hashes.extend(hash(&salt, &block));
            data_blocks += 1;
        }
        let mut levels = Vec::new();
        // One block of data needs no tree: its hash is the root hash.
        while hashes.len() > HASH {
            hashes.resize(hashes.len().next_multiple_of(BLOCK), 0);
            let above = hashes.chunks_exact(BLOCK).flat_map(|block| hash(&salt, block)).collect();
            levels.push(std::mem::replace(&mut hashes, above));
        }
        let root = hashes.try_into().map_err(|_| io::Error::other("there is no data to hash"))?;
        Ok(Self { salt, uuid, data_blocks, levels, root: Digest::from_bytes(root) })
    }

    /// The root hash: what has to be known of the data to trust all of it.
    pub fn root(&self) -> Digest {
        self.root
    }

    /// Bytes of superblock and tree together, a multiple of [`BLOCK`].
    pub fn size(&self) -> u64 {
        (BLOCK + self.levels.iter().map(Vec::len).sum::<usize>()) as u64
    }

    /// Writes superblock and tree.
    ///
    /// # Errors
    /// What writing gave.
    pub fn write(&self, mut out: impl Write) -> io::Result<()> {
        let mut first = [0; BLOCK];
        first[..SUPERBLOCK].copy_from_slice(&self.superblock());
        out.write_all(&first)?;
        for level in self.levels.iter().rev() {
            out.write_all(level)?;
        }
        out.flush()
    }

    fn superblock(&self) -> [u8; SUPERBLOCK] {
        let mut block = [0; SUPERBLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"verity\0\0");
        put(8, &1u32.to_le_bytes()); // version of the superblock
        put(12, &1u32.to_le_bytes()); // hash type: the salt comes first
        put(16, &self.uuid);
        put(32, b"sha256");
        put(64, &(BLOCK as u32).to_le_bytes());
        put(68, &(BLOCK as u32).to_le_bytes());
        put(72, &self.data_blocks.to_le_bytes());
        put(80, &(self.salt.len() as u16).to_le_bytes());
        put(88, &self.salt);
        block
    }
}

fn hash(salt: &[u8], block: &[u8]) -> [u8; HASH] {
    Sha256::new().chain_update(salt).chain_update(block).finalize().into()
}

/// Reads until the block is full or the data ends, and gives how much there was.
fn fill(data: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match data.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const SALT: [u8; 32] = [7; 32];
    const UUID: [u8; 16] = [9; 16];

    /// Data of which no two blocks are the same.
    fn data(bytes: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..bytes).map(|_| next()).collect()
    }

    #[test]
    fn one_block_is_its_own_root_and_none_is_an_error() {
        let verity = Verity::of(&[1; BLOCK][..], SALT, UUID).unwrap();
        assert_eq!(verity.root(), Digest::of(&[&SALT[..], &[1; BLOCK][..]].concat()));
        assert_eq!(verity.size(), BLOCK as u64);
        assert!(Verity::of(&b""[..], SALT, UUID).is_err());
    }

    #[test]
    fn a_last_block_is_filled_with_zeros() {
        let short = Verity::of(&data(BLOCK + 5)[..], SALT, UUID).unwrap();
        let mut padded = data(BLOCK + 5);
        padded.resize(2 * BLOCK, 0);
        assert_eq!(short, Verity::of(&padded[..], SALT, UUID).unwrap());
        padded[2 * BLOCK - 1] = 1;
        assert_ne!(short.root(), Verity::of(&padded[..], SALT, UUID).unwrap().root());
    }

    #[test]
    fn levels_are_as_many_as_hashes_need() {
        // 128 hashes fit into a block.
        for (blocks, hash_blocks) in [(2, 1), (128, 1), (129, 2 + 1), (128 * 128, 128 + 1)] {
            let verity = Verity::of(&vec![0; blocks * BLOCK][..], SALT, UUID).unwrap();
            assert_eq!(verity.size(), ((1 + hash_blocks) * BLOCK) as u64, "{blocks} blocks");
        }
    }

    #[test]
    fn superblock_is_that_of_the_format() {
        let mut written = Vec::new();
        Verity::of(&data(3 * BLOCK)[..], SALT, UUID).unwrap().write(&mut written).unwrap();
        assert_eq!(&written[..16], b"verity\0\0\x01\0\0\0\x01\0\0\0");
        assert_eq!(&written[16..32], &UUID);
        assert_eq!(&written[32..40], b"sha256\0\0");
        assert_eq!(&written[64..88], b"\0\x10\0\0\0\x10\0\0\x03\0\0\0\0\0\0\0\x20\0\0\0\0\0\0\0");
        assert_eq!(&written[88..120], &SALT);
        assert!(written[120..BLOCK].iter().all(|byte| *byte == 0));
    }

    /// Where cryptsetup's own program is, it makes the same bytes and verifies these, and refuses one changed bit.
    #[test]
    fn veritysetup_writes_the_same_and_verifies() {
        let program = ["/usr/sbin/veritysetup", "/sbin/veritysetup"]
            .into_iter()
            .find(|path| std::path::Path::new(path).is_file());
        let Some(program) = program else {
            eprintln!("skipped: no veritysetup (package cryptsetup-bin)");
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for blocks in [1, 2, 128, 129, 20_000] {
            let mut bytes = data(blocks * BLOCK);
            std::fs::write(path("data"), &bytes).unwrap();
            let verity = Verity::of(&bytes[..], SALT, UUID).unwrap();
            verity.write(std::fs::File::create(path("hashes")).unwrap()).unwrap();
            let run = |arguments: &[&str]| {
                let mut command = Command::new(program);
                command.args(arguments).current_dir(folder.path());
                command.status().unwrap().success()
            };
            let salt = format!("--salt={}", "07".repeat(32));
            let uuid = "--uuid=09090909-0909-0909-0909-090909090909";
            assert!(run(&["format", &salt, uuid, "data", "theirs"]));
            let read = |name: &str| std::fs::read(path(name)).unwrap();
            assert!(read("hashes") == read("theirs"), "{blocks} blocks");
            let root = verity.root().hex();
            assert!(run(&["verify", "data", "hashes", &root]), "{blocks} blocks");
            bytes[blocks * BLOCK - 1] ^= 1;
            std::fs::write(path("data"), &bytes).unwrap();
            assert!(!run(&["verify", "data", "hashes", &root]), "{blocks} blocks, one bit changed");
        }
    }
}
