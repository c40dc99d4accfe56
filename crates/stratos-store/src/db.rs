//! The database file: opened, and opened again after an I/O error.
//!
//! redb refuses everything after one I/O error until the file is opened anew (it cannot know what reached the
//! disk). A full disk is such an error, and it must not need a restart of the node: so a failed transaction closes
//! the database and the next one opens it, with redb's own repair.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, WriteTransaction};

use crate::error::{StoreError, is_full};

/// Opens the file, or creates it.
pub(crate) type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// What ended a transaction.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The database failed.
    Redb(redb::Error),
    /// A row is not what this version writes.
    Row(String),
    /// A failure with a meaning of its own, such as "not found"; the database is well.
    Store(StoreError),
}

macro_rules! fault_from {
    ($($error:ty),*) => { $(impl From<$error> for Fault {
        fn from(error: $error) -> Self {
            Self::Redb(error.into())
        }
    })* };
}

fault_from!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::DatabaseError
);

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Fault {
    /// True when only opening the file anew can help.
    fn breaks(&self) -> bool {
        use redb::Error as E;
        matches!(
            self,
            Self::Redb(E::Io(_) | E::Backend(_) | E::PreviousIo | E::DatabaseClosed | E::LockPoisoned(_))
        )
    }

    /// True when the failure was not this transaction's own, so that trying again is right.
    fn is_inherited(&self) -> bool {
        matches!(self, Self::Redb(redb::Error::PreviousIo | redb::Error::DatabaseClosed))
    }
}

pub(crate) struct Db {
    path: PathBuf,
    open: Opener,
    slot: RwLock<Slot>,
}

/// The open database; `None` after an error. The generation tells a thread that failed whether another one has
/// opened the file anew meanwhile.
struct Slot {
    generation: u64,
    database: Option<Database>,
}

impl Db {
    pub(crate) fn open(path: &Path, open: Opener) -> Result<Self, StoreError> {
        let database = open().map_err(|e| refuse(path, e.into()))?;
        let slot = RwLock::new(Slot { generation: 0, database: Some(database) });
        Ok(Self { path: path.to_owned(), open, slot })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `read` on a snapshot.
    pub(crate) fn read<T>(
        &self,
        mut read: impl FnMut(&ReadTransaction) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.with(|database| read(&database.begin_read()?))
    }

    /// Runs `write` and commits durably when it gave `Ok`; otherwise nothing changes.
    pub(crate) fn write<T>(
        &self,
        mut write: impl FnMut(&WriteTransaction) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            let value = write(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })
    }

    fn with<T>(&self, mut run: impl FnMut(&Database) -> Result<T, Fault>) -> Result<T, StoreError> {
        let mut retried = false;
        loop {
            let slot = self.slot.read().unwrap_or_else(PoisonError::into_inner);
            let Some(database) = &slot.database else {
                drop(slot);
                self.reopen()?;
                continue;
            };
            let fault = match run(database) {
                Ok(value) => return Ok(value),
                Err(fault) => fault,
            };
            let generation = slot.generation;
            drop(slot);
            if fault.breaks() {
                self.close(generation);
                if fault.is_inherited() && !retried {
                    retried = true;
                    continue;
                }
            }
            return Err(refuse(&self.path, fault));
        }
    }

    fn close(&self, generation: u64) {
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        if slot.generation == generation {
            slot.database = None;
        }
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
        if slot.database.is_none() {
            slot.database = Some((self.open)().map_err(|e| refuse(&self.path, e.into()))?);
            slot.generation += 1;
        }
        Ok(())
    }
}

fn refuse(path: &Path, fault: Fault) -> StoreError {
    use redb::Error as E;
    let path = path.to_owned();
    match fault {
        Fault::Store(error) => error,
        Fault::Row(detail) => StoreError::Corrupt { path, detail },
        Fault::Redb(E::Io(e)) if is_full(&e) => StoreError::DiskFull { path },
        Fault::Redb(E::Io(e)) if e.kind() == std::io::ErrorKind::InvalidData => {
            StoreError::Corrupt { path, detail: e.to_string() }
        }
        Fault::Redb(E::Io(e)) => StoreError::io("read or write", &path, e),
        Fault::Redb(E::DatabaseAlreadyOpen) => StoreError::InUse { path },
        Fault::Redb(
            e @ (E::Corrupted(_)
            | E::UpgradeRequired(_)
            | E::TableTypeMismatch { .. }
            | E::TypeDefinitionChanged { .. }
            | E::TableIsMultimap(_)
            | E::RepairAborted),
        ) => StoreError::Corrupt { path, detail: e.to_string() },
        Fault::Redb(e) => StoreError::Database { path, detail: e.to_string() },
    }
}
