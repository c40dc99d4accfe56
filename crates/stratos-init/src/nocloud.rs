//! NoCloud disks: finding the file `user-data` on a small FAT or ISO 9660 file system. Pure: reads of a disk's
//! untrusted bytes in, the file's bytes out.
//!
//! The kernel could mount them, with five modules more at every boot, and would be exposed to them; one file of a root
//! folder needs little.

use crate::fat;
use crate::iso9660;

/// The file.
pub const FILE: &str = "user-data";
/// Labels of such a disk.
const LABELS: [&str; 2] = ["cidata", "CIDATA"];

/// Reads bytes of a disk: from where, and how many. `None` when the disk has not so many, or refuses them.
pub type Read<'a> = &'a mut dyn FnMut(u64, usize) -> Option<Vec<u8>>;

/// What a disk is.
#[derive(Debug, PartialEq, Eq)]
pub enum Disk {
    /// Not NoCloud's.
    Other,
    /// NoCloud's, with this file.
    UserData(Vec<u8>),
    /// NoCloud's, but the file cannot be had.
    Damaged(&'static str),
}

/// Looks at a disk, and reads its file of at most `most` bytes.
pub fn look(read: Read<'_>, most: usize) -> Disk {
    let is_ours = |label: &str| LABELS.contains(&label.trim_end());
    let file = if let Some(volume) = fat::Volume::open(read) {
        if !is_ours(&volume.label) {
            return Disk::Other;
        }
        volume.file(read, FILE, most)
    } else if let Some(volume) = iso9660::Volume::open(read) {
        if !is_ours(&volume.label) {
            return Disk::Other;
        }
        volume.file(read, FILE, most)
    } else {
        return Disk::Other;
    };
    match file {
        Ok(bytes) => Disk::UserData(bytes),
        Err(problem) => Disk::Damaged(problem),
    }
}

/// A little-endian number of two bytes; 0 behind the end.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes)
}

/// A little-endian number of four bytes; 0 behind the end.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_of_another_kind_is_left_alone() {
        let disk = vec![0_u8; 1 << 16];
        let mut read =
            |at: u64, length: usize| disk.get(at as usize..at as usize + length).map(<[u8]>::to_vec);
        assert_eq!(look(&mut read, 100), Disk::Other);
        assert_eq!(look(&mut |_, _| None, 100), Disk::Other);
    }
}
