//! What the kernel found out about the blocks of a dm-verity device.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd as _;

/// `_IOWR(0xfd, 12, struct dm_ioctl)`.
const DM_TABLE_STATUS: libc::Ioctl = 0xc138_fd0c_u32 as libc::Ioctl;
const HEADER: usize = size_of::<Header>();
/// Size of the kernel's `dm_target_spec`, which stands before the status.
const TARGET: usize = 40;

/// The kernel's `dm_ioctl`.
#[repr(C)]
struct Header {
    version: [u32; 3],
    data_size: u32,
    data_start: u32,
    target_count: u32,
    open_count: i32,
    flags: u32,
    event_nr: u32,
    padding: u32,
    dev: u64,
    name: [u8; 128],
    uuid: [u8; 129],
    data: [u8; 7],
}

/// A request, and room for an answer of one target.
#[repr(C)]
struct Request {
    header: Header,
    answer: [u8; 712],
}

const _: () = assert!(HEADER == 312 && size_of::<Request>() == 1024);

/// True when the kernel has read a block of the device `name` that is not what its root hash stands for. Such a read
/// fails; other blocks can still be read.
///
/// # Errors
/// `ENXIO` when there is no such device, `ENOENT` without device mapper.
pub fn is_damaged(name: &str) -> io::Result<bool> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/mapper/control")?;
    let mut field = [0; 128];
    match field.get_mut(..name.len()) {
        Some(place) if name.len() < 128 && !name.contains('\0') => place.copy_from_slice(name.as_bytes()),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    let mut request = Request {
        header: Header {
            version: [4, 0, 0],
            data_size: size_of::<Request>() as u32,
            data_start: HEADER as u32,
            target_count: 0,
            open_count: 0,
            flags: 0,
            event_nr: 0,
            padding: 0,
            dev: 0,
            name: field,
            uuid: [0; 129],
            data: [0; 7],
        },
        answer: [0; 712],
    };
    // SAFETY: the request reads and writes at most `data_size` bytes, which is what the structure has, and keeps no
    // pointer.
    if unsafe { libc::ioctl(control.as_raw_fd(), DM_TABLE_STATUS, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let start = (request.header.data_start as usize).checked_sub(HEADER);
    let answer = start.and_then(|start| request.answer.get(start..)).unwrap_or_default();
    status(answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The status of a verity target is `V`, or `C` once a block was corrupted (verity.rst, "Status").
fn status(answer: &[u8]) -> Option<bool> {
    let kind = answer.get(24..TARGET)?.split(|b| *b == 0).next()?;
    match (kind, answer.get(TARGET)?) {
        (b"verity", b'V') => Some(false),
        (b"verity", b'C') => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read() {
        let answer = |kind: &[u8], status: &[u8]| {
            let mut answer = vec![0; 24];
            answer.extend_from_slice(kind);
            answer.resize(TARGET, 0);
            [answer.as_slice(), status, b"\0"].concat()
        };
        assert_eq!(status(&answer(b"verity", b"V")), Some(false));
        assert_eq!(status(&answer(b"verity", b"C")), Some(true));
        assert_eq!(status(&answer(b"linear", b"")), None);
        assert_eq!(status(&answer(b"verity", b"")), None);
        assert_eq!(status(b"short"), None);
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        assert!(is_damaged("stratos-test-not-there").is_err());
        assert!(is_damaged(&"x".repeat(200)).is_err());
    }
}
