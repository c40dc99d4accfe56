//! The list of an image's files, with their sizes and digests.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use stratos_types::{Digest, ImageFile};

use crate::error::{FileError, at};

/// zstd's own default: what a quick transport would use.
const LEVEL: i32 = 3;

/// All files under `folder`, sorted by name. They are made readable for everybody, whatever the build's umask.
pub(crate) fn files(folder: &Path) -> Result<Vec<ImageFile>, FileError> {
    let mut files = Vec::new();
    let mut open = vec![String::new()];
    while let Some(inner) = open.pop() {
        let place = folder.join(&inner);
        set_mode(&place, 0o755)?;
        for entry in std::fs::read_dir(&place).map_err(at("list", &place))? {
            let entry = entry.map_err(at("list", &place))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let name = if inner.is_empty() { name } else { format!("{inner}/{name}") };
            let path = entry.path();
            if path.is_dir() {
                open.push(name);
            } else {
                set_mode(&path, 0o644)?;
                files.push(file(name, &path).map_err(at("read", &path))?);
            }
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), FileError> {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(at("set the mode of", path))
}

fn file(name: String, path: &Path) -> io::Result<ImageFile> {
    let file = File::open(path)?;
    file.sync_all()?;
    let size = file.metadata()?.len();
    let mut packed = zstd::Encoder::new(Count(0), LEVEL)?;
    let digest = Digest::of_reader(Tee { from: file, to: &mut packed })?;
    Ok(ImageFile { name, size, compressed: packed.finish()?.0, digest })
}

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

/// Gives what is read to a writer, too.
struct Tee<R, W> {
    from: R,
    to: W,
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        self.to.write_all(&buffer[..length])?;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_listed_with_both_sizes_and_become_readable() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("oci")).unwrap();
        std::fs::write(folder.path().join("root.erofs"), vec![0; 1 << 20]).unwrap();
        let index = folder.path().join("oci/index.json");
        std::fs::write(&index, "{}").unwrap();
        std::fs::set_permissions(&index, Permissions::from_mode(0o600)).unwrap();
        let files = files(folder.path()).unwrap();
        let names: Vec<_> = files.iter().map(|file| (file.name.as_str(), file.size)).collect();
        assert_eq!(names, [("oci/index.json", 2), ("root.erofs", 1 << 20)]);
        assert!(files[1].compressed < 1000);
        assert_eq!(files[0].digest, Digest::of(b"{}"));
        assert_eq!(std::fs::metadata(&index).unwrap().permissions().mode() & 0o777, 0o644);
    }
}
