//! A function's folder as the code of an artifact: what [`unpack_built`](super::unpack_built) makes the same folder of.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use super::error::DeployError;
use super::package_entry::check_built_entry;

const LEVEL: i32 = 3;

/// Packs `folder`, in which nothing runs any more, into the new file `to`. The same folder gives the same bytes.
pub(super) fn pack(folder: &Path, to: &Path) -> Result<File, DeployError> {
    let written = |error| DeployError::io("write", to, error);
    let file = File::options().read(true).write(true).create_new(true).open(to).map_err(written)?;
    let compressed = zstd::Encoder::new(file, LEVEL).map_err(written)?;
    let mut packing = Packing { archive: Builder::new(compressed), root: folder, linked: HashMap::new() };
    packing.folder(folder)?;
    packing.archive.into_inner().and_then(zstd::Encoder::finish).map_err(written)
}

struct Packing<'a, W: Write> {
    archive: Builder<W>,
    root: &'a Path,
    /// Files of several names, by device and inode: the image is to have them once.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packing<'_, W> {
    fn folder(&mut self, folder: &Path) -> Result<(), DeployError> {
        let read = |error| DeployError::io("read", folder, error);
        let entries = fs::read_dir(folder).map_err(read)?;
        let mut paths: Vec<PathBuf> =
            entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>().map_err(read)?;
        paths.sort();
        for path in paths {
            let metadata =
                path.symlink_metadata().map_err(|error| DeployError::io("examine", &path, error))?;
            self.entry(&path, &metadata)?;
            if metadata.is_dir() {
                self.folder(&path)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, metadata: &Metadata) -> Result<(), DeployError> {
        let failed = |error| DeployError::io("pack", path, error);
        let name = path.strip_prefix(self.root).expect("a path below the root").to_owned();
        let mut header = Header::new_gnu();
        header.set_mode(metadata.mode() & 0o777);
        header.set_size(0);
        let mut link = None;
        let kind = if metadata.is_dir() {
            EntryType::Directory
        } else if metadata.is_symlink() {
            link = Some(fs::read_link(path).map_err(failed)?);
            EntryType::Symlink
        } else {
            if metadata.nlink() > 1 {
                let id = (metadata.dev(), metadata.ino());
                link = match self.linked.entry(id) {
                    Entry::Occupied(first) => Some(first.get().clone()),
                    Entry::Vacant(slot) => {
                        slot.insert(name.clone());
                        None
                    }
                };
            }
            if link.is_some() { EntryType::Link } else { EntryType::Regular }
        };
        // What could not be unpacked is told now.
        let target = link.as_ref().map(|link| link.as_os_str().as_bytes());
        check_built_entry(name.as_os_str().as_bytes(), kind, metadata.mode(), target)?;
        header.set_entry_type(kind);
        match link {
            Some(link) => self.archive.append_link(&mut header, name, link).map_err(failed),
            None if kind == EntryType::Regular => {
                header.set_size(metadata.len());
                let file = File::open(path).map_err(failed)?;
                self.archive.append_data(&mut header, name, file).map_err(failed)
            }
            None => self.archive.append_data(&mut header, name, io::empty()).map_err(failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::super::package::unpack_built;
    use super::*;

    /// What decides about the image: names, kinds, contents, x bits, and which names are one file.
    fn listed(root: &Path) -> Vec<String> {
        let mut all = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let metadata = path.symlink_metadata().unwrap();
                let what = if metadata.is_dir() {
                    folders.push(path.clone());
                    "folder".to_owned()
                } else if metadata.is_symlink() {
                    format!("to {}", fs::read_link(&path).unwrap().display())
                } else {
                    format!("{:?} of {}", fs::read(&path).unwrap(), metadata.nlink())
                };
                let name = path.strip_prefix(root).unwrap().display();
                all.push(format!("{name} {:o} {what}", metadata.mode() & 0o777));
            }
        }
        all.sort();
        all
    }

    #[test]
    fn what_is_packed_is_unpacked_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("task");
        let long = format!("node_modules/{}/{}", "a".repeat(120), "b".repeat(120));
        fs::create_dir_all(root.join(&long)).unwrap();
        fs::create_dir_all(root.join(".stratos/python/bin")).unwrap();
        fs::write(root.join("index.mjs"), "code").unwrap();
        fs::write(root.join(&long).join("file"), vec![1; 100_000]).unwrap();
        fs::write(root.join(".stratos/python/bin/tool"), "#!").unwrap();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(root.join(".stratos/python/bin/tool"), executable).unwrap();
        symlink(format!("{long}/file"), root.join("link")).unwrap();
        fs::hard_link(root.join("index.mjs"), root.join("main.mjs")).unwrap();
        pack(&root, &dir.path().join("code")).unwrap();
        pack(&root, &dir.path().join("again")).unwrap();
        let bytes = fs::read(dir.path().join("code")).unwrap();
        assert_eq!(fs::read(dir.path().join("again")).unwrap(), bytes);
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        unpack_built(&bytes[..], &other).unwrap();
        assert_eq!(listed(&other), listed(&root));
        assert!(listed(&root).contains(&"main.mjs 644 [99, 111, 100, 101] of 2".to_owned()));
        symlink("/etc", root.join("out")).unwrap();
        let error = pack(&root, &dir.path().join("bad")).unwrap_err().to_string();
        assert_eq!(error, "`out` is a link to an absolute path");
    }
}
