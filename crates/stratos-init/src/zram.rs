//! Compressed swap in memory.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::boot::Node;
use crate::error::InitError;
use crate::files;
use crate::memory;
use crate::phase::Outcome;

const SYS: &str = "/sys/block/zram0";
const DEVICE: &str = "/dev/zram0";
/// zstd holds most; lzo-rle, the kernel's default, is there when zstd is not.
const ALGORITHM: &str = "zstd";
const PAGE: usize = 4096;

/// Makes the swap, as the configuration says.
///
/// # Errors
/// When the kernel has no zram or no swap, or refuses it.
pub fn set_up(node: &mut Node) -> Result<Outcome, InitError> {
    let total = memory::total(&files::read_text("/proc/meminfo", files::KERNEL_FILE)?)
        .ok_or_else(|| InitError::missing("the machine's memory in /proc/meminfo"))?;
    node.memory = memory::plan(total, node.config.memory.zram);
    if node.memory.zram_limit == 0 {
        node.ability("zram", false, "switched off by memory.zram = 0");
        return Outcome::skipped("memory.zram is 0");
    }
    match make(node.memory.zram_limit, node.memory.swap) {
        Ok(algorithm) => {
            let (limit, swap) = (node.memory.zram_limit >> 20, node.memory.swap >> 20);
            let detail = format!("{swap} MiB of swap in at most {limit} MiB, {algorithm}");
            node.ability("zram", true, detail.clone());
            Outcome::done(detail)
        }
        Err(error) => {
            // Without swap the host needs no memory for it.
            node.memory = memory::plan(total, 0);
            node.ability("zram", false, error.chain());
            Err(error)
        }
    }
}

fn make(limit: u64, bytes: u64) -> Result<String, InitError> {
    let sys = Path::new(SYS);
    if !sys.exists() {
        return Err(InitError::missing("zram in the kernel"));
    }
    let algorithm = match files::write_value(sys.join("comp_algorithm"), ALGORITHM) {
        Ok(()) => ALGORITHM.to_owned(),
        Err(_) => chosen(&files::read_value(sys.join("comp_algorithm"))?),
    };
    files::write_value(sys.join("disksize"), &bytes.to_string())?;
    files::write_value(sys.join("mem_limit"), &limit.to_string())?;
    let header = swap_header(bytes);
    let device = OpenOptions::new().write(true).open(DEVICE);
    device
        .and_then(|device| device.write_all_at(&header, 0))
        .map_err(|source| InitError::file("write", DEVICE, source))?;
    let path = CString::new(DEVICE).map_err(|_| InitError::missing(DEVICE))?;
    stratos_sys::swap::on(&path).map_err(|source| InitError::system("swap to zram", source))?;
    Ok(algorithm)
}

/// The algorithm in brackets.
fn chosen(list: &str) -> String {
    let name = list.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    name.map_or("unknown", |(name, _)| name).to_owned()
}

/// The header of a swap area (the kernel's `union swap_header`): version, last page, no bad ones, and a mark at the
/// first page's end.
fn swap_header(bytes: u64) -> Vec<u8> {
    let last = u32::try_from(bytes / PAGE as u64).unwrap_or(u32::MAX).saturating_sub(1);
    let mut header = vec![0; 1024];
    header.extend_from_slice(&1_u32.to_ne_bytes());
    header.extend_from_slice(&last.to_ne_bytes());
    let mark = b"SWAPSPACE2";
    header.resize(PAGE - mark.len(), 0);
    header.extend_from_slice(mark);
    header
}

/// Brings everything back and takes the swap away. Takes as long as that takes.
///
/// # Errors
/// When what is swapped out does not fit into memory.
pub fn take_down() -> Result<(), InitError> {
    let path = CString::new(DEVICE).map_err(|_| InitError::missing(DEVICE))?;
    stratos_sys::swap::off(&path).map_err(|source| InitError::system("stop swapping", source))?;
    files::write_value(Path::new(SYS).join("reset"), "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_one_page_with_the_last_page_in_it() {
        let header = swap_header(1 << 20);
        assert_eq!(header.len(), PAGE);
        assert_eq!(header[1024..1028], 1_u32.to_ne_bytes());
        assert_eq!(header[1028..1032], 255_u32.to_ne_bytes());
        assert_eq!(&header[4086..], b"SWAPSPACE2");
    }

    #[test]
    fn the_algorithm_in_use_is_the_one_in_brackets() {
        assert_eq!(chosen("lzo [lzo-rle] lz4"), "lzo-rle");
        assert_eq!(chosen(""), "unknown");
    }
}
