//! ISO 9660 (ECMA-119) with its extensions for names, Joliet and Rock Ridge, as far as reading one file of the root
//! folder takes.

use crate::nocloud::{Read, u32_at};

const SECTOR: usize = 2048;
const FIRST_DESCRIPTOR: u64 = 16;
/// Most descriptors that are looked at.
const MOST_DESCRIPTORS: u64 = 32;
/// Most bytes of the root folder.
const MOST_FOLDER: usize = 1 << 20;
const PRIMARY: u8 = 1;
const SUPPLEMENTARY: u8 = 2;
const END: u8 = 255;
const IS_FOLDER: u8 = 2;

/// A file system.
#[derive(Debug)]
pub(crate) struct Volume {
    /// Its label.
    pub(crate) label: String,
    /// Root folders: of the volume proper, and of Joliet, whose names are UTF-16.
    roots: Vec<(Extent, bool)>,
}

#[derive(Debug, Clone, Copy)]
struct Extent {
    sector: u32,
    bytes: usize,
}

impl Volume {
    /// Reads the descriptors; `None` when there are none.
    pub(crate) fn open(read: Read<'_>) -> Option<Self> {
        let mut label = None;
        let mut roots = Vec::new();
        for number in FIRST_DESCRIPTOR..FIRST_DESCRIPTOR + MOST_DESCRIPTORS {
            let descriptor = read(number * SECTOR as u64, SECTOR)?;
            if descriptor.get(1..6)? != b"CD001" {
                return None;
            }
            let root = extent(descriptor.get(156..190)?);
            let is_joliet = matches!(descriptor.get(88..91)?, b"%/@" | b"%/C" | b"%/E");
            match *descriptor.first()? {
                PRIMARY => {
                    label = Some(String::from_utf8_lossy(descriptor.get(40..72)?).into_owned());
                    roots.push((root, false));
                }
                SUPPLEMENTARY if is_joliet => roots.push((root, true)),
                END => break,
                _ => {}
            }
        }
        Some(Self { label: label?, roots })
    }

    /// Reads a file of the root folder.
    pub(crate) fn file(&self, read: Read<'_>, name: &str, most: usize) -> Result<Vec<u8>, &'static str> {
        for (root, is_joliet) in &self.roots {
            let folder = root.read(read, MOST_FOLDER)?;
            if let Some(file) = find(&folder, name, *is_joliet) {
                return file.read(read, most);
            }
        }
        Err("it has no file user-data")
    }
}

impl Extent {
    fn read(self, read: Read<'_>, most: usize) -> Result<Vec<u8>, &'static str> {
        if self.bytes > most {
            return Err("a file of it is too large");
        }
        // Disks are read in whole sectors, of which the last may be missing in an image that was cut.
        read(u64::from(self.sector) * SECTOR as u64, self.bytes).ok_or("a part of it cannot be read")
    }
}

/// Where the file of a folder's record lies.
fn extent(record: &[u8]) -> Extent {
    Extent { sector: u32_at(record, 2), bytes: usize::try_from(u32_at(record, 10)).unwrap_or(usize::MAX) }
}

fn find(folder: &[u8], name: &str, is_joliet: bool) -> Option<Extent> {
    // A record does not cross a sector; what is left of one is zero.
    folder.chunks(SECTOR).find_map(|sector| {
        let mut rest = sector;
        while let Some(length) =
            rest.first().map(|length| usize::from(*length)).filter(|length| *length >= 34)
        {
            let (record, after) = rest.split_at_checked(length)?;
            if record.get(25)? & IS_FOLDER == 0 && is_named(record, name, is_joliet) {
                return Some(extent(record));
            }
            rest = after;
        }
        None
    })
}

fn is_named(record: &[u8], wanted: &str, is_joliet: bool) -> bool {
    let length = record.get(32).map_or(0, |length| usize::from(*length));
    let Some(bytes) = record.get(33..33 + length) else { return false };
    let name = if is_joliet {
        let units = bytes.chunks_exact(2).filter_map(|unit| Some(u16::from_be_bytes(unit.try_into().ok()?)));
        String::from_utf16_lossy(&units.collect::<Vec<_>>())
    } else {
        String::from_utf8_lossy(bytes).into_owned()
    };
    // A version may stand behind the name.
    let plain = name.split(';').next().unwrap_or_default().trim_end_matches('.');
    if plain.eq_ignore_ascii_case(wanted) {
        return true;
    }
    // What follows the name, at an even place, may be Rock Ridge's.
    let extra = record.get((33 + length).next_multiple_of(2)..).unwrap_or_default();
    !is_joliet && rock_ridge(extra).is_some_and(|name| name == wanted.as_bytes())
}

/// The name in a record's System Use entries.
fn rock_ridge(mut entries: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    while let Some(length) = entries.get(2).map(|length| usize::from(*length)).filter(|length| *length >= 4) {
        let (entry, rest) = entries.split_at_checked(length)?;
        if entry.starts_with(b"NM") {
            name.extend_from_slice(entry.get(5..)?);
        }
        entries = rest;
    }
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nocloud::{Disk, look};

    fn record(name: &[u8], sector: u32, bytes: u32, extra: &[u8]) -> Vec<u8> {
        let mut record = vec![0; 33];
        record[2..6].copy_from_slice(&sector.to_le_bytes());
        record[10..14].copy_from_slice(&bytes.to_le_bytes());
        record[32] = name.len() as u8;
        record.extend_from_slice(name);
        record.resize(record.len().next_multiple_of(2), 0);
        record.extend_from_slice(extra);
        record.resize(record.len().next_multiple_of(2), 0);
        record[0] = record.len() as u8;
        record
    }

    /// A disk whose root folders are in sectors 20 and 21, and whose file is in sector 22.
    fn disk(plain: &[u8], joliet: Option<&[u8]>) -> Vec<u8> {
        let mut disk = vec![0; 23 * SECTOR];
        let mut put = |sector: usize, at: usize, bytes: &[u8]| {
            disk[sector * SECTOR + at..][..bytes.len()].copy_from_slice(bytes);
        };
        put(16, 0, b"\x01CD001\x01");
        put(16, 40, format!("{:32}", "cidata").as_bytes());
        put(16, 156, &record(b"\0", 20, SECTOR as u32, &[])[..34]);
        put(17, 0, b"\x02CD001\x01");
        if let Some(joliet) = joliet {
            put(17, 88, b"%/E");
            put(17, 156, &record(b"\0", 21, SECTOR as u32, &[])[..34]);
            put(21, 0, joliet);
        }
        put(18, 0, b"\xffCD001\x01");
        put(20, 0, plain);
        put(22, 0, b"#stratos-config\n");
        disk
    }

    fn look_at(disk: &[u8]) -> Disk {
        let mut read = |at: u64, length: usize| {
            let at = usize::try_from(at).ok()?;
            disk.get(at..at.checked_add(length)?).map(<[u8]>::to_vec)
        };
        look(&mut read, 1000)
    }

    #[test]
    fn the_file_is_found_under_each_kind_of_name() {
        let found = || Disk::UserData(b"#stratos-config\n".to_vec());
        assert_eq!(look_at(&disk(&record(b"USER-DATA;1", 22, 16, &[]), None)), found());
        let ridge = record(b"USER_DAT.;1", 22, 16, b"PX\x04\x01NM\x0e\x01\0user-data");
        assert_eq!(look_at(&disk(&ridge, None)), found());
        let joliet: Vec<u8> = "user-data".encode_utf16().flat_map(u16::to_be_bytes).collect();
        let other = record(b"META_DAT.;1", 19, 16, &[]);
        let both = [other.clone(), record(&joliet, 22, 16, &[])].concat();
        assert_eq!(look_at(&disk(&other, Some(&both))), found());
    }

    #[test]
    fn damage_is_named() {
        let missing = disk(&record(b"META_DAT.;1", 22, 16, &[]), None);
        assert_eq!(look_at(&missing), Disk::Damaged("it has no file user-data"));
        let long = disk(&record(b"USER-DATA;1", 22, 1001, &[]), None);
        assert_eq!(look_at(&long), Disk::Damaged("a file of it is too large"));
        let outside = disk(&record(b"USER-DATA;1", 900, 16, &[]), None);
        assert_eq!(look_at(&outside), Disk::Damaged("a part of it cannot be read"));
        let mut other = disk(&record(b"USER-DATA;1", 22, 16, &[]), None);
        other[16 * SECTOR + 40] = b'x';
        assert_eq!(look_at(&other), Disk::Other);
    }
}
