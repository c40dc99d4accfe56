//! How a long build tells what it is doing.

use std::fmt;

/// The steps of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Looking up the locked versions in their archives.
    Resolve,
    /// Fetching packages that are not in the cache.
    Download,
    /// Unpacking packages into the layer's tree.
    Unpack,
    /// Expanding the kernel's configuration.
    Configure,
    /// Compiling: bytecode of a layer, the kernel, the programs.
    Compile,
    /// Checking that every program and library will load.
    Check,
    /// Writing the EROFS image.
    Image,
    /// Putting layers and their hash trees one behind the other.
    Pack,
    /// Writing an initramfs, a unified kernel image or a disk.
    Write,
    /// Reading finished files for their sizes and digests.
    Measure,
    /// Finished; also reported when the cache already had the image.
    Done,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "resolving",
            Self::Download => "downloading",
            Self::Unpack => "unpacking",
            Self::Configure => "configuring",
            Self::Compile => "compiling",
            Self::Check => "checking",
            Self::Image => "writing the image of",
            Self::Pack => "packing",
            Self::Write => "writing",
            Self::Measure => "measuring",
            Self::Done => "built",
        })
    }
}

/// Receives what a build reports; called on the building thread.
pub trait Progress: Sync {
    /// `layer` entered `step`.
    fn step(&self, layer: &str, step: Step);
    /// `done` of `total` bytes of the running download arrived. `total` is 0 while it is unknown.
    fn bytes(&self, layer: &str, done: u64, total: u64);
    /// What the running step of a long build is at, such as the file that is being compiled.
    fn detail(&self, _what: &str, _detail: &str) {}
    /// Something the user has to read, such as a version that had to be replaced.
    fn notice(&self, message: &str);
}

/// Reports nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _: &str, _: Step) {}
    fn bytes(&self, _: &str, _: u64, _: u64) {}
    fn notice(&self, _: &str) {}
}
