//! GUID partition tables (UEFI specification, chapter 5): reading them from a disk's untrusted bytes, and making the
//! last partition reach to the disk's end. Pure: bytes in, bytes out.

use std::ops::Range;

/// Bytes of a block; disks with blocks of 4,096 bytes are not StratOS's.
pub const BLOCK: u64 = 512;
/// Most entries of a table; every tool makes 128.
const MAX_ENTRIES: u32 = 128;
const ENTRY_BYTES: usize = 128;
/// Bytes of the entries that are read, and blocks of them.
const ENTRIES_BYTES: usize = MAX_ENTRIES as usize * ENTRY_BYTES;
const ENTRIES_BLOCKS: u64 = ENTRIES_BYTES as u64 / BLOCK;
/// Bytes from a disk's start with the table: protective MBR, header, entries.
pub const HEAD_BYTES: usize = 2 * BLOCK as usize + ENTRIES_BYTES;
/// Bytes at a disk's end with its second copy: entries, header.
pub const TAIL_BYTES: usize = BLOCK as usize + ENTRIES_BYTES;
/// Partitions that grow end at a multiple of this many blocks: 1 MiB.
const ALIGNMENT: u64 = 2048;

/// A GUID as the disk has it.
pub type Guid = [u8; 16];

/// Type of a root partition for x86-64 (Discoverable Partitions Specification).
pub const ROOT: Guid = guid(0x4F68_BCE3_E8CD_4DB1_96E7_FBCA_F984_B709);
/// Type of the verity data of such a root.
pub const ROOT_VERITY: Guid = guid(0x2C73_57ED_EBD2_46D9_AEC1_23D4_37EC_2BF5);
/// Type of StratOS's partition of runtime layers.
pub const LAYERS: Guid = guid(0x6A6D_1B1E_6F1C_4C0F_9B6E_5374_7261_74AF);
/// Type of a partition with Linux files.
pub const LINUX: Guid = guid(0x0FC6_3DAF_8483_4772_8E79_3D69_D847_7DE4);

/// A GUID from the number that its text, without hyphens, is in hex. The disk has its first three groups with the
/// lowest byte first.
pub const fn guid(text: u128) -> Guid {
    let b = text.to_be_bytes();
    [b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1.
    pub number: u32,
    /// What kind it is.
    pub kind: Guid,
    /// Its own id.
    pub id: Guid,
    /// First block.
    pub first: u64,
    /// Last block.
    pub last: u64,
    /// Its label.
    pub label: String,
}

impl Partition {
    /// Where it begins, in bytes.
    pub const fn start_bytes(&self) -> u64 {
        self.first * BLOCK
    }

    /// How long it is, in bytes.
    pub const fn length_bytes(&self) -> u64 {
        (self.last - self.first + 1) * BLOCK
    }
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    header: Header,
    entries: Vec<u8>,
    /// The partitions, by number.
    pub partitions: Vec<Partition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    own: u64,
    other: u64,
    first_usable: u64,
    last_usable: u64,
    disk: Guid,
    entries_at: u64,
    entries: u32,
    entries_crc: u32,
}

/// Why bytes are no partition table.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GptError {
    /// There is none.
    #[error("there is no GUID partition table")]
    None,
    /// There was one.
    #[error("the partition table is damaged: {0}")]
    Damaged(&'static str),
}

/// What has to be written so that a disk's last partition reaches to the disk's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Growth {
    /// The partition as it becomes.
    pub partition: Partition,
    /// Bytes, and where they belong, in the order in which they have to be on the disk: first the copy at the end,
    /// which nothing refers to yet, then the table proper. Whenever the power fails, one of the two tells the truth.
    pub writes: [(u64, Vec<u8>); 2],
}

impl Table {
    /// Reads the table from the first [`HEAD_BYTES`] bytes of a disk with `blocks` blocks.
    ///
    /// # Errors
    /// See [`GptError`].
    pub fn parse(head: &[u8], blocks: u64) -> Result<Self, GptError> {
        let header = head.get(BLOCK as usize..2 * BLOCK as usize).ok_or(GptError::None)?;
        let header = Header::parse(header, 1, blocks)?;
        let start = usize::try_from(header.entries_at * BLOCK).map_err(|_| GptError::Damaged("entries"))?;
        Self::with_entries(header, head.get(start..).unwrap_or_default())
    }

    /// Reads the second copy from the last [`TAIL_BYTES`] bytes of a disk with `blocks` blocks.
    ///
    /// # Errors
    /// See [`GptError`].
    pub fn parse_backup(tail: &[u8], blocks: u64) -> Result<Self, GptError> {
        let own = blocks.checked_sub(1).ok_or(GptError::None)?;
        let start = blocks.checked_sub(TAIL_BYTES as u64 / BLOCK).ok_or(GptError::None)?;
        let header = tail.get(ENTRIES_BYTES..TAIL_BYTES).ok_or(GptError::None)?;
        let header = Header::parse(header, own, blocks)?;
        let offset = header.entries_at.checked_sub(start).ok_or(GptError::Damaged("entries"))? * BLOCK;
        let offset = usize::try_from(offset).map_err(|_| GptError::Damaged("entries"))?;
        Self::with_entries(header, tail.get(offset..ENTRIES_BYTES).unwrap_or_default())
    }

    fn with_entries(header: Header, bytes: &[u8]) -> Result<Self, GptError> {
        let length = header.entries as usize * ENTRY_BYTES;
        let bytes = bytes.get(..length).ok_or(GptError::Damaged("its entries lie outside"))?;
        if crc32(bytes) != header.entries_crc {
            return Err(GptError::Damaged("the check sum of its entries"));
        }
        let mut partitions = Vec::new();
        for (number, entry) in (1..).zip(bytes.chunks_exact(ENTRY_BYTES)) {
            if let Some(partition) = partition(number, entry, &header)? {
                partitions.push(partition);
            }
        }
        Ok(Self { header, entries: bytes.to_vec(), partitions })
    }

    /// The partition with this id.
    pub fn by_id(&self, id: &Guid) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.id == *id)
    }

    /// The second copy written as the first one, which is damaged: bytes, and where they belong.
    pub fn as_first(&self) -> (u64, Vec<u8>) {
        let header = Header { own: 1, other: self.header.own, entries_at: 2, ..self.header.clone() };
        let mut head = header.encode(&self.entries);
        head.extend_from_slice(&self.entries);
        (BLOCK, head)
    }

    /// How the last partition comes to reach to the end of a disk with `blocks` blocks; `None` when it does already,
    /// or when `number` is not the last one.
    pub fn grow(&self, number: u32, blocks: u64) -> Option<Growth> {
        let position = self.partitions.iter().position(|partition| partition.number == number)?;
        let old = self.partitions.get(position)?;
        if self.partitions.iter().any(|other| other.first > old.first) {
            return None;
        }
        // The second copy: entries and header in the last blocks.
        let last_usable = blocks.checked_sub(ENTRIES_BLOCKS + 2)?;
        let last = ((last_usable + 1) / ALIGNMENT * ALIGNMENT).checked_sub(1)?;
        if last <= old.last {
            return None;
        }
        let partition = Partition { last, ..old.clone() };
        let mut entries = self.entries.clone();
        let entry = entries.get_mut((number as usize - 1) * ENTRY_BYTES..)?;
        entry.get_mut(40..48)?.copy_from_slice(&last.to_le_bytes());
        let primary = Header { own: 1, other: blocks - 1, last_usable, entries_at: 2, ..self.header.clone() };
        let mut head = primary.encode(&entries);
        head.extend_from_slice(&entries);
        let backup = Header { own: blocks - 1, other: 1, entries_at: last_usable + 1, ..primary };
        let mut tail = entries.clone();
        tail.resize(ENTRIES_BYTES, 0);
        tail.extend_from_slice(&backup.encode(&entries));
        Some(Growth { partition, writes: [((last_usable + 1) * BLOCK, tail), (BLOCK, head)] })
    }
}

impl Header {
    fn parse(block: &[u8], own: u64, blocks: u64) -> Result<Self, GptError> {
        if block.get(..8) != Some(b"EFI PART") {
            return Err(GptError::None);
        }
        let size = u32_at(block, 12) as usize;
        if !(92..=BLOCK as usize).contains(&size) {
            return Err(GptError::Damaged("the size of its header"));
        }
        let mut copy = block.get(..size).ok_or(GptError::None)?.to_vec();
        copy.get_mut(16..20).ok_or(GptError::None)?.fill(0);
        if crc32(&copy) != u32_at(block, 16) {
            return Err(GptError::Damaged("the check sum of its header"));
        }
        let header = Self {
            own: u64_at(block, 24),
            other: u64_at(block, 32),
            first_usable: u64_at(block, 40),
            last_usable: u64_at(block, 48),
            disk: guid_at(block, 56),
            entries_at: u64_at(block, 72),
            entries: u32_at(block, 80),
            entries_crc: u32_at(block, 88),
        };
        if header.own != own {
            return Err(GptError::Damaged("it says that it is elsewhere"));
        }
        if u32_at(block, 84) as usize != ENTRY_BYTES || !(1..=MAX_ENTRIES).contains(&header.entries) {
            return Err(GptError::Damaged("the number or size of its entries"));
        }
        if header.last_usable >= blocks
            || header.entries_at >= blocks
            || header.first_usable > header.last_usable
        {
            return Err(GptError::Damaged("it is of a larger disk"));
        }
        Ok(header)
    }

    fn encode(&self, entries: &[u8]) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK as usize);
        block.extend_from_slice(b"EFI PART");
        for word in [0x0001_0000_u32, 92, 0, 0] {
            block.extend_from_slice(&word.to_le_bytes());
        }
        for word in [self.own, self.other, self.first_usable, self.last_usable] {
            block.extend_from_slice(&word.to_le_bytes());
        }
        block.extend_from_slice(&self.disk);
        block.extend_from_slice(&self.entries_at.to_le_bytes());
        for word in [self.entries, ENTRY_BYTES as u32, crc32(entries)] {
            block.extend_from_slice(&word.to_le_bytes());
        }
        let crc = crc32(&block);
        if let Some(place) = block.get_mut(16..20) {
            place.copy_from_slice(&crc.to_le_bytes());
        }
        block.resize(BLOCK as usize, 0);
        block
    }
}

/// Whether a disk's first block is the protective MBR of a disk with a GUID partition table: one partition of type 0xEE.
pub fn is_protective(head: &[u8]) -> bool {
    head.get(450) == Some(&0xee) && head.get(510..512) == Some(&[0x55, 0xaa])
}

/// The partition of an entry; `None` for an empty one.
fn partition(number: u32, entry: &[u8], header: &Header) -> Result<Option<Partition>, GptError> {
    let kind = guid_at(entry, 0);
    if kind == [0; 16] {
        return Ok(None);
    }
    let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
    if first < header.first_usable || last < first || last > header.last_usable {
        return Err(GptError::Damaged("a partition lies outside of the disk"));
    }
    let units = slice(entry, 56..ENTRY_BYTES).chunks_exact(2);
    let units = units.filter_map(|unit| Some(u16::from_le_bytes(unit.try_into().ok()?)));
    let label = char::decode_utf16(units.take_while(|unit| *unit != 0));
    let label = label.map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    Ok(Some(Partition { number, kind, id: guid_at(entry, 16), first, last, label }))
}

/// The check sum that the table uses: CRC-32 of IEEE 802.3.
pub fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(u32::MAX, step)
}

fn slice(bytes: &[u8], range: Range<usize>) -> &[u8] {
    bytes.get(range).unwrap_or_default()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    slice(bytes, at..at + 4).try_into().map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    slice(bytes, at..at + 8).try_into().map_or(0, u64::from_le_bytes)
}

fn guid_at(bytes: &[u8], at: usize) -> Guid {
    slice(bytes, at..at + 16).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: u64 = 262_144;

    /// A disk of 128 MiB with a root and, behind it, the state.
    fn table() -> Table {
        let mut entries = vec![0; ENTRIES_BYTES];
        for (entry, (kind, id, first, last, label)) in entries.chunks_exact_mut(ENTRY_BYTES).zip([
            (ROOT, guid(7), 2048_u64, 4095_u64, "root-a"),
            (LINUX, guid(8), 4096, 200_703, "stratos-state"),
        ]) {
            entry[..16].copy_from_slice(&kind);
            entry[16..32].copy_from_slice(&id);
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
            for (place, unit) in entry[56..].chunks_exact_mut(2).zip(label.encode_utf16()) {
                place.copy_from_slice(&unit.to_le_bytes());
            }
        }
        let header = Header {
            own: 1,
            other: 200_736,
            first_usable: 34,
            last_usable: 200_703,
            disk: guid(9),
            entries_at: 2,
            entries: MAX_ENTRIES,
            entries_crc: crc32(&entries),
        };
        let mut head = vec![0; BLOCK as usize];
        head.extend_from_slice(&header.encode(&entries));
        head.extend_from_slice(&entries);
        Table::parse(&head, BLOCKS).unwrap()
    }

    fn head(writes: &(u64, Vec<u8>)) -> Vec<u8> {
        [vec![0; writes.0 as usize], writes.1.clone()].concat()
    }

    #[test]
    fn the_check_sum_is_that_of_the_standard() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn a_guid_is_turned_as_the_disk_has_it() {
        let esp = guid(0xC12A_7328_F81F_11D2_BA4B_00A0_C93E_C93B);
        assert_eq!(esp[..8], [0x28, 0x73, 0x2A, 0xC1, 0x1F, 0xF8, 0xD2, 0x11]);
    }

    #[test]
    fn partitions_are_read() {
        let table = table();
        let state = &table.partitions[1];
        assert_eq!((state.number, state.first, state.last), (2, 4096, 200_703));
        assert_eq!((state.label.as_str(), state.kind), ("stratos-state", LINUX));
        assert_eq!(state.start_bytes(), 2 << 20);
        assert_eq!(table.by_id(&guid(7)).unwrap().number, 1);
        assert_eq!(table.by_id(&guid(5)), None);
    }

    #[test]
    fn the_last_partition_grows_to_the_disks_end_and_no_further() {
        let table = table();
        let growth = table.grow(2, BLOCKS).unwrap();
        // 33 blocks stay free for the copy at the end; the partition ends at a multiple of 1 MiB before it.
        assert_eq!(growth.partition.last, BLOCKS - ALIGNMENT - 1);
        let [tail, first] = &growth.writes;
        assert_eq!(tail.0 + tail.1.len() as u64, BLOCKS * BLOCK);
        let grown = Table::parse(&head(first), BLOCKS).unwrap();
        assert_eq!(grown.partitions[1], growth.partition);
        assert_eq!(grown.partitions[0], table.partitions[0]);
        assert_eq!(grown.header.other, BLOCKS - 1);
        assert_eq!(grown.grow(2, BLOCKS), None);
        assert_eq!(table.grow(1, BLOCKS), None, "not the last");
        assert_eq!(table.grow(3, BLOCKS), None, "no such partition");
        assert_eq!(table.grow(2, 200_737), None, "the disk is as large as before");
    }

    #[test]
    fn a_damaged_first_copy_is_made_again_from_the_second() {
        let growth = table().grow(2, BLOCKS).unwrap();
        let backup = Table::parse_backup(&growth.writes[0].1, BLOCKS).unwrap();
        assert_eq!(backup.partitions[1], growth.partition);
        let repaired = backup.as_first();
        assert_eq!(repaired, growth.writes[1]);
    }

    #[test]
    fn a_disk_without_the_protective_mbr_is_told_apart() {
        let mut head = vec![0; 512];
        assert!(!is_protective(&head));
        head[450] = 0xee;
        head[510..].copy_from_slice(&[0x55, 0xaa]);
        assert!(is_protective(&head));
        head[450] = 0x0c;
        assert!(!is_protective(&head));
        assert!(!is_protective(&[]));
    }

    #[test]
    fn damage_is_noticed() {
        let good = head(&table().grow(2, BLOCKS).unwrap().writes[1]);
        assert_eq!(Table::parse(&[0; HEAD_BYTES], BLOCKS), Err(GptError::None));
        assert_eq!(Table::parse(&[], BLOCKS), Err(GptError::None));
        for at in [520, 560, 600, 1024, 1500, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(matches!(Table::parse(&bad, BLOCKS), Err(GptError::Damaged(_))), "byte {at}");
        }
        assert_eq!(Table::parse(&good, BLOCKS / 2), Err(GptError::Damaged("it is of a larger disk")));
        for length in 0..good.len() {
            assert!(Table::parse(&good[..length], BLOCKS).is_err(), "{length} bytes");
        }
    }
}
