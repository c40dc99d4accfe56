//! The keys whose signatures this node believes: files of one folder, which is read at each use.
//!
//! Whoever can write a file there decides what is restored on this node. So a file counts only if nobody but the agent's
//! user can change it, and none does when others can write to the folder.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use stratos_artifact::{KeyError, KeyId, PublicKey};

/// Most bytes of a key's file.
const MOST_BYTES: u64 = 4096;
const EXTENSION: &str = "pub";

/// A folder of keys.
#[derive(Debug, Clone)]
pub struct TrustedKeys {
    folder: PathBuf,
}

/// A key in it.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// The key.
    pub key: PublicKey,
    /// Its file.
    pub path: PathBuf,
    /// When the file was written, in milliseconds since 1970 (UTC).
    pub enrolled_at_ms: u64,
}

/// Why keys cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Somebody else could add keys.
    #[error("{} is not used: others than the agent's user can write to it", path.display())]
    Writable {
        /// The folder or file.
        path: PathBuf,
    },
    /// A file is no key.
    #[error("{} is not a public key", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: KeyError,
    },
    /// Another key is there under the same id.
    #[error("another key has the id {id}")]
    Taken {
        /// The id.
        id: KeyId,
    },
    /// There is no such key.
    #[error("there is no key {id}")]
    Unknown {
        /// The id.
        id: KeyId,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeysError {
    move |source| KeysError::Io { action, path: path.to_owned(), source }
}

impl TrustedKeys {
    /// The keys in a folder, which need not be there.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// All keys, by id. What is no key, or may be changed by others, is left out and told in the log.
    ///
    /// # Errors
    /// When the folder cannot be read, or others can write to it: no key counts then.
    pub fn list(&self) -> Result<Vec<Enrolled>, KeysError> {
        match fs::metadata(&self.folder) {
            Ok(metadata) if is_own(&metadata) => {}
            Ok(_) => return Err(KeysError::Writable { path: self.folder.clone() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("examine", &self.folder)(error)),
        }
        let mut keys = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed("read", &self.folder))? {
            let path = entry.map_err(failed("read", &self.folder))?.path();
            if path.extension().is_none_or(|extension| extension != EXTENSION) {
                continue;
            }
            match read(&path) {
                Ok(key) => keys.push(key),
                Err(error) => {
                    let reason = crate::engine::chain(&error);
                    tracing::warn!(%reason, "a trusted key is left out");
                }
            }
        }
        keys.sort_by_key(|key| key.key.id());
        Ok(keys)
    }

    /// The key of an id. None, too, when the keys cannot be read, which the log tells.
    pub fn find(&self, id: KeyId) -> Option<PublicKey> {
        match self.list() {
            Ok(keys) => keys.into_iter().map(|enrolled| enrolled.key).find(|key| key.id() == id),
            Err(error) => {
                tracing::warn!(reason = %crate::engine::chain(&error), "no key is trusted");
                None
            }
        }
    }

    /// Whether there is a key of this id. Reads one file where its name is the one that [`TrustedKeys::enroll`] gives.
    pub fn is_trusted(&self, id: KeyId) -> bool {
        let usual = fs::metadata(&self.folder).is_ok_and(|metadata| is_own(&metadata))
            && read(&self.path(id)).is_ok_and(|enrolled| enrolled.key.id() == id);
        usual || self.find(id).is_some()
    }

    fn path(&self, id: KeyId) -> PathBuf {
        self.folder.join(id.to_string()).with_extension(EXTENSION)
    }

    /// Adds a key; one that is there stays as it is.
    ///
    /// # Errors
    /// When it cannot be written, or another has its id.
    pub fn enroll(&self, key: &PublicKey) -> Result<Enrolled, KeysError> {
        let id = key.id();
        if let Some(known) = self.list()?.into_iter().find(|enrolled| enrolled.key.id() == id) {
            return if known.key == *key { Ok(known) } else { Err(KeysError::Taken { id }) };
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(failed("create", &self.folder))?;
        let path = self.path(id);
        let new = path.with_extension("new");
        let write = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o644).open(&new)?;
            // Whatever the umask.
            file.set_permissions(fs::Permissions::from_mode(0o644))?;
            file.write_all(key.to_pem().as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(failed("write", &path))?;
        read(&path)
    }

    /// Removes a key, whatever its file is called.
    ///
    /// # Errors
    /// When there is none of this id, or its file cannot be deleted.
    pub fn remove(&self, id: KeyId) -> Result<(), KeysError> {
        let found: Vec<_> = self.list()?.into_iter().filter(|enrolled| enrolled.key.id() == id).collect();
        for enrolled in &found {
            fs::remove_file(&enrolled.path).map_err(failed("delete", &enrolled.path))?;
        }
        if found.is_empty() {
            return Err(KeysError::Unknown { id });
        }
        File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed("write", &self.folder))
    }
}

/// Whether nobody but the agent's user can change it.
fn is_own(metadata: &fs::Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o022 == 0
}

fn read(path: &Path) -> Result<Enrolled, KeysError> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = file.map_err(failed("open", path))?;
    let metadata = file.metadata().map_err(failed("examine", path))?;
    if !metadata.is_file() || !is_own(&metadata) {
        return Err(KeysError::Writable { path: path.to_owned() });
    }
    let mut text = String::new();
    file.take(MOST_BYTES).read_to_string(&mut text).map_err(failed("read", path))?;
    let key =
        PublicKey::from_pem(&text).map_err(|source| KeysError::Key { path: path.to_owned(), source })?;
    let seconds = u64::try_from(metadata.mtime()).unwrap_or_default();
    Ok(Enrolled { key, path: path.to_owned(), enrolled_at_ms: seconds * 1000 })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use stratos_artifact::SecretKey;

    use super::*;

    fn key() -> PublicKey {
        SecretKey::generate().unwrap().0.public()
    }

    #[test]
    fn keys_are_enrolled_listed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let keys = TrustedKeys::new(dir.path().join("trusted-keys"));
        assert!(keys.list().unwrap().is_empty());
        let (one, two) = (key(), key());
        for key in [&one, &two, &one] {
            assert_eq!(keys.enroll(key).unwrap().key, *key);
        }
        assert_eq!(keys.list().unwrap().len(), 2);
        assert_eq!(keys.find(two.id()), Some(two));
        assert!(keys.is_trusted(two.id()));
        keys.remove(two.id()).unwrap();
        assert_eq!(keys.find(two.id()), None);
        assert!(!keys.is_trusted(two.id()));
        assert_eq!(keys.remove(two.id()).unwrap_err().to_string(), format!("there is no key {}", two.id()));
        assert_eq!(keys.find(one.id()), Some(one));
        // Whatever its file is called.
        fs::rename(keys.path(one.id()), keys.folder.join("release.pub")).unwrap();
        assert!(keys.is_trusted(one.id()));
        keys.remove(one.id()).unwrap();
        assert!(!keys.is_trusted(one.id()));
    }

    /// Who can write to the folder, a file, or what a link leads to, must not decide what is believed.
    #[test]
    fn what_others_can_change_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("trusted-keys");
        let keys = TrustedKeys::new(folder.clone());
        let key = key();
        let path = keys.enroll(&key).unwrap().path;
        let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        chmod(&path, 0o664);
        assert_eq!((keys.find(key.id()), keys.is_trusted(key.id())), (None, false));
        chmod(&path, 0o644);
        assert_eq!(keys.find(key.id()), Some(key));
        chmod(&folder, 0o777);
        assert!(matches!(keys.list(), Err(KeysError::Writable { .. })));
        assert!(keys.enroll(&key).is_err());
        assert_eq!((keys.find(key.id()), keys.is_trusted(key.id())), (None, false));
        chmod(&folder, 0o755);
        let elsewhere = dir.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert_eq!((keys.find(key.id()), keys.is_trusted(key.id())), (None, false));
        fs::write(folder.join("junk.pub"), "junk").unwrap();
        assert!(keys.list().unwrap().is_empty());
    }
}
