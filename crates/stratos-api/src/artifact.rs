//! Artifacts: what became of them, their builds, and the keys that sign them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::LayerInfo;

/// What a node did with an artifact when it was deployed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArtifactInfo {
    /// The enrolled key that has signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
    /// Its checkpoint: `taken`; `dropped`, and the node makes its own; or `none` was in it.
    pub checkpoint: String,
    /// Why it was dropped, or why there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A key whose signature of artifacts a node believes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyInfo {
    /// Its id: the first eight bytes of its digest, in hexadecimal.
    pub id: String,
    /// When it was enrolled (RFC 3339, UTC).
    pub enrolled_at: String,
    /// The key (PEM).
    pub public_key: String,
}

/// An artifact that a node has built and keeps for a while, to be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildInfo {
    /// Its id.
    pub id: String,
    /// Name of the function.
    pub name: String,
    /// The artifact's size in bytes.
    pub bytes: u64,
    /// The layer it was built against.
    pub layer: LayerInfo,
    /// Whether the layer is in it.
    pub runtime: bool,
    /// Bytes of the checkpoint in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_bytes: Option<u64>,
    /// Why there is no checkpoint in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_checkpoint: Option<String>,
}

/// One message of the stream that a build answers with (newline-delimited JSON).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum BuildEvent {
    /// A step began.
    Step {
        /// What is done now.
        step: String,
    },
    /// A line of the dependency build's output.
    Output {
        /// The line.
        line: String,
    },
    /// The artifact can be fetched.
    Done {
        /// What it is.
        build: Box<BuildInfo>,
        /// How long the build took, in ms.
        took_ms: u64,
    },
    /// There is none.
    Failed {
        /// Why.
        error: Box<crate::ApiError>,
    },
}
