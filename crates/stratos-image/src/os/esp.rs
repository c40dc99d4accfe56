//! The EFI system partition: a FAT32 file system that is written once and whole (Microsoft's "FAT32 File System
//! Specification", version 1.03), so that every file lies in one piece, and with no time but the earliest there is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::Path;

/// Bytes of a sector.
const SECTOR: u64 = 512;
/// Sectors of a cluster: the smallest one, since FAT32 has to have many (see [`MIN_CLUSTERS`]).
const CLUSTER_SECTORS: u64 = 2;
/// Bytes of a cluster.
const CLUSTER: u64 = SECTOR * CLUSTER_SECTORS;
/// With fewer clusters than this, firmware would take it for FAT16.
const MIN_CLUSTERS: u64 = 65_525;
/// Sectors before the first table.
const RESERVED: u64 = 32;
/// Copies of the table.
const TABLES: u64 = 2;
/// The root folder's cluster, the first there is.
const ROOT: u32 = 2;
/// What the table says of a file's last cluster.
const LAST: u32 = 0x0FFF_FFFF;
/// 1980-01-01, as an entry says it.
const DATE: [u8; 2] = 0x0021u16.to_le_bytes();

const READ_ONLY_HIDDEN_SYSTEM_LABEL: u8 = 0x0F;
const LABEL: u8 = 0x08;
const FOLDER: u8 = 0x10;
const FILE: u8 = 0x20;

/// Formats `size` bytes of `disk` from `start`, and puts the file `uki` at each of `places`.
pub(crate) fn write(
    disk: &mut File,
    (start, size): (u64, u64),
    volume: u32,
    uki: &Path,
    places: &[String],
) -> io::Result<()> {
    let length = std::fs::metadata(uki)?.len();
    let mut root = BTreeMap::new();
    for place in places {
        insert(&mut root, place);
    }
    let geometry = Geometry::of(size).ok_or_else(|| io::Error::other("it is too small for FAT32"))?;
    let mut volume =
        Volume { disk, start, geometry, id: volume, table: vec![0x0FFF_FFF8, LAST], uki, length };
    let clusters = volume.allocate(folder_size(&root, true))?;
    debug_assert_eq!(clusters, ROOT);
    volume.folder(&root, ROOT, None)?;
    volume.finish()
}

/// What is in a folder, by name.
#[derive(Debug)]
enum Node {
    Folder(BTreeMap<String, Node>),
    File,
}

fn insert(folder: &mut BTreeMap<String, Node>, place: &str) {
    match place.split_once('/') {
        None => {
            folder.insert(place.to_owned(), Node::File);
        }
        Some((name, rest)) => {
            let inner = folder.entry(name.to_owned()).or_insert_with(|| Node::Folder(BTreeMap::new()));
            if let Node::Folder(inner) = inner {
                insert(inner, rest);
            }
        }
    }
}

/// Bytes of a folder's entries.
fn folder_size(folder: &BTreeMap<String, Node>, is_root: bool) -> u64 {
    let own = if is_root { 1 } else { 2 };
    let names = folder.keys().map(|name| 1 + long_parts(name));
    32 * (own + names.sum::<usize>()) as u64
}

/// How a volume of some size is divided.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    sectors: u64,
    table_sectors: u64,
    clusters: u64,
}

impl Geometry {
    /// None when there would be too few clusters.
    fn of(size: u64) -> Option<Self> {
        let sectors = size / SECTOR;
        let most = sectors.checked_sub(RESERVED)? / CLUSTER_SECTORS + 2;
        let table_sectors = (most * 4).div_ceil(SECTOR);
        let clusters = sectors.checked_sub(RESERVED + TABLES * table_sectors)? / CLUSTER_SECTORS;
        (clusters >= MIN_CLUSTERS).then_some(Self { sectors, table_sectors, clusters })
    }

    /// Where a cluster is, in bytes from the volume's start.
    fn place(&self, cluster: u32) -> u64 {
        (RESERVED + TABLES * self.table_sectors) * SECTOR + u64::from(cluster - ROOT) * CLUSTER
    }
}

/// A volume being written.
struct Volume<'a> {
    disk: &'a mut File,
    start: u64,
    geometry: Geometry,
    id: u32,
    /// For each cluster, the one that follows it in its file.
    table: Vec<u32>,
    uki: &'a Path,
    length: u64,
}

impl Volume<'_> {
    /// Takes clusters for some bytes, one behind the other, and gives the first.
    fn allocate(&mut self, bytes: u64) -> io::Result<u32> {
        let first = self.table.len();
        let end = first + bytes.div_ceil(CLUSTER).max(1) as usize;
        if end as u64 > self.geometry.clusters + u64::from(ROOT) {
            return Err(io::Error::other("the EFI system partition is full"));
        }
        self.table.extend((first + 1..end).map(|next| next as u32));
        self.table.push(LAST);
        Ok(first as u32)
    }

    /// Writes a folder, which has its clusters already, and all that is in it.
    fn folder(&mut self, folder: &BTreeMap<String, Node>, own: u32, parent: Option<u32>) -> io::Result<()> {
        let mut entries = Vec::new();
        match parent {
            None => entries.extend(entry(b"ESP        ", LABEL, 0, 0)),
            Some(parent) => {
                entries.extend(entry(b".          ", FOLDER, own, 0));
                // The root is named by zero here.
                let parent = if parent == ROOT { 0 } else { parent };
                entries.extend(entry(b"..         ", FOLDER, parent, 0));
            }
        }
        for (number, (name, node)) in folder.iter().enumerate() {
            let short = short_name(name, number + 1);
            entries.extend(long_entries(name, &short));
            match node {
                Node::File => {
                    let cluster = self.allocate(self.length)?;
                    let size = u32::try_from(self.length).map_err(io::Error::other)?;
                    entries.extend(entry(&short, FILE, cluster, size));
                    self.seek(self.geometry.place(cluster))?;
                    io::copy(&mut File::open(self.uki)?, self.disk)?;
                }
                Node::Folder(inner) => {
                    let cluster = self.allocate(folder_size(inner, false))?;
                    entries.extend(entry(&short, FOLDER, cluster, 0));
                    self.folder(inner, cluster, Some(own))?;
                }
            }
        }
        self.put(self.geometry.place(own), &entries)
    }

    /// Writes the boot sectors and the tables.
    fn finish(mut self) -> io::Result<()> {
        let (boot, info) = (self.boot_sector(), self.info_sector());
        // The second pair is the copy that the first names.
        for sector in [0, 6] {
            self.put(sector * SECTOR, &boot)?;
            self.put((sector + 1) * SECTOR, &info)?;
        }
        let table: Vec<u8> = self.table.iter().flat_map(|next| next.to_le_bytes()).collect();
        for copy in 0..TABLES {
            self.put((RESERVED + copy * self.geometry.table_sectors) * SECTOR, &table)?;
        }
        Ok(())
    }

    fn boot_sector(&self) -> [u8; SECTOR as usize] {
        let mut sector = [0; SECTOR as usize];
        let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &[0xEB, 0x58, 0x90]);
        put(3, b"MSWIN4.1"); // what every reader knows
        put(11, &(SECTOR as u16).to_le_bytes());
        put(13, &[CLUSTER_SECTORS as u8]);
        put(14, &(RESERVED as u16).to_le_bytes());
        put(16, &[TABLES as u8]);
        put(21, &[0xF8]); // a fixed disk
        put(24, &63u16.to_le_bytes()); // sectors of a track and heads, which nobody uses
        put(26, &255u16.to_le_bytes());
        put(28, &((self.start / SECTOR) as u32).to_le_bytes());
        put(32, &(self.geometry.sectors as u32).to_le_bytes());
        put(36, &(self.geometry.table_sectors as u32).to_le_bytes());
        put(44, &ROOT.to_le_bytes());
        put(48, &1u16.to_le_bytes()); // sector of the counts
        put(50, &6u16.to_le_bytes()); // sector of the copy
        put(64, &[0x80, 0, 0x29]); // drive, and that the next three fields are there
        put(67, &self.id.to_le_bytes());
        put(71, b"ESP        FAT32   ");
        put(510, &[0x55, 0xAA]);
        sector
    }

    /// The counts of free clusters.
    fn info_sector(&self) -> [u8; SECTOR as usize] {
        let mut sector = [0; SECTOR as usize];
        let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
        let next = self.table.len() as u32;
        put(0, b"RRaA");
        put(484, b"rrAa");
        put(488, &((self.geometry.clusters + u64::from(ROOT)) as u32 - next).to_le_bytes());
        put(492, &next.to_le_bytes());
        put(510, &[0x55, 0xAA]);
        sector
    }

    fn seek(&mut self, at: u64) -> io::Result<()> {
        self.disk.seek(SeekFrom::Start(self.start + at)).map(drop)
    }

    fn put(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.seek(at)?;
        self.disk.write_all(bytes)
    }
}

/// A folder's entry.
fn entry(name: &[u8; 11], attributes: u8, cluster: u32, size: u32) -> [u8; 32] {
    let mut entry = [0; 32];
    let mut put = |at: usize, bytes: &[u8]| entry[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name);
    put(11, &[attributes]);
    put(16, &DATE); // made
    put(18, &DATE); // read
    put(20, &((cluster >> 16) as u16).to_le_bytes());
    put(24, &DATE); // written
    put(26, &(cluster as u16).to_le_bytes());
    put(28, &size.to_le_bytes());
    entry
}

/// Whether a name fits an entry as it is.
fn is_short(name: &str) -> bool {
    let (stem, suffix) = name.split_once('.').unwrap_or((name, ""));
    let legal = |part: &str| part.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
    (1..=8).contains(&stem.len()) && suffix.len() <= 3 && legal(stem) && legal(suffix)
}

/// The name in an entry: the name itself, or one made from it that no other of the folder has.
fn short_name(name: &str, number: usize) -> [u8; 11] {
    let upper = name.to_ascii_uppercase();
    let (stem, suffix) = upper.rsplit_once('.').unwrap_or((&upper, ""));
    let legal = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
    let stem = if is_short(&upper) {
        stem.to_owned()
    } else {
        let tail = format!("~{number}");
        legal(stem).chars().take(8 - tail.len()).chain(tail.chars()).collect()
    };
    let mut short = [b' '; 11];
    short[..stem.len()].copy_from_slice(stem.as_bytes());
    for (place, byte) in short[8..].iter_mut().zip(legal(suffix).bytes()) {
        *place = byte;
    }
    short
}

/// How many entries a name takes that does not fit one.
fn long_parts(name: &str) -> usize {
    if is_short(name) { 0 } else { name.encode_utf16().count().div_ceil(13) }
}

/// The entries before a name's own that hold it as it is, the last part first.
fn long_entries(name: &str, short: &[u8; 11]) -> Vec<u8> {
    let parts = long_parts(name);
    let mut units: Vec<u16> = name.encode_utf16().collect();
    if units.len() < 13 * parts {
        units.push(0);
        units.resize(13 * parts, 0xFFFF);
    }
    let sum = short.iter().fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let mut entries = Vec::new();
    for (number, units) in units.chunks(13).enumerate().take(parts).rev() {
        let mut entry = [0; 32];
        entry[0] = (number + 1) as u8 | if number + 1 == parts { 0x40 } else { 0 };
        entry[11] = READ_ONLY_HIDDEN_SYSTEM_LABEL;
        entry[13] = sum;
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain((28..32).step_by(2));
        for (place, unit) in places.zip(units) {
            entry[place..place + 2].copy_from_slice(&unit.to_le_bytes());
        }
        entries.extend(entry);
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const SIZE: u64 = 72 << 20;
    const START: u64 = 1 << 20;
    const PLACES: [&str; 2] = ["EFI/BOOT/BOOTX64.EFI", "EFI/Linux/stratos_0.1.0.efi"];

    fn content() -> Vec<u8> {
        (0..300_000u32).map(|n| (n % 251) as u8).collect()
    }

    fn volume(folder: &Path, name: &str) -> Vec<u8> {
        let (disk, uki) = (folder.join(name), folder.join("uki"));
        std::fs::write(&uki, content()).unwrap();
        let mut file = File::options().read(true).write(true).create_new(true).open(&disk).unwrap();
        file.set_len(START + SIZE + START).unwrap();
        write(&mut file, (START, SIZE), 7, &uki, &PLACES.map(str::to_owned)).unwrap();
        std::fs::read(disk).unwrap()
    }

    #[test]
    fn short_names_are_unique_and_long_ones_complete() {
        for (name, short, parts) in [
            ("EFI", "EFI        ", 0),
            ("BOOTX64.EFI", "BOOTX64 EFI", 0),
            ("Linux", "LINUX      ", 1),
            ("stratos_0.1.0.efi", "STRATO~2EFI", 2),
            ("thirteen.char", "THIRTE~2CHA", 1),
        ] {
            assert_eq!(short_name(name, 2), short.as_bytes(), "{name}");
            let entries = long_entries(name, short.as_bytes().try_into().unwrap());
            assert_eq!((long_parts(name), entries.len()), (parts, 32 * parts), "{name}");
        }
    }

    #[test]
    fn volumes_are_the_same_every_time_and_stay_inside_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = volume(folder.path(), "one");
        assert!(bytes == volume(folder.path(), "two"));
        let outside = bytes[..START as usize].iter().chain(&bytes[(START + SIZE) as usize..]);
        assert!(outside.into_iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_volume_that_is_too_small_or_full_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let uki = folder.path().join("uki");
        std::fs::write(&uki, vec![0; 40 << 20]).unwrap();
        let mut file = File::create_new(folder.path().join("disk")).unwrap();
        let places = PLACES.map(str::to_owned);
        for (size, expected) in
            [(64 << 20, "it is too small for FAT32"), (72 << 20, "the EFI system partition is full")]
        {
            let error = write(&mut file, (0, size), 7, &uki, &places).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    /// Where they are, other programs that know the format find the volume without fault, and its files.
    #[test]
    fn other_programs_read_the_volume() {
        let found = |program: &str| {
            let folders = ["/usr/sbin", "/sbin", "/usr/bin"];
            folders.map(|folder| Path::new(folder).join(program)).into_iter().find(|path| path.is_file())
        };
        let (Some(fsck), Some(mcopy)) = (found("fsck.fat"), found("mcopy")) else {
            eprintln!("skipped: no fsck.fat or mcopy (packages dosfstools, mtools)");
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let bytes = volume(folder.path(), "disk");
        let esp = folder.path().join("esp");
        std::fs::write(&esp, &bytes[START as usize..(START + SIZE) as usize]).unwrap();
        let output = Command::new(fsck).arg("-nv").arg(&esp).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        assert!(text.contains("32 bit entries"), "{text}");
        for place in PLACES {
            let to = folder.path().join("copy");
            let mut command = Command::new(&mcopy);
            command.arg("-n").arg("-o").arg("-i").arg(&esp).arg(format!("::{place}")).arg(&to);
            assert!(command.status().unwrap().success(), "{place}");
            assert!(std::fs::read(&to).unwrap() == content(), "{place}");
        }
    }
}
