//! Folders, a recording [`Progress`] and error printing for the tests of real builds.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use stratos_image::{BuildOptions, Progress, Silent, Step, build_all, default_cache_dir, fetch_kernel};

/// Files from this size on are not copied into fixtures, in bytes.
const LARGE: u64 = 32 << 20;

/// The repository that is tested.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository is there")
}

/// The cache that everything else uses too.
pub(crate) fn real_cache() -> PathBuf {
    default_cache_dir().expect("STRATOS_CACHE, XDG_CACHE_HOME or HOME is set")
}

/// Remembers what a build reported.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) steps: Mutex<Vec<(String, Step)>>,
    pub(crate) notices: Mutex<Vec<String>>,
    pub(crate) bytes: Mutex<Vec<(u64, u64)>>,
}

impl Progress for Record {
    fn step(&self, layer: &str, step: Step) {
        self.steps.lock().unwrap().push((layer.to_owned(), step));
    }
    fn bytes(&self, _: &str, done: u64, total: u64) {
        self.bytes.lock().unwrap().push((done, total));
    }
    fn notice(&self, message: &str) {
        self.notices.lock().unwrap().push(message.to_owned());
    }
}

impl Record {
    /// All notices, one a line.
    pub(crate) fn notices(&self) -> String {
        self.notices.lock().unwrap().join("\n")
    }

    /// The steps of one layer.
    pub(crate) fn steps(&self, layer: &str) -> Vec<Step> {
        let steps = self.steps.lock().unwrap();
        steps.iter().filter(|(name, _)| name == layer).map(|(_, step)| *step).collect()
    }
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A copy of the repository's descriptions and an empty cache, both to be changed at will.
pub(crate) struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for part in ["distro", "runtimes"] {
            copy(&repository().join(part), &folder.path().join("repo").join(part));
        }
        Self { folder }
    }

    /// Puts what the real cache has downloaded into this one's, and what its apt knows of the archive.
    pub(crate) fn with_downloads(self) -> Self {
        let options = BuildOptions::new(real_cache(), repository(), &Silent);
        build_all(&options).unwrap_or_else(|error| panic!("{}", chain(&error)));
        for folder in ["downloads", "apt"].into_iter().filter(|folder| real_cache().join(folder).is_dir()) {
            copy(&real_cache().join(folder), &self.cache().join(folder));
        }
        self
    }

    /// Makes this cache see what the real one has downloaded, unpacked and built of layers, without copying it.
    pub(crate) fn with_links(self) -> Self {
        let options = BuildOptions::new(real_cache(), repository(), &Silent);
        build_all(&options).unwrap_or_else(|error| panic!("{}", chain(&error)));
        fetch_kernel(&options).unwrap_or_else(|error| panic!("{}", chain(&error)));
        for folder in ["downloads", "trees", "layers"] {
            let own = self.cache().join(folder);
            std::fs::create_dir_all(&own).unwrap();
            for entry in std::fs::read_dir(real_cache().join(folder)).unwrap() {
                let entry = entry.unwrap();
                std::os::unix::fs::symlink(entry.path(), own.join(entry.file_name())).unwrap();
            }
        }
        copy(&real_cache().join("apt"), &self.cache().join("apt"));
        self
    }

    pub(crate) fn repo(&self) -> PathBuf {
        self.folder.path().join("repo")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    pub(crate) fn options<'a>(&self, progress: &'a Record) -> BuildOptions<'a> {
        BuildOptions::new(self.cache(), self.repo(), progress)
    }

    pub(crate) fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.repo().join(file)).unwrap()
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        let place = self.repo().join(file);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(place, text).unwrap();
    }

    /// Names of the finished layers and images in the cache.
    pub(crate) fn built(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.cache().join("layers")).into_iter().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Copies a folder, but not what takes long to copy and no test here needs (the wheel of node).
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else if entry.metadata().unwrap().len() < LARGE {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
