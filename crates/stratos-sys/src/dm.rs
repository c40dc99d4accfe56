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
const DM_READONLY_FLAG: u32 = 1;
const DM_BUFFER_BYTES: usize = 4096;
const HEADER: usize = size_of::<Header>();
const TARGET: usize = size_of::<TargetSpec>();

/// `_IOWR(0xfd, number, struct dm_ioctl)`.
const fn request(number: u64) -> libc::Ioctl {
    (3 << 30 | (size_of::<Header>() as u64) << 16 | 0xfd << 8 | number) as libc::Ioctl
}

/// The kernel's `dm_ioctl`.
#[repr(C)]
#[derive(Clone, Copy)]
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

const _: () = assert!(size_of::<Header>() == 312 && size_of::<TargetSpec>() == 40);

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
            Ok(_) => Ok(rustix::fs::minor(made.dev)),
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

    fn call(
        &self,
        request: libc::Ioctl,
        name: &str,
        uuid: &str,
        flags: u32,
        target: Option<&Target<'_>>,
    ) -> io::Result<Header> {
        let mut buffer = Buffer([0; DM_BUFFER_BYTES]);
        let header = Header {
            version: [4, 0, 0],
            data_size: DM_BUFFER_BYTES as u32,
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
        if let Some(target) = target {
            write_target(&mut buffer.0[HEADER..], target)?;
        }
        let at = buffer.0.as_mut_ptr();
        // SAFETY: the buffer has the alignment of a header and more bytes than one.
        unsafe { at.cast::<Header>().write(header) };
        // SAFETY: the request reads and writes at most `data_size` bytes, which the buffer has, and keeps no pointer.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), request, at) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above; any bytes are a header.
        Ok(unsafe { at.cast::<Header>().read() })
    }
}

/// Memory as the request wants it.
#[repr(C, align(8))]
struct Buffer([u8; DM_BUFFER_BYTES]);

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
    fn the_requests_have_the_kernels_numbers() {
        assert_eq!(DM_DEV_CREATE as u32, 0xc138_fd03);
        assert_eq!(DM_TABLE_LOAD as u32, 0xc138_fd09);
    }
}
