//! What the kernel found out about the blocks of a dm-verity device.

use std::io;

use crate::dm::DeviceMapper;

/// True when the kernel has read a block of the device `name` that is not what its root hash stands for. Such a read
/// fails; other blocks can still be read.
///
/// # Errors
/// `ENXIO` when there is no such device, `ENOENT` without device mapper, `InvalidData` when it is no verity device.
pub fn is_damaged(name: &str) -> io::Result<bool> {
    let (kind, status) = DeviceMapper::open()?.status(name)?;
    // Verity says `V`, or `C` once a block was corrupted (verity.rst, "Status").
    match (kind.as_str(), status.as_bytes().first()) {
        ("verity", Some(b'V')) => Ok(false),
        ("verity", Some(b'C')) => Ok(true),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        assert!(is_damaged("stratos-test-not-there").is_err());
        assert!(is_damaged(&"x".repeat(200)).is_err());
    }
}
