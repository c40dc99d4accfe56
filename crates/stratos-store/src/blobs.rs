//! Content-addressed files: `blobs/HEX`, where HEX is the SHA-256 of what the file holds.
//!
//! A blob is on the disk, its folder entry included, before the database can refer to it; it is deleted only after
//! the database has stopped doing so. A deploy that is under way pins its blob in between.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::ReadableTable as _;
use stratos_types::Digest;
use tempfile::{NamedTempFile, TempDir};

use crate::db::{Db, Fault};
use crate::error::StoreError;
use crate::functions::VERSIONS;
use crate::row::{VersionRow, decode};

/// The folder of blobs, and `blobs/tmp` for what is still being made.
pub struct Blobs {
    dir: PathBuf,
    tmp: PathBuf,
    db: Arc<Db>,
    pins: Arc<Pins>,
}

/// Folders that could not be emptied at a start and are kept beside the new one, at most.
const MAX_ASIDE: usize = 1000;

type Pins = Mutex<HashMap<Digest, usize>>;

fn lock(pins: &Pins) -> MutexGuard<'_, HashMap<Digest, usize>> {
    pins.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A blob that was just adopted. It cannot be collected as garbage while this value lives: drop it once a version
/// refers to the blob.
pub struct AdoptedBlob {
    digest: Digest,
    size: u64,
    pins: Arc<Pins>,
}

impl AdoptedBlob {
    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Drop for AdoptedBlob {
    fn drop(&mut self) {
        let mut pins = lock(&self.pins);
        if let Some(count) = pins.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.digest);
            }
        }
    }
}

impl Blobs {
    /// Opens the folder, or makes it, and empties `tmp`. What cannot be deleted is set aside: leftovers are no reason
    /// not to start.
    pub(crate) fn open(dir: &Path, db: Arc<Db>) -> Result<Self, StoreError> {
        let tmp = dir.join("tmp");
        if tmp.symlink_metadata().is_ok() && fs::remove_dir_all(&tmp).is_err() {
            set_aside(dir, &tmp);
        }
        fs::create_dir_all(&tmp).map_err(|e| StoreError::io("create", &tmp, e))?;
        // Only the agent looks in here: instances see images that are mounted for them.
        fs::set_permissions(dir, Permissions::from_mode(0o700))
            .map_err(|e| StoreError::io("set the mode of", dir, e))?;
        if let Some(parent) = dir.parent() {
            sync_dir(parent)?;
        }
        Ok(Self { dir: dir.to_owned(), tmp, db, pins: Arc::default() })
    }

    /// Where the blob of this digest is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// A fresh file on the blobs' filesystem, to be filled and adopted. Gone when dropped, or at the next start.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`], [`StoreError::Io`].
    pub fn temp_file(&self) -> Result<NamedTempFile, StoreError> {
        NamedTempFile::new_in(&self.tmp).map_err(|e| StoreError::io("create a file in", &self.tmp, e))
    }

    /// A fresh folder on the blobs' filesystem. Gone when dropped, or at the next start.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`], [`StoreError::Io`].
    pub fn temp_dir(&self) -> Result<TempDir, StoreError> {
        TempDir::new_in(&self.tmp).map_err(|e| StoreError::io("create a folder in", &self.tmp, e))
    }

    /// Makes a file of [`temp_file`](Self::temp_file) or [`temp_dir`](Self::temp_dir) a blob: it is read-only, owned
    /// by the agent and on the disk when this returns. The file is moved; nobody may still write to it.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`], [`StoreError::Io`], also when `file` is no regular file.
    pub fn adopt(&self, file: &Path) -> Result<AdoptedBlob, StoreError> {
        let io = |action, error| StoreError::io(action, file, error);
        let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let open = OpenOptions::new().read(true).custom_flags(flags).open(file).map_err(|e| io("open", e))?;
        let metadata = open.metadata().map_err(|e| io("examine", e))?;
        if !metadata.is_file() {
            return Err(io("adopt", std::io::Error::other("not a regular file")));
        }
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        fchown(&open, Some(uid), Some(gid)).map_err(|e| io("take ownership of", e))?;
        open.set_permissions(Permissions::from_mode(0o444)).map_err(|e| io("set the mode of", e))?;
        let digest = Digest::of_reader(&open).map_err(|e| io("read", e))?;
        open.sync_all().map_err(|e| io("write", e))?;

        let mut pins = lock(&self.pins);
        let path = self.path(&digest);
        fs::rename(file, &path).map_err(|e| StoreError::io("rename a file to", &path, e))?;
        sync_dir(&self.dir)?;
        *pins.entry(digest).or_default() += 1;
        Ok(AdoptedBlob { digest, size: metadata.len(), pins: Arc::clone(&self.pins) })
    }

    /// Deletes the blobs that no version refers to and no deploy has pinned; gives how many these were.
    ///
    /// # Errors
    /// When the state cannot be read, or a file cannot be deleted.
    pub fn collect_garbage(&self) -> Result<usize, StoreError> {
        // Held to the end: a blob adopted meanwhile would be seen neither as pinned nor as referred to.
        let pins = lock(&self.pins);
        let used = self.referenced()?;
        let mut deleted = 0;
        let entries = fs::read_dir(&self.dir).map_err(|e| StoreError::io("list", &self.dir, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| StoreError::io("list", &self.dir, e))?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| format!("sha256:{name}").parse::<Digest>().ok());
            // What is no blob was put there by someone else, and is left alone.
            let Some(digest) = digest else { continue };
            if !used.contains(&digest) && !pins.contains_key(&digest) {
                fs::remove_file(entry.path()).map_err(|e| StoreError::io("delete", &entry.path(), e))?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }

    fn referenced(&self) -> Result<HashSet<Digest>, StoreError> {
        self.db.read(|tx| {
            let mut used = HashSet::new();
            for entry in tx.open_table(VERSIONS)?.iter()? {
                let (key, row) = entry?;
                let VersionRow::V1 { image, .. } =
                    decode("versions", key.value().0, row.value()).map_err(Fault::Row)?;
                used.insert(image);
            }
            Ok(used)
        })
    }
}

/// Makes the entries of a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| StoreError::io("write", dir, e))
}

/// Renames `tmp` to the first free one of `tmp.1`, `tmp.2`, ..., where an operator finds it. When that fails as well, it
/// stays where it is: new names in it are random, and what nobody can use will be told when it is used.
fn set_aside(dir: &Path, tmp: &Path) {
    let free = (1..=MAX_ASIDE)
        .map(|number| dir.join(format!("tmp.{number}")))
        .find(|path| path.symlink_metadata().is_err());
    if let Some(free) = free {
        fs::rename(tmp, free).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    #[test]
    fn leftovers_do_not_stop_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join("blobs").join(name);
        fs::create_dir_all(at("tmp/a/b")).unwrap();
        for aside in ["tmp.1", "tmp.2"] {
            drop(Store::open(dir.path()).unwrap());
            assert!(fs::read_dir(at("tmp")).unwrap().next().is_none());
            assert!(!at(aside).exists());
            // No folder, so that it cannot be emptied like one.
            fs::remove_dir(at("tmp")).unwrap();
            fs::write(at("tmp"), aside).unwrap();
            let store = Store::open(dir.path()).unwrap();
            assert_eq!(fs::read_to_string(at(aside)).unwrap(), aside);
            store.blobs().temp_file().unwrap();
        }
    }
}
