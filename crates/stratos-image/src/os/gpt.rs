//! GUID partition tables (UEFI specification 2.10, chapter 5), with identities that are given and not drawn.

use std::fmt;
use std::io::{self, Seek, SeekFrom, Write};

/// Bytes of a sector.
const SECTOR: u64 = 512;
/// Partitions begin at multiples of this many bytes.
pub(crate) const ALIGNMENT: u64 = 1 << 20;
/// Entries that the table has room for, and the bytes of each: what every tool expects.
const ENTRIES: usize = 128;
const ENTRY: usize = 128;
/// Sectors of the entries.
const ENTRY_SECTORS: u64 = (ENTRIES * ENTRY) as u64 / SECTOR;
/// Where the table ends and partitions may begin, in sectors.
const FIRST: u64 = 2 + ENTRY_SECTORS;

/// A GUID, as its text reads: the first three groups are stored little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Guid(pub(crate) [u8; 16]);

impl Guid {
    /// From 32 hex digits, with or without dashes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        if digits.len() != 32 || !digits.is_ascii() {
            return None;
        }
        let mut bytes = [0; 16];
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * n..2 * n + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    fn stored(self) -> [u8; 16] {
        let mut bytes = self.0;
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        bytes
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, byte) in self.0.iter().enumerate() {
            if [4, 6, 8, 10].contains(&n) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partition {
    /// Its label, at most 36 characters.
    pub(crate) label: String,
    /// What it is for.
    pub(crate) kind: Guid,
    /// Its own identity.
    pub(crate) id: Guid,
    /// Where it begins, in bytes; a multiple of [`ALIGNMENT`].
    pub(crate) start: u64,
    /// Its size in bytes; a multiple of [`ALIGNMENT`].
    pub(crate) size: u64,
}

/// Bytes of a disk whose last partition ends at `end`: the table's second copy follows it.
pub(crate) fn disk_size(end: u64) -> u64 {
    end + ALIGNMENT
}

/// Writes both copies of the table, and the protective MBR, to a disk of `size` bytes.
pub(crate) fn write(
    disk: &mut (impl Write + Seek),
    size: u64,
    id: Guid,
    partitions: &[Partition],
) -> io::Result<()> {
    let last = size / SECTOR - 1;
    let entries = entries(partitions);
    let mut put = |sector: u64, bytes: &[u8]| {
        disk.seek(SeekFrom::Start(sector * SECTOR))?;
        disk.write_all(bytes)
    };
    put(0, &protective(last))?;
    put(1, &header(1, last, 2, last, id, &entries))?;
    put(2, &entries)?;
    put(last - ENTRY_SECTORS, &entries)?;
    put(last, &header(last, 1, last - ENTRY_SECTORS, last, id, &entries))
}

/// The master boot record that says to older tools that the whole disk is taken.
fn protective(last: u64) -> [u8; SECTOR as usize] {
    let mut sector = [0; SECTOR as usize];
    let entry = &mut sector[446..462];
    entry[1..4].copy_from_slice(&[0, 2, 0]); // first sector, as cylinder, head and sector
    entry[4] = 0xEE;
    entry[5..8].copy_from_slice(&[0xFF; 3]);
    entry[8..12].copy_from_slice(&1u32.to_le_bytes());
    entry[12..16].copy_from_slice(&u32::try_from(last).unwrap_or(u32::MAX).to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xAA]);
    sector
}

fn header(own: u64, other: u64, entries_at: u64, last: u64, id: Guid, entries: &[u8]) -> [u8; 512] {
    let mut sector = [0; SECTOR as usize];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"EFI PART");
    put(8, &0x0001_0000u32.to_le_bytes()); // revision 1.0
    put(12, &92u32.to_le_bytes()); // bytes of this header
    put(24, &own.to_le_bytes());
    put(32, &other.to_le_bytes());
    put(40, &FIRST.to_le_bytes());
    put(48, &(last - ENTRY_SECTORS - 1).to_le_bytes());
    put(56, &id.stored());
    put(72, &entries_at.to_le_bytes());
    put(80, &(ENTRIES as u32).to_le_bytes());
    put(84, &(ENTRY as u32).to_le_bytes());
    put(88, &crc32fast::hash(entries).to_le_bytes());
    let sum = crc32fast::hash(&sector[..92]);
    sector[16..20].copy_from_slice(&sum.to_le_bytes());
    sector
}

fn entries(partitions: &[Partition]) -> Vec<u8> {
    let mut table = vec![0; ENTRIES * ENTRY];
    for (entry, partition) in table.chunks_exact_mut(ENTRY).zip(partitions) {
        entry[..16].copy_from_slice(&partition.kind.stored());
        entry[16..32].copy_from_slice(&partition.id.stored());
        entry[32..40].copy_from_slice(&(partition.start / SECTOR).to_le_bytes());
        let last = (partition.start + partition.size) / SECTOR - 1;
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        for (place, unit) in entry[56..].chunks_exact_mut(2).zip(partition.label.encode_utf16()) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition() -> Partition {
        Partition {
            label: "esp".to_owned(),
            kind: Guid::parse("C12A7328-F81F-11D2-BA4B-00A0C93EC93B").unwrap(),
            id: Guid::parse("00112233445566778899aabbccddeeff").unwrap(),
            start: ALIGNMENT,
            size: 2 * ALIGNMENT,
        }
    }

    #[test]
    fn guids_read_from_text_and_store_mixed_endian() {
        let guid = Guid::parse("00112233-4455-6677-8899-aabbccddeeff").unwrap();
        let stored = [0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99];
        assert_eq!(guid.stored()[..10], stored);
        assert_eq!(guid.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        for wrong in ["", "0011", "00112233-4455-6677-8899-aabbccddeefg", "é0112233445566778899aabbccddeef"]
        {
            assert_eq!(Guid::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn both_copies_of_the_table_agree_and_their_sums_are_right() {
        let size = disk_size(3 * ALIGNMENT);
        let mut disk = io::Cursor::new(vec![0; size as usize]);
        write(&mut disk, size, Guid([1; 16]), &[partition()]).unwrap();
        let disk = disk.into_inner();
        let sector = |n: u64| &disk[(n * SECTOR) as usize..((n + 1) * SECTOR) as usize];
        let number = |sector: &[u8], at: usize| u64::from_le_bytes(sector[at..at + 8].try_into().unwrap());
        let last = size / SECTOR - 1;
        assert_eq!(sector(0)[510..], [0x55, 0xAA]);
        for (own, other) in [(1, last), (last, 1)] {
            let header = sector(own);
            assert_eq!(
                (&header[..8], number(header, 24), number(header, 32)),
                (&b"EFI PART"[..], own, other)
            );
            let mut zeroed = header[..92].to_vec();
            zeroed[16..20].fill(0);
            assert_eq!(crc32fast::hash(&zeroed).to_le_bytes(), header[16..20]);
            let entries = (number(header, 72) * SECTOR) as usize;
            let entries = &disk[entries..entries + ENTRIES * ENTRY];
            assert_eq!(crc32fast::hash(entries).to_le_bytes(), header[88..92]);
            assert_eq!((number(entries, 32), number(entries, 40)), (2048, 3 * 2048 - 1));
            assert_eq!(&entries[56..64], b"e\0s\0p\0\0\0");
        }
    }
}
