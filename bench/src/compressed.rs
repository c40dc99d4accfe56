//! How large a file is when it is shipped.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context as _, Result};

/// zstd's own default, as for the sizes in an image's manifest.
const LEVEL: i32 = 3;

/// Counts what is written to it.
struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Size of a file in bytes when compressed with zstd, as in an image's manifest.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn compressed(path: &Path) -> Result<u64> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut encoder = zstd::Encoder::new(Count(0), LEVEL)?;
    io::copy(&mut &file, &mut encoder).with_context(|| format!("read {}", path.display()))?;
    Ok(encoder.finish()?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_count_next_to_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        let size = compressed(file.path()).unwrap();
        assert!((1..64 << 10).contains(&size), "{size}");
    }
}
