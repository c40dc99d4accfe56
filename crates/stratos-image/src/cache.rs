//! The cache folder: downloads by digest, layer images, and the apt state and tools a build needs.
//!
//! Nothing in it is precious. Builds hold its lock, so that two at a time do not meet; whatever a killed build left
//! under `tmp` goes when the next one begins.

use std::fs::File;
use std::path::{Path, PathBuf};

use stratos_types::Digest;

use crate::error::{FileError, at};
use crate::progress::Progress;

/// The cache folder, locked for one build until this is dropped.
#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
    lock: File,
}

/// The cache folder by convention: `$STRATOS_CACHE`, else `$XDG_CACHE_HOME/stratos`, else `~/.cache/stratos`.
/// None when none of the variables is set.
pub fn default_cache_dir() -> Option<PathBuf> {
    let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    path("STRATOS_CACHE")
        .or_else(|| path("XDG_CACHE_HOME").map(|folder| folder.join("stratos")))
        .or_else(|| path("HOME").map(|folder| folder.join(".cache/stratos")))
}

impl Cache {
    /// Makes the folders, waits for other builds and clears what killed ones left.
    pub(crate) fn open(root: &Path, progress: &dyn Progress) -> Result<Self, FileError> {
        let root = std::path::absolute(root).map_err(at("find", root))?;
        std::fs::create_dir_all(&root).map_err(at("create", &root))?;
        let file = root.join("build.lock");
        let lock = create_lock(&file)?;
        let waiting = || {
            progress.notice(&format!("waiting for another build that uses {}", root.display()));
        };
        take_lock(&lock, &file, waiting)?;
        // Everything below belongs to the lock's holder, so it is touched only now.
        let tmp = root.join("tmp");
        match std::fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(at("clear", &tmp)(error));
            }
            _ => {}
        }
        for folder in ["downloads", "layers", "images", "debug", "trees", "tmp", "apt"] {
            let folder = root.join(folder);
            std::fs::create_dir_all(&folder).map_err(at("create", &folder))?;
        }
        Ok(Self { root, lock })
    }

    /// Does long work in the folder `work/NAME` of the cache, which only one build at a time does; other builds may use
    /// the cache meanwhile, so temporary folders of this one must not be in use.
    pub(crate) fn long_work<T, E: From<FileError>>(
        &self,
        name: &str,
        progress: &dyn Progress,
        work: impl FnOnce(&Path) -> Result<T, E>,
    ) -> Result<T, E> {
        let folder = self.root.join("work").join(name);
        std::fs::create_dir_all(&folder).map_err(at("create", &folder))?;
        let file = self.root.join("work").join(format!("{name}.lock"));
        let lock = create_lock(&file)?;
        // Never both locks at once: whoever holds this one waits for the other in the end.
        self.lock.unlock().map_err(at("unlock", &self.root))?;
        take_lock(&lock, &file, || progress.notice(&format!("waiting for another build of {name}")))?;
        let done = work(&folder);
        lock.unlock().map_err(at("unlock", &file))?;
        self.lock.lock().map_err(at("lock", &self.root))?;
        done
    }

    /// A folder of finished things of one kind, such as `kernels`; made if it is not there.
    pub(crate) fn kind(&self, name: &str) -> Result<PathBuf, FileError> {
        let folder = self.root.join(name);
        std::fs::create_dir_all(&folder).map_err(at("create", &folder))?;
        Ok(folder)
    }

    /// A new empty folder that goes when it is dropped.
    pub(crate) fn temp(&self) -> Result<tempfile::TempDir, FileError> {
        let tmp = self.root.join("tmp");
        tempfile::tempdir_in(&tmp).map_err(at("create a folder in", &tmp))
    }

    /// The folder of built layers.
    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// The folder of operating system images.
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// The folder of the debug layer, apart from the layers so that no node offers it.
    pub(crate) fn debug(&self) -> PathBuf {
        self.root.join("debug")
    }

    /// The folder of unpacked build tools.
    pub(crate) fn trees(&self) -> PathBuf {
        self.root.join("trees")
    }

    /// The folder of the build's own apt state.
    pub(crate) fn apt(&self) -> PathBuf {
        self.root.join("apt")
    }

    /// Where the download with this digest is or would be.
    pub(crate) fn download(&self, digest: &Digest) -> PathBuf {
        self.root.join("downloads").join(digest.hex())
    }

    /// Whether a download is there, whole and unchanged. A damaged one is removed.
    pub(crate) fn has(&self, digest: &Digest) -> Result<bool, FileError> {
        let path = self.download(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(at("open", &path)(error)),
        };
        if Digest::of_reader(file).map_err(at("read", &path))? == *digest {
            return Ok(true);
        }
        std::fs::remove_file(&path).map_err(at("remove", &path))?;
        Ok(false)
    }

    /// Takes a fetched file (on the cache's file system) into the downloads and gives its digest.
    pub(crate) fn admit(&self, file: &Path) -> Result<Digest, FileError> {
        let open = File::open(file).map_err(at("open", file))?;
        let digest = Digest::of_reader(&open).map_err(at("read", file))?;
        open.sync_all().map_err(at("sync", file))?;
        let path = self.download(&digest);
        std::fs::rename(file, &path).map_err(at("rename", file))?;
        Ok(digest)
    }
}

/// Removes all but the newest `keep` folders in `folder` whose names begin with `prefix`, and their logs.
pub(crate) fn keep_newest(folder: &Path, prefix: &str, keep: usize) -> Result<(), FileError> {
    // In one step out of the way, so that half of one is never taken for whole.
    let gone = folder.join(".gone");
    remove_folder(&gone)?;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(at("list", folder))? {
        let path = entry.map_err(at("list", folder))?.path();
        let named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
        if named && path.is_dir() {
            let made = std::fs::metadata(&path).and_then(|meta| meta.modified());
            found.push((made.map_err(at("inspect", &path))?, path));
        }
    }
    found.sort();
    for (_, old) in found.iter().rev().skip(keep) {
        std::fs::rename(old, &gone).map_err(at("remove", old))?;
        remove_folder(&gone)?;
        let log = PathBuf::from(format!("{}.log", old.display()));
        match std::fs::remove_file(&log) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(at("remove", &log)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes a folder with all in it, if it is there.
pub(crate) fn remove_folder(folder: &Path) -> Result<(), FileError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at("remove", folder)(error)),
        _ => Ok(()),
    }
}

/// Puts a finished folder in its place. What is in it is on the disk before: what is there is taken for whole.
pub(crate) fn put(made: &Path, place: &Path) -> Result<(), FileError> {
    let folder = File::open(made).map_err(at("open", made))?;
    rustix::fs::syncfs(folder).map_err(|errno| at("sync", made)(errno.into()))?;
    std::fs::rename(made, place).map_err(at("rename", made))
}

/// Makes a folder the newest of its kind, for [`keep_newest`]: it is used again.
pub(crate) fn used_again(folder: &Path) -> Result<(), FileError> {
    let now = std::time::SystemTime::now();
    File::open(folder).and_then(|file| file.set_modified(now)).map_err(at("use", folder))
}

fn create_lock(file: &Path) -> Result<File, FileError> {
    File::options().create(true).truncate(false).write(true).open(file).map_err(at("open", file))
}

/// Waits for a lock; says so before it does.
fn take_lock(lock: &File, file: &Path, waiting: impl FnOnce()) -> Result<(), FileError> {
    if let Err(error) = lock.try_lock() {
        if let std::fs::TryLockError::Error(source) = error {
            return Err(at("lock", file)(source));
        }
        waiting();
        lock.lock().map_err(at("lock", file))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn others_use_the_cache_during_long_work() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), &Silent).unwrap();
        let made = cache.long_work("kernel", &Silent, |work| {
            drop(Cache::open(folder.path(), &Silent).unwrap());
            std::fs::write(work.join("made"), "1").map_err(at("write", work))?;
            Ok::<_, FileError>(work.to_owned())
        });
        assert_eq!(made.unwrap(), folder.path().join("work/kernel"));
        let other = create_lock(&folder.path().join("build.lock")).unwrap();
        assert!(other.try_lock().is_err(), "the cache is locked again");
    }

    #[test]
    fn the_newest_of_a_kind_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        for (age, name) in ["other", "kernel-a", "kernel-b", "kernel-c"].into_iter().rev().enumerate() {
            let made = folder.path().join(name);
            std::fs::create_dir(&made).unwrap();
            std::fs::write(folder.path().join(format!("{name}.log")), "").unwrap();
            let time = std::time::SystemTime::now() - std::time::Duration::from_secs(60 * age as u64);
            File::open(made).unwrap().set_modified(time).unwrap();
        }
        // What another process began to remove and did not end.
        std::fs::create_dir_all(folder.path().join(".gone/half")).unwrap();
        keep_newest(folder.path(), "kernel-", 2).unwrap();
        let entries = std::fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["kernel-b", "kernel-b.log", "kernel-c", "kernel-c.log", "other", "other.log"]);
    }

    #[test]
    fn downloads_are_known_by_content() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), &Silent).unwrap();
        let fetched = folder.path().join("tmp/some.deb");
        std::fs::write(&fetched, "content").unwrap();
        let digest = cache.admit(&fetched).unwrap();
        assert_eq!(digest, Digest::of(b"content"));
        assert!(cache.has(&digest).unwrap());
        assert!(!cache.has(&Digest::of(b"other")).unwrap());
        std::fs::write(cache.download(&digest), "c0ntent").unwrap();
        assert!(!cache.has(&digest).unwrap(), "a damaged download must not be used");
        assert!(!cache.download(&digest).exists());
    }

    #[test]
    fn only_one_build_at_a_time_has_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let inside = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let cache = Cache::open(folder.path(), &Silent).unwrap();
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        std::fs::write(cache.temp().unwrap().path().join("x"), "x").unwrap();
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    }
                });
            }
        });
    }

    #[test]
    fn opening_clears_what_a_killed_build_left() {
        let folder = tempfile::tempdir().unwrap();
        drop(Cache::open(folder.path(), &Silent).unwrap());
        std::fs::write(folder.path().join("tmp/half"), "x").unwrap();
        drop(Cache::open(folder.path(), &Silent).unwrap());
        assert!(!folder.path().join("tmp/half").exists());
    }
}
