//! How large PID 1 is: its program's size in an image's initramfs, a cpio archive ("newc"), plain or compressed with zstd.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

/// Largest archive that is looked through.
const MAX_BYTES: u64 = 1 << 30;
/// What zstd's frames begin with (RFC 8878).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Longest name in one.
const MAX_NAME: u64 = 4096;
/// Bytes of an entry's head: `070701` and 13 numbers of 8 hexadecimal digits (cpio(5)).
const HEAD: usize = 110;
/// Which of the numbers is the size of the file, and which that of the name.
const SIZE: usize = 6;
const NAME_SIZE: usize = 11;

/// Size in bytes of the program that an initramfs starts.
///
/// # Errors
/// When the file is no initramfs, or has no `/init`.
pub(crate) fn init_bytes(path: &Path) -> Result<u64> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut file = BufReader::new(file);
    let found = match file.fill_buf()?.starts_with(&ZSTD) {
        true => find(zstd::Decoder::with_buffer(file)?.take(MAX_BYTES), "init"),
        false => find(file.take(MAX_BYTES), "init"),
    };
    found.with_context(|| format!("look for /init in {}", path.display()))
}

fn find(mut archive: impl Read, wanted: &str) -> Result<u64> {
    loop {
        let mut head = [0; HEAD];
        archive.read_exact(&mut head)?;
        let head = std::str::from_utf8(&head).context("no cpio archive")?;
        ensure!(head.starts_with("070701"), "no cpio archive");
        let number = |at: usize| u64::from_str_radix(&head[6 + 8 * at..14 + 8 * at], 16);
        let (size, name_size) = (number(SIZE)?, number(NAME_SIZE)?);
        ensure!(name_size <= MAX_NAME, "a name of {name_size} bytes");
        let mut name = Vec::new();
        // Everything begins at a multiple of four, the file after the name too.
        let padded = (HEAD as u64 + name_size).next_multiple_of(4) - HEAD as u64;
        archive.by_ref().take(padded).read_to_end(&mut name)?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        if name == wanted.as_bytes() {
            return Ok(size);
        }
        if name == b"TRAILER!!!" {
            bail!("there is none");
        }
        std::io::copy(&mut archive.by_ref().take(size.next_multiple_of(4)), &mut std::io::sink())?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, content: &str) -> String {
        let mut numbers = [0; 13];
        (numbers[SIZE], numbers[NAME_SIZE]) = (content.len(), name.len() + 1);
        let numbers: String = numbers.iter().map(|number| format!("{number:08x}")).collect();
        let pad = |text: String| text.clone() + &"\0".repeat(text.len().next_multiple_of(4) - text.len());
        pad(format!("070701{numbers}{name}\0")) + &pad(content.to_owned())
    }

    #[test]
    fn the_size_of_the_first_program_is_found() {
        let archive =
            entry("dev", "") + &entry("some", "odd") + &entry("init", "hello") + &entry("TRAILER!!!", "");
        assert_eq!(find(archive.as_bytes(), "init").unwrap(), 5);
        assert_eq!(find(archive.as_bytes(), "other").unwrap_err().to_string(), "there is none");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initramfs.img");
        for content in [archive.as_bytes().to_vec(), zstd::encode_all(archive.as_bytes(), 1).unwrap()] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(init_bytes(&path).unwrap(), 5);
        }
        for wrong in ["", "070701", &"x".repeat(200), &archive[..120]] {
            assert!(find(wrong.as_bytes(), "init").is_err(), "{wrong}");
        }
        let endless_name = format!("070701{:0>104}", "ffffffff00000000");
        assert!(find(endless_name.as_bytes(), "init").is_err());
    }
}
