//! Device mapper: block devices whose blocks the kernel takes from another device, as they are or after it has checked
//! them against a hash tree (dm-verity).
//!
//! Devices are made read-only and by name; a device comes into being with its table, or not at all.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

const DM_DEV_CREATE: libc::Ioctl = request(3);
const DM_DEV_REMOVE: libc::Ioctl = request(4);
const DM_DEV_SUSPEND: libc::Ioctl = request(6);
const DM_TABLE_LOAD: libc::Ioctl = request(9);
const DM_TABLE_STATUS: libc::Ioctl = request(12);
const DM_READONLY_FLAG: u32 = 1;
/// Bytes of a request behind its header: a target and its parameters, or its status.
const BODY: usize = 4096 - HEADER;
const HEADER: usize = size_of::<Header>();
const TARGET: usize = size_of::<TargetSpec>();

/// `_IOWR(0xfd, number, struct dm_ioctl)`.
const fn request(number: u64) -> libc::Ioctl {
    (3 << 30 | (size_of::<Header>() as u64) << 16 | 0xfd << 8 | number) as libc::Ioctl
}

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

/// The kernel's `dm_target_spec`.
#[repr(C)]
struct TargetSpec {
    sector_start: u64,
    length: u64,
    status: i32,
    next: u32,
    target_type: [u8; 16],
}

/// A request, and room for its answer.
#[repr(C)]
struct Request {
    header: Header,
    body: [u8; BODY],
}

const _: () = assert!(HEADER == 312 && TARGET == 40 && size_of::<Request>() == 4096);

/// The whole of a device: one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target<'a> {
    /// Kind of target, such as `linear` or `verity`.
    pub kind: &'a str,
    /// Length in sectors of 512 bytes.
    pub sectors: u64,
    /// Its parameters, as the kernel's documentation of the target has them.
    pub parameters: &'a str,
}

/// The door to the device mapper.
#[derive(Debug)]
pub struct DeviceMapper(File);

impl DeviceMapper {
    /// Opens it.
    ///
    /// # Errors
    /// When the kernel has no device mapper, or without CAP_SYS_ADMIN.
    pub fn open() -> io::Result<Self> {
        Ok(Self(OpenOptions::new().read(true).write(true).open("/dev/mapper/control")?))
    }

    /// Makes a read-only device and gives its minor number: it is `/dev/dm-MINOR`.
    ///
    /// # Errors
    /// `EBUSY` for a name that is taken; what the target says of its parameters. No device is left then.
    pub fn create(&self, name: &str, uuid: &str, target: &Target<'_>) -> io::Result<u32> {
        let made = self.call(DM_DEV_CREATE, name, uuid, 0, None)?;
        let loaded = self
            .call(DM_TABLE_LOAD, name, "", DM_READONLY_FLAG, Some(target))
            // Without the flag "suspend" this request resumes: the table that was loaded takes effect.
            .and_then(|_| self.call(DM_DEV_SUSPEND, name, "", 0, None));
        match loaded {
            Ok(_) => Ok(rustix::fs::minor(made.header.dev)),
            Err(error) => {
                self.remove(name)?;
                Err(error)
            }
        }
    }

    /// Removes a device.
    ///
    /// # Errors
    /// `EBUSY` while it is in use, `ENXIO` when there is none.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.call(DM_DEV_REMOVE, name, "", 0, None).map(drop)
    }

    /// The status of a device's one target: its kind, and what the target says.
    ///
    /// # Errors
    /// `ENXIO` when there is no such device, `InvalidData` when its status is no short text.
    pub fn status(&self, name: &str) -> io::Result<(String, String)> {
        let answer = self.call(DM_TABLE_STATUS, name, "", 0, None)?;
        let start = (answer.header.data_start as usize).checked_sub(HEADER);
        let bytes = start.and_then(|start| answer.body.get(start..)).unwrap_or_default();
        read_status(bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn call(
        &self,
        request: libc::Ioctl,
        name: &str,
        uuid: &str,
        flags: u32,
        target: Option<&Target<'_>>,
    ) -> io::Result<Request> {
        let header = Header {
            version: [4, 0, 0],
            data_size: size_of::<Request>() as u32,
            data_start: HEADER as u32,
            target_count: u32::from(target.is_some()),
            open_count: 0,
            flags,
            event_nr: 0,
            padding: 0,
            dev: 0,
            name: text(name)?,
            uuid: text(uuid)?,
            data: [0; 7],
        };
        let mut message = Request { header, body: [0; BODY] };
        if let Some(target) = target {
            write_target(&mut message.body, target)?;
        }
        // SAFETY: the request reads and writes at most `data_size` bytes, which the structure has, and keeps no pointer.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), request, &raw mut message) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(message)
    }
}

/// Kind and status in an answer: a `dm_target_spec`, and a text that ends with a zero.
fn read_status(answer: &[u8]) -> Option<(String, String)> {
    let until_zero = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0)?;
        std::str::from_utf8(bytes.get(..end)?).ok().map(str::to_owned)
    };
    Some((until_zero(answer.get(24..TARGET)?)?, until_zero(answer.get(TARGET..)?)?))
}

/// A text in a field of fixed size that ends with a zero.
fn text<const N: usize>(text: &str) -> io::Result<[u8; N]> {
    let mut field = [0; N];
    match field.get_mut(..text.len()) {
        Some(place) if text.len() < N && !text.contains('\0') => place.copy_from_slice(text.as_bytes()),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    Ok(field)
}

/// Writes a target and its parameters as the kernel reads them.
fn write_target(out: &mut [u8], target: &Target<'_>) -> io::Result<()> {
    let kind: [u8; 16] = text(target.kind)?;
    let parameters = target.parameters.as_bytes();
    let end = TARGET + parameters.len();
    if end >= out.len() || parameters.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let next = (end + 1).next_multiple_of(8) as u32;
    out[8..16].copy_from_slice(&target.sectors.to_ne_bytes());
    out[20..24].copy_from_slice(&next.to_ne_bytes());
    out[24..40].copy_from_slice(&kind);
    out[TARGET..end].copy_from_slice(parameters);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_written_as_the_kernel_reads_it() {
        let mut out = [0; 64];
        write_target(&mut out, &Target { kind: "linear", sectors: 2048, parameters: "8:1 0" }).unwrap();
        assert_eq!(u64::from_ne_bytes(out[..8].try_into().unwrap()), 0);
        assert_eq!(u64::from_ne_bytes(out[8..16].try_into().unwrap()), 2048);
        assert_eq!(u32::from_ne_bytes(out[20..24].try_into().unwrap()), 48);
        assert_eq!(&out[24..31], b"linear\0");
        assert_eq!(&out[40..46], b"8:1 0\0");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut out = [0; 64];
        let long = "x".repeat(24);
        assert!(write_target(&mut out, &Target { kind: "linear", sectors: 1, parameters: &long }).is_err());
        assert!(text::<8>("12345678").is_err());
        assert!(text::<8>("a\0b").is_err());
        assert_eq!(text::<8>("1234567").unwrap(), *b"1234567\0");
    }

    #[test]
    fn a_status_is_read() {
        let answer = |kind: &[u8], status: &[u8]| {
            let mut answer = vec![0; 24];
            answer.extend_from_slice(kind);
            answer.resize(TARGET, 0);
            [answer.as_slice(), status].concat()
        };
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(read_status(&answer(b"verity", b"V\0")), pair("verity", "V"));
        assert_eq!(read_status(&answer(b"linear", b"\0")), pair("linear", ""));
        assert_eq!(read_status(&answer(b"verity", b"no end")), None);
        assert_eq!(read_status(b"short"), None);
    }

    #[test]
    fn the_requests_have_the_kernels_numbers() {
        assert_eq!(DM_DEV_CREATE as u32, 0xc138_fd03);
        assert_eq!(DM_TABLE_LOAD as u32, 0xc138_fd09);
        assert_eq!(DM_TABLE_STATUS as u32, 0xc138_fd0c);
    }
}
