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
    /// Where the layer is in the layers partition of a StratOS disk. Only in the manifests of an OS image's root,
    /// which dm-verity protects: what they say is what the kernel checks every block of the layer against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<PackedLayer>,
}

/// A layer's place in the layers partition: its image, zeros up to the next block, and its verity data behind that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackedLayer {
    /// Where the image begins, bytes from the partition's start; a multiple of 1 MiB.
    pub offset: u64,
    /// Bytes of image and verity data together; a multiple of 4,096.
    pub length: u64,
    /// Where the verity superblock begins, bytes from `offset`; a multiple of 4,096. The hash tree follows it.
    pub hash_offset: u64,
    /// Root hash of the verity tree.
    pub root_hash: Digest,
}
