//! Secrets: `secrets/TENANT.NAME`, one file each, for root alone.
//!
//! They lie apart from the database, which a backup or a report may hold: nothing but these files has a value. A value
//! is in memory only while it is passed on, in a type that shows it to nobody and overwrites it in the end.

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use stratos_types::{SecretName, TenantId};
use zeroize::{Zeroize as _, Zeroizing};

use crate::blobs::sync_dir;
use crate::error::StoreError;

/// Most bytes of a secret: it is a variable of an environment that holds others, too.
pub const MAX_SECRET_BYTES: usize = 32 << 10;
/// How names of files begin that are still being written. No secret's does: a tenant is a label.
const NEW: &str = ".new-";

/// The value of a secret. It is overwritten when it is dropped, and `Debug` shows nothing of it.
#[derive(Clone)]
pub struct SecretValue(Zeroizing<String>);

/// Why bytes are not the value of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretValueError {
    /// It has no bytes.
    #[error("is empty")]
    Empty,
    /// It has too many.
    #[error("has {0} bytes, more than {MAX_SECRET_BYTES}")]
    TooLarge(usize),
    /// It is no text.
    #[error("is not UTF-8, which a variable of the environment has to be")]
    NotText,
    /// A variable ends at a NUL.
    #[error("holds a NUL byte, at which a variable of the environment ends")]
    Nul,
}

impl SecretValue {
    /// Takes the bytes of a value; those of a wrong one are overwritten.
    ///
    /// # Errors
    /// When they cannot be a variable's value.
    pub fn new(bytes: Vec<u8>) -> Result<Self, SecretValueError> {
        let mut bytes = Zeroizing::new(bytes);
        match bytes.len() {
            0 => return Err(SecretValueError::Empty),
            more if more > MAX_SECRET_BYTES => return Err(SecretValueError::TooLarge(more)),
            _ if bytes.contains(&0) => return Err(SecretValueError::Nul),
            _ => {}
        }
        match String::from_utf8(std::mem::take(&mut *bytes)) {
            Ok(text) => Ok(Self(Zeroizing::new(text))),
            Err(error) => {
                error.into_bytes().zeroize();
                Err(SecretValueError::NotText)
            }
        }
    }

    /// The value. Whoever asks for it passes it on to the instance or file it is meant for, and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(..)")
    }
}

/// What is told of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRecord {
    /// Its name.
    pub name: SecretName,
    /// When it was last set, in milliseconds since 1970 (UTC), by the filesystem's clock.
    pub updated_at_ms: u64,
}

/// The folder of secrets.
pub struct Secrets {
    dir: PathBuf,
}

impl Secrets {
    /// Opens the folder, or makes it, and removes what was being written when the agent ended.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(dir).map_err(|e| StoreError::io("create", dir, e))?;
        fs::set_permissions(dir, Permissions::from_mode(0o700))
            .map_err(|e| StoreError::io("set the mode of", dir, e))?;
        if let Some(parent) = dir.parent() {
            sync_dir(parent)?;
        }
        let secrets = Self { dir: dir.to_owned() };
        for path in secrets.paths()? {
            if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(NEW)) {
                fs::remove_file(&path).map_err(|e| StoreError::io("delete", &path, e))?;
            }
        }
        Ok(secrets)
    }

    fn paths(&self) -> Result<Vec<PathBuf>, StoreError> {
        let list = |e| StoreError::io("list", &self.dir, e);
        fs::read_dir(&self.dir).map_err(list)?.map(|entry| Ok(entry.map_err(list)?.path())).collect()
    }

    fn path(&self, tenant: &TenantId, name: &SecretName) -> PathBuf {
        self.dir.join(format!("{tenant}.{name}"))
    }

    /// Sets a secret; it is on the disk when this returns, and until then the old one is.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`], [`StoreError::Io`].
    pub fn set(
        &self,
        tenant: &TenantId,
        name: &SecretName,
        value: &SecretValue,
    ) -> Result<SecretRecord, StoreError> {
        let path = self.path(tenant, name);
        let io = |action, error| StoreError::io(action, &path, error);
        let mut new = tempfile::Builder::new();
        let new = new.prefix(NEW).permissions(Permissions::from_mode(0o600)).tempfile_in(&self.dir);
        let mut file = new.map_err(|e| io("create", e))?;
        file.write_all(value.expose().as_bytes()).map_err(|e| io("write", e))?;
        file.as_file().sync_all().map_err(|e| io("write", e))?;
        let file = file.persist(&path).map_err(|e| io("rename a file to", e.error))?;
        sync_dir(&self.dir)?;
        Ok(SecretRecord {
            name: name.clone(),
            updated_at_ms: updated_at(&file).map_err(|e| io("examine", e))?,
        })
    }

    /// A secret's value; `None` when there is none of this name.
    ///
    /// # Errors
    /// [`StoreError::Io`], also when the file holds what no secret can be.
    pub fn get(&self, tenant: &TenantId, name: &SecretName) -> Result<Option<SecretValue>, StoreError> {
        let path = self.path(tenant, name);
        let io = |error| StoreError::io("read", &path, error);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        // All at once: a buffer that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET_BYTES + 1));
        file.take(MAX_SECRET_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
        let value = SecretValue::new(std::mem::take(&mut *bytes));
        value.map(Some).map_err(|wrong| io(io::Error::new(io::ErrorKind::InvalidData, wrong)))
    }

    /// Whether there is a secret of this name.
    pub fn has(&self, tenant: &TenantId, name: &SecretName) -> bool {
        self.path(tenant, name).exists()
    }

    /// What is told of a tenant's secrets, by name.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn list(&self, tenant: &TenantId) -> Result<Vec<SecretRecord>, StoreError> {
        let mut found = Vec::new();
        for path in self.paths()? {
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('.'));
            // What is no secret was put there by someone else, and is left alone.
            let Some((of, name)) = name else { continue };
            let (true, Ok(name)) = (of == tenant.as_str(), name.parse()) else { continue };
            let at = match File::open(&path).and_then(|file| updated_at(&file)) {
                Ok(at) => at,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::io("examine", &path, error)),
            };
            found.push(SecretRecord { name, updated_at_ms: at });
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Removes a secret; false when there was none.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove(&self, tenant: &TenantId, name: &SecretName) -> Result<bool, StoreError> {
        let path = self.path(tenant, name);
        match fs::remove_file(&path) {
            Ok(()) => sync_dir(&self.dir).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("delete", &path, error)),
        }
    }
}

fn updated_at(file: &File) -> io::Result<u64> {
    let since = file.metadata()?.modified()?.duration_since(UNIX_EPOCH);
    // A clock from before 1970 is told as that.
    Ok(since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    fn value(text: &str) -> SecretValue {
        SecretValue::new(text.into()).unwrap()
    }

    #[test]
    fn values_are_checked_and_never_shown() {
        for (bytes, error) in [
            (Vec::new(), SecretValueError::Empty),
            (vec![b'x'; MAX_SECRET_BYTES + 1], SecretValueError::TooLarge(MAX_SECRET_BYTES + 1)),
            (vec![0xff], SecretValueError::NotText),
            (b"a\0b".to_vec(), SecretValueError::Nul),
        ] {
            assert_eq!(SecretValue::new(bytes).unwrap_err(), error);
        }
        let secret = value("hush\n");
        assert_eq!((secret.expose(), format!("{secret:?}").as_str()), ("hush\n", "SecretValue(..)"));
    }

    #[test]
    fn secrets_are_kept_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (tenant, name) = (TenantId::default(), "db-password".parse::<SecretName>().unwrap());
        let store = Store::open(dir.path()).unwrap();
        assert!(store.secrets().get(&tenant, &name).unwrap().is_none());
        assert!(!store.secrets().has(&tenant, &name));
        for text in ["first", "second"] {
            let record = store.secrets().set(&tenant, &name, &value(text)).unwrap();
            assert!(record.updated_at_ms > 0);
            assert_eq!(store.secrets().list(&tenant).unwrap(), [record]);
            assert_eq!(store.secrets().get(&tenant, &name).unwrap().unwrap().expose(), text);
        }
        assert!(store.secrets().list(&"other".parse().unwrap()).unwrap().is_empty());
        let folder = dir.path().join("secrets");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&folder), mode(&folder.join("default.db-password"))), (0o700, 0o600));

        // What a killed agent was writing is gone; what somebody widened is closed again.
        drop(store);
        fs::write(folder.join(".new-x"), "half").unwrap();
        fs::write(folder.join("README"), "").unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(mode(&folder), 0o700);
        let names: Vec<_> = store.secrets().list(&tenant).unwrap().into_iter().map(|r| r.name).collect();
        assert_eq!(names, std::slice::from_ref(&name));
        assert!(!folder.join(".new-x").exists());

        assert!(store.secrets().remove(&tenant, &name).unwrap());
        assert!(!store.secrets().remove(&tenant, &name).unwrap());
        assert!(store.secrets().get(&tenant, &name).unwrap().is_none());
    }

    #[test]
    fn a_file_that_holds_no_secret_is_named_without_its_contents() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        fs::write(dir.path().join("secrets/default.a"), b"hush\xff").unwrap();
        let error = store.secrets().get(&TenantId::default(), &"a".parse().unwrap()).unwrap_err();
        let told = format!("{error} {error:?}");
        assert!(told.contains("secrets/default.a") && !told.contains("hush"), "{told}");
    }
}
