//! Operating system images, as a build leaves them in its cache.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Which kernel an image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelChoice {
    /// Debian's kernel for virtual machines; its modules are in the initramfs.
    Debian,
    /// StratOS's own configuration, everything built in.
    Stratos,
}

impl KernelChoice {
    /// Both, the default first.
    pub const ALL: [Self; 2] = [Self::Debian, Self::Stratos];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Stratos => "stratos",
        }
    }
}

impl fmt::Display for KernelChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a text names no kernel.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a kernel (debian or stratos)")]
pub struct KernelChoiceError(String);

impl FromStr for KernelChoice {
    type Err = KernelChoiceError;

    fn from_str(text: &str) -> Result<Self, KernelChoiceError> {
        let found = Self::ALL.into_iter().find(|kernel| kernel.as_str() == text);
        found.ok_or_else(|| KernelChoiceError(text.chars().take(40).collect()))
    }
}

/// What a built operating system image is: `images/KERNEL.json` in the cache names the newest of its kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageManifest {
    /// Version of StratOS.
    pub version: String,
    /// Debian's name of the architecture, such as `amd64`.
    pub arch: String,
    /// Which kernel.
    pub kernel: KernelChoice,
    /// The kernel's own version, such as `6.12.57+deb13-cloud-amd64`.
    pub kernel_version: String,
    /// Digest of everything the image was built from.
    pub inputs_digest: Digest,
    /// Folder of the files below, relative to the folder that this manifest is in.
    pub folder: String,
    /// Root hash of the root's verity tree; the command line carries it.
    pub root_hash: Digest,
    /// Root hash of the debug layer, if the image has its disk; the command line names it as `stratos.debug`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_root_hash: Option<Digest>,
    /// The kernel's command line as the UKI has it, without what a machine adds (`console=` and the like).
    pub cmdline: String,
    /// The files, by what they are, sorted by name.
    pub files: Vec<ImageFile>,
}

/// One file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFile {
    /// Its name in the image's folder: `disk.img`, `root.erofs`, `root.verity`, `layers.pack`, `vmlinuz`, `vmlinux`
    /// (a kernel for PVH, where there is one), `initramfs.img`, `stratos.efi`, `files.json`, `debug.img`.
    pub name: String,
    /// Size in bytes; a disk's is that of its sparse file.
    pub size: u64,
    /// Size in bytes when compressed with zstd, as it would be shipped.
    pub compressed: u64,
    /// Digest of its bytes.
    pub digest: Digest,
}
