//! FAT (Microsoft's "FAT: General Overview of On-Disk Format"), as far as reading one file of the root folder takes.

use crate::nocloud::{Read, u16_at, u32_at};

const ENTRY: usize = 32;
/// Most bytes of a folder that are looked at.
const MOST_FOLDER: usize = 1 << 20;
const VOLUME_LABEL: u8 = 0x08;
const FOLDER: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;
/// Characters of a long name in one entry, and most entries of one.
const LONG_PART: usize = 13;
const LONG_PARTS: usize = 20;

/// A file system.
#[derive(Debug)]
pub(crate) struct Volume {
    /// Its label.
    pub(crate) label: String,
    kind: Kind,
    sector: u64,
    cluster: usize,
    table: u64,
    root: Root,
    data: u64,
    clusters: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fat12,
    Fat16,
    Fat32,
}

#[derive(Debug, Clone, Copy)]
enum Root {
    Fixed { at: u64, length: usize },
    Cluster(u32),
}

impl Volume {
    /// Reads the boot sector; `None` when there is none.
    pub(crate) fn open(read: Read<'_>) -> Option<Self> {
        let boot = read(0, 512)?;
        if boot.get(510..512)? != [0x55, 0xaa] {
            return None;
        }
        let (sector, per_cluster) = (u16_at(&boot, 11), *boot.get(13)?);
        if !matches!(sector, 512 | 1024 | 2048 | 4096) || !per_cluster.is_power_of_two() {
            return None;
        }
        let or = |short: u16, long: usize| if short == 0 { u32_at(&boot, long) } else { u32::from(short) };
        let (reserved, tables, entries) = (u16_at(&boot, 14), *boot.get(16)?, u16_at(&boot, 17));
        let (total, table) = (or(u16_at(&boot, 19), 32), or(u16_at(&boot, 22), 36));
        if reserved == 0 || !(1..=2).contains(&tables) || table == 0 {
            return None;
        }
        let sector = u64::from(sector);
        let root_bytes = usize::from(entries) * ENTRY;
        let root = u64::from(reserved) + u64::from(tables) * u64::from(table);
        let data = root + (root_bytes as u64).div_ceil(sector);
        let clusters = u32::try_from(u64::from(total).checked_sub(data)? / u64::from(per_cluster)).ok()?;
        let kind = match clusters {
            ..4085 => Kind::Fat12,
            4085..65_525 => Kind::Fat16,
            _ => Kind::Fat32,
        };
        let (label, root) = match kind {
            Kind::Fat32 => (71, Root::Cluster(u32_at(&boot, 44))),
            _ => (43, Root::Fixed { at: root * sector, length: root_bytes }),
        };
        Some(Self {
            label: String::from_utf8_lossy(boot.get(label..label + 11)?).into_owned(),
            kind,
            sector,
            cluster: usize::from(per_cluster) * sector as usize,
            table: u64::from(reserved) * sector,
            root,
            data: data * sector,
            clusters,
        })
    }

    /// Reads a file of the root folder.
    pub(crate) fn file(&self, read: Read<'_>, name: &str, most: usize) -> Result<Vec<u8>, &'static str> {
        let root = match self.root {
            Root::Fixed { at, length } => read(at, length).ok_or("its root folder cannot be read")?,
            Root::Cluster(first) => self.chain(read, first, MOST_FOLDER)?,
        };
        let (first, length) = find(&root, name).ok_or("it has no file user-data")?;
        if length > most {
            return Err("its file user-data is too large");
        }
        let mut bytes = if length == 0 { Vec::new() } else { self.chain(read, first, length)? };
        if bytes.len() < length {
            return Err("its file user-data ends early");
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    /// The clusters from `first` on, until there are `enough` bytes or the chain ends.
    fn chain(&self, read: Read<'_>, first: u32, enough: usize) -> Result<Vec<u8>, &'static str> {
        let mut bytes = Vec::new();
        let mut next = first;
        // A chain that leads in a circle ends with `enough`.
        while bytes.len() < enough && (2..self.clusters.saturating_add(2)).contains(&next) {
            let at = self.data + u64::from(next - 2) * self.cluster as u64;
            bytes.extend(read(at, self.cluster).ok_or("a part of it cannot be read")?);
            next = self.next(read, next).ok_or("its table cannot be read")?;
        }
        Ok(bytes)
    }

    /// What the table says of a cluster: the one after it, or a number that is none.
    fn next(&self, read: Read<'_>, cluster: u32) -> Option<u32> {
        let cluster = u64::from(cluster);
        let at = match self.kind {
            Kind::Fat12 => cluster + cluster / 2,
            Kind::Fat16 => cluster * 2,
            Kind::Fat32 => cluster * 4,
        };
        // Reads of whole sectors: an entry of FAT12 may lie in two.
        let (start, offset) = (at / self.sector * self.sector, (at % self.sector) as usize);
        let bytes = read(self.table + start, 2 * self.sector as usize)
            .or_else(|| read(self.table + start, self.sector as usize))?;
        Some(match self.kind {
            Kind::Fat12 if cluster % 2 == 0 => u32::from(u16_at(&bytes, offset) & 0xfff),
            Kind::Fat12 => u32::from(u16_at(&bytes, offset) >> 4),
            Kind::Fat16 => u32::from(u16_at(&bytes, offset)),
            Kind::Fat32 => u32_at(&bytes, offset) & 0x0fff_ffff,
        })
    }
}

/// First cluster and length of a file in a folder's entries. Names are compared without their case, as FAT does.
fn find(folder: &[u8], name: &str) -> Option<(u32, usize)> {
    let mut long: Vec<u16> = Vec::new();
    for entry in folder.chunks_exact(ENTRY) {
        let (first, attributes) = (*entry.first()?, *entry.get(11)?);
        match (first, attributes) {
            (0, _) => return None,
            (0xe5, _) => long.clear(),
            (_, LONG_NAME) => {
                // The last part comes first, marked.
                if first & 0x40 != 0 {
                    long.clear();
                }
                if long.len() < LONG_PARTS * LONG_PART {
                    long.splice(0..0, long_part(entry));
                }
            }
            (_, attributes) if attributes & (VOLUME_LABEL | FOLDER) != 0 => long.clear(),
            _ => {
                let given = String::from_utf16_lossy(&long);
                if given.eq_ignore_ascii_case(name) || short_name(entry).eq_ignore_ascii_case(name) {
                    let cluster = u32::from(u16_at(entry, 20)) << 16 | u32::from(u16_at(entry, 26));
                    return Some((cluster, usize::try_from(u32_at(entry, 28)).ok()?));
                }
                long.clear();
            }
        }
    }
    None
}

/// The characters of one entry of a long name, up to its end.
fn long_part(entry: &[u8]) -> Vec<u16> {
    let places = [1..11, 14..26, 28..32].into_iter().filter_map(|range| entry.get(range));
    let units = places.flat_map(|bytes| bytes.chunks_exact(2)).map(|unit| u16_at(unit, 0));
    units.take_while(|unit| *unit != 0).collect()
}

fn short_name(entry: &[u8]) -> String {
    let part = |range| String::from_utf8_lossy(entry.get(range).unwrap_or_default()).trim_end().to_owned();
    let (name, kind) = (part(0..8), part(8..11));
    if kind.is_empty() { name } else { format!("{name}.{kind}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nocloud::{Disk, look};

    /// A FAT12 disk of 64 KiB with clusters of 512 bytes; `user-data` has its first half in cluster 3 and the second in
    /// cluster 5.
    fn disk(text: &[u8]) -> Vec<u8> {
        let mut disk = vec![0_u8; 64 << 10];
        for (at, bytes) in [
            (11, &[0, 2, 1, 1, 0, 2, 16, 0, 128, 0, 0xf8, 1, 0][..]),
            (43, b"CIDATA     "),
            (510, &[0x55, 0xaa]),
            // Clusters 3 -> 5, 5 the last: twelve bits each.
            (512, &[0xf8, 0xff, 0xff, 0x00, 0x50, 0x00, 0x00, 0xf0, 0xff]),
            (1024, &[0xf8, 0xff, 0xff, 0x00, 0x50, 0x00, 0x00, 0xf0, 0xff]),
        ] {
            disk[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let mut label = *b"CIDATA     \x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        disk[1536..1568].copy_from_slice(&label);
        let mut part = [0xff_u8; 32];
        part[0] = 0x41;
        part[11..14].copy_from_slice(&[LONG_NAME, 0, 0]);
        part[26..28].fill(0);
        let places: Vec<usize> = [1..11, 14..26].into_iter().flat_map(|range| range.step_by(2)).collect();
        for (place, unit) in places.into_iter().zip("user-data\0".encode_utf16()) {
            part[place..place + 2].copy_from_slice(&unit.to_le_bytes());
        }
        disk[1568..1600].copy_from_slice(&part);
        label[..12].copy_from_slice(b"USER-D~1   \x20");
        label[26] = 3;
        label[28..32].copy_from_slice(&(text.len() as u32).to_le_bytes());
        disk[1600..1632].copy_from_slice(&label);
        // Data begins behind boot sector, two tables and one sector of root.
        for (cluster, part) in [3, 5].into_iter().zip(text.chunks(512)) {
            let at = 2048 + (cluster - 2) * 512;
            disk[at..at + part.len()].copy_from_slice(part);
        }
        disk
    }

    fn look_at(disk: &[u8], most: usize) -> Disk {
        let mut read = |at: u64, length: usize| {
            let at = usize::try_from(at).ok()?;
            disk.get(at..at.checked_add(length)?).map(<[u8]>::to_vec)
        };
        look(&mut read, most)
    }

    #[test]
    fn a_file_is_read_along_its_chain() {
        let text: Vec<u8> = (0..700_u32).map(|number| number as u8).collect();
        assert_eq!(look_at(&disk(&text), 1000), Disk::UserData(text.clone()));
        assert_eq!(look_at(&disk(&text), 699), Disk::Damaged("its file user-data is too large"));
        assert_eq!(look_at(&disk(b""), 1000), Disk::UserData(vec![]));
    }

    #[test]
    fn damage_is_named_and_other_labels_left_alone() {
        let text = vec![7; 700];
        let mut other = disk(&text);
        other[43] = b'X';
        assert_eq!(look_at(&other, 1000), Disk::Other);
        let mut gone = disk(&text);
        gone[1568..1632].fill(0);
        assert_eq!(look_at(&gone, 1000), Disk::Damaged("it has no file user-data"));
        let mut short = disk(&text);
        short[512 + 3..512 + 6].fill(0xff);
        assert_eq!(look_at(&short, 1000), Disk::Damaged("its file user-data ends early"));
        let cut = &disk(&text)[..2048 + 512];
        assert_eq!(look_at(cut, 1000), Disk::Damaged("a part of it cannot be read"));
    }

    #[test]
    fn a_chain_in_a_circle_ends() {
        let mut circle = disk(&vec![7; 700]);
        // Cluster 3 leads to itself.
        circle[512 + 4] = 0x30;
        assert!(matches!(look_at(&circle, 1000), Disk::UserData(bytes) if bytes.len() == 700));
    }
}
