//! The store as a whole: its folder, its lock, its parts.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::Arc;

use redb::Builder;

use crate::blobs::{Blobs, sync_dir};
use crate::db::Db;
use crate::error::StoreError;
use crate::secrets::Secrets;
use crate::writer::Writer;

/// redb's cache; its default of 1 GiB is more than a small node has.
const CACHE_BYTES: usize = 4 << 20;

/// The state of one node. Cheap to clone; every clone is the same state. All calls block on the disk.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) writer: Writer,
    pub(crate) db: Arc<Db>,
    pub(crate) blobs: Blobs,
    pub(crate) secrets: Secrets,
    /// Held as long as any clone lives; the kernel gives it up with the process.
    _lock: File,
}

impl Store {
    /// Opens the state in folder `dir`, or makes it. Temporary files of a killed predecessor are removed.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process has it open, [`StoreError::Corrupt`] with a remedy when the state
    /// file is damaged, [`StoreError::DiskFull`] and [`StoreError::Io`].
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(|e| StoreError::io("create", dir, e))?;
        let lock = lock(dir)?;
        let path = dir.join("state.redb");
        if !path.exists() {
            create(dir, &path)?;
        }
        let file = path.clone();
        let open = move || builder().open(&file);
        let db = Arc::new(Db::open(&path, Box::new(open))?);
        Self::assemble(dir, db, lock)
    }

    pub(crate) fn assemble(dir: &Path, db: Arc<Db>, lock: File) -> Result<Self, StoreError> {
        crate::functions::create_tables(&db)?;
        let blobs = Blobs::open(&dir.join("blobs"), Arc::clone(&db))?;
        let secrets = Secrets::open(&dir.join("secrets"))?;
        let writer = Writer::start(Arc::clone(&db))?;
        Ok(Self(Arc::new(Inner { writer, db, blobs, secrets, _lock: lock })))
    }

    /// The function images.
    pub fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    /// The secrets.
    pub fn secrets(&self) -> &Secrets {
        &self.0.secrets
    }
}

/// Makes an empty database under another name first: a loss of power in the middle of making one leaves a file that is
/// none.
fn create(dir: &Path, path: &Path) -> Result<(), StoreError> {
    let new = path.with_extension("new");
    if let Err(e) = std::fs::remove_file(&new)
        && e.kind() != io::ErrorKind::NotFound
    {
        return Err(StoreError::io("delete", &new, e));
    }
    drop(Db::open(
        &new,
        Box::new({
            let new = new.clone();
            move || builder().create(&new)
        }),
    )?);
    File::open(&new).and_then(|f| f.sync_all()).map_err(|e| StoreError::io("write", &new, e))?;
    std::fs::rename(&new, path).map_err(|e| StoreError::io("rename a file to", path, e))?;
    sync_dir(dir)
}

/// The check of every page at opening costs milliseconds for what a node keeps; without it redb may panic on a damaged
/// file in the middle of a request.
pub(crate) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| StoreError::io("create", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path: dir.to_owned() }),
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Interrupted => lock(dir),
        Err(TryLockError::Error(e)) => Err(StoreError::io("lock", &path, e)),
    }
}
