//! A NoCloud disk: how a machine without firmware tables gets its configuration.

use std::io::{Cursor, Write as _};

/// Size of the disk: the least that a FAT12 file system of any content here fits on.
const SIZE: usize = 1 << 20;
/// The first line that says whose configuration it is.
const MARK: &str = "#stratos-config\n";

/// A FAT file system labelled `CIDATA` with this configuration as its `user-data`.
pub(crate) fn disk(config: &str) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; SIZE];
    let options = fatfs::FormatVolumeOptions::new().volume_label(*b"CIDATA     ");
    fatfs::format_volume(Cursor::new(&mut bytes), options)?;
    let volume = fatfs::FileSystem::new(Cursor::new(&mut bytes), fatfs::FsOptions::new())?;
    {
        let root = volume.root_dir();
        root.create_file("meta-data")?;
        let mut file = root.create_file("user-data")?;
        file.write_all(MARK.as_bytes())?;
        file.write_all(config.as_bytes())?;
        file.flush()?;
    }
    volume.unmount()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_disk_holds_the_configuration() {
        let bytes = disk("version = 1\n").unwrap();
        let volume = fatfs::FileSystem::new(Cursor::new(bytes), fatfs::FsOptions::new()).unwrap();
        assert_eq!(volume.volume_label_as_bytes(), b"CIDATA");
        let mut text = String::new();
        volume.root_dir().open_file("user-data").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "#stratos-config\nversion = 1\n");
    }

    #[test]
    fn the_largest_configuration_fits() {
        disk(&"#".repeat(stratos_types::node_config::MAX_BYTES)).unwrap();
    }
}
