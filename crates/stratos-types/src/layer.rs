//! Runtime layers, as a node sees them.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// What a built runtime layer is: the file `NAME.json` beside its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerManifest {
    /// The layer's name, such as `node24`.
    pub name: String,
    /// The version of what it holds, such as `24.19.0`, as the runtime itself reports it.
    pub version: String,
    /// Digest of everything the image was built from.
    pub inputs_digest: Digest,
    /// File name of the EROFS image, in the same folder.
    pub image: String,
    /// Digest of the image file.
    pub image_digest: Digest,
    /// Size of the image file in bytes.
    pub size: u64,
}
