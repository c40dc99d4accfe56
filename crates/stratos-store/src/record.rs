//! What the store takes and gives.

use stratos_types::{Digest, FunctionKey, FunctionName, InvocationId, TenantId, Version};

/// What one deploy made, before it has a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVersion {
    /// The complete specification (`FunctionSpec::to_toml`).
    pub spec_toml: String,
    /// The function's image, a blob.
    pub image: Digest,
    /// Size of the image in bytes.
    pub image_size: u64,
    /// Name of the layer it was deployed against.
    pub layer_name: String,
    /// That layer's version.
    pub layer_version: String,
    /// Digest of that layer's image.
    pub layer_digest: Digest,
    /// Resolved dependencies: name, version, digest of the archive they came in.
    pub dependencies: Vec<(String, String, String)>,
    /// When it was deployed, in milliseconds since 1970 (UTC).
    pub deployed_at_ms: u64,
    /// The artifact that it was deployed from, if it was.
    pub artifact: Option<FromArtifact>,
}

/// What was done with an artifact when it was deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromArtifact {
    /// The enrolled key that has signed it.
    pub signed_by: Option<String>,
    /// What became of its checkpoint.
    pub checkpoint: ArtifactCheckpoint,
}

/// What became of an artifact's checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArtifactCheckpoint {
    /// It is used.
    Taken,
    /// It is not used.
    Dropped {
        /// Why not.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// There was none in it.
    None {
        /// Why not.
        reason: Option<String>,
    },
}

/// One deployed version; the fields are those of [`NewVersion`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRecord {
    /// Its number; the first is 1. Numbers of one name are never used twice.
    pub version: Version,
    /// The complete specification.
    pub spec_toml: String,
    /// The function's image.
    pub image: Digest,
    /// Size of the image in bytes.
    pub image_size: u64,
    /// Name of the layer it was deployed against.
    pub layer_name: String,
    /// That layer's version.
    pub layer_version: String,
    /// Digest of that layer's image.
    pub layer_digest: Digest,
    /// Resolved dependencies: name, version, digest.
    pub dependencies: Vec<(String, String, String)>,
    /// When it was deployed, in milliseconds since 1970 (UTC).
    pub deployed_at_ms: u64,
    /// The artifact that it was deployed from, if it was.
    pub artifact: Option<FromArtifact>,
}

impl VersionRecord {
    pub(crate) fn numbered(version: Version, new: NewVersion) -> Self {
        let NewVersion {
            spec_toml,
            image,
            image_size,
            layer_name,
            layer_version,
            layer_digest,
            dependencies,
            deployed_at_ms,
            artifact,
        } = new;
        Self {
            version,
            spec_toml,
            image,
            image_size,
            layer_name,
            layer_version,
            layer_digest,
            dependencies,
            deployed_at_ms,
            artifact,
        }
    }
}

/// One function with all the versions the node still has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionRecord {
    /// Whose, and its name.
    pub key: FunctionKey,
    /// The version that requests reach.
    pub current: Version,
    /// All versions, ascending; the current one is always among them.
    pub versions: Vec<VersionRecord>,
}

impl FunctionRecord {
    /// The version with this number, if the node still has it.
    pub fn version(&self, version: Version) -> Option<&VersionRecord> {
        self.versions.iter().find(|v| v.version == version)
    }

    /// The version that requests reach.
    ///
    /// # Panics
    /// Never for a record that the store gave: it checks that the current version exists when it reads.
    pub fn current_version(&self) -> &VersionRecord {
        self.version(self.current).expect("the store checked this when it read the record")
    }
}

/// An asynchronous invocation as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsyncRequest {
    /// Its id.
    pub id: InvocationId,
    /// The function it is for.
    pub key: FunctionKey,
    /// The version it asked for; `None`: whichever is current when it runs.
    pub version: Option<Version>,
    /// The event. Empty in records of invocations that have succeeded: it is not kept longer than needed.
    pub payload: Vec<u8>,
    /// W3C `traceparent` of the request.
    pub traceparent: String,
    /// W3C `tracestate` of the request.
    pub tracestate: Option<String>,
    /// AWS client context, as it came.
    pub client_context: Option<String>,
    /// When it was accepted, in milliseconds since 1970 (UTC).
    pub accepted_at_ms: u64,
}

/// Where an asynchronous invocation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AsyncState {
    /// It waits for its next attempt.
    Queued {
        /// Not before this time, in milliseconds since 1970 (UTC).
        not_before_ms: u64,
    },
    /// An attempt was begun and has not ended (or the agent was killed meanwhile).
    Running,
    /// An attempt succeeded.
    Succeeded,
    /// No attempt is left: it is in the dead-letter list.
    Dead,
}

/// An asynchronous invocation and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsyncRecord {
    /// What was accepted.
    pub request: AsyncRequest,
    /// Where it stands.
    pub state: AsyncState,
    /// Attempts begun.
    pub attempts: u32,
    /// What the last attempt failed with, as the caller gave it (JSON).
    pub last_error: Option<String>,
}

/// `TENANT/NAME`: neither part can hold a slash.
pub(crate) fn function_key(key: &FunctionKey) -> String {
    format!("{}/{}", key.tenant, key.name)
}

/// `TENANT/ID`.
pub(crate) fn async_key(tenant: &TenantId, id: InvocationId) -> String {
    format!("{tenant}/{id}")
}

/// Reads `TENANT/NAME` back; `None` when it is not one.
pub(crate) fn parse_function_key(text: &str) -> Option<FunctionKey> {
    let (tenant, name) = text.split_once('/')?;
    Some(FunctionKey { tenant: tenant.parse().ok()?, name: name.parse::<FunctionName>().ok()? })
}
