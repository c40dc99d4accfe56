//! Values as they stand in the database: JSON with a version, apart from the types the crate gives out, so that
//! either can change without the other.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stratos_types::{Digest, FunctionKey, InvocationId, Version};

use crate::record::{ArtifactCheckpoint, AsyncRecord, AsyncRequest, AsyncState, FromArtifact, VersionRecord};

/// A function, also after its removal: `last` must outlive it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "v", deny_unknown_fields)]
pub(crate) enum FunctionRow {
    #[serde(rename = "1")]
    V1 {
        /// `None` once removed.
        current: Option<Version>,
        /// The highest number ever given.
        last: Version,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "v", deny_unknown_fields)]
pub(crate) enum VersionRow {
    #[serde(rename = "1")]
    V1 {
        spec_toml: String,
        image: Digest,
        image_size: u64,
        layer_name: String,
        layer_version: String,
        layer_digest: Digest,
        dependencies: Vec<(String, String, String)>,
        deployed_at_ms: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        artifact: Option<ArtifactRow>,
    },
}

/// The artifact that a version was deployed from.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArtifactRow {
    signed_by: Option<String>,
    checkpoint: CheckpointRow,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum CheckpointRow {
    Taken,
    Dropped { reason: String, hint: Option<String> },
    None { reason: Option<String> },
}

impl ArtifactRow {
    fn new(from: &FromArtifact) -> Self {
        let checkpoint = match from.checkpoint.clone() {
            ArtifactCheckpoint::Taken => CheckpointRow::Taken,
            ArtifactCheckpoint::Dropped { reason, hint } => CheckpointRow::Dropped { reason, hint },
            ArtifactCheckpoint::None { reason } => CheckpointRow::None { reason },
        };
        Self { signed_by: from.signed_by.clone(), checkpoint }
    }

    fn into_record(self) -> FromArtifact {
        let checkpoint = match self.checkpoint {
            CheckpointRow::Taken => ArtifactCheckpoint::Taken,
            CheckpointRow::Dropped { reason, hint } => ArtifactCheckpoint::Dropped { reason, hint },
            CheckpointRow::None { reason } => ArtifactCheckpoint::None { reason },
        };
        FromArtifact { signed_by: self.signed_by, checkpoint }
    }
}

impl VersionRow {
    pub(crate) fn new(record: &VersionRecord) -> Self {
        Self::V1 {
            spec_toml: record.spec_toml.clone(),
            image: record.image,
            image_size: record.image_size,
            layer_name: record.layer_name.clone(),
            layer_version: record.layer_version.clone(),
            layer_digest: record.layer_digest,
            dependencies: record.dependencies.clone(),
            deployed_at_ms: record.deployed_at_ms,
            artifact: record.artifact.as_ref().map(ArtifactRow::new),
        }
    }

    pub(crate) fn into_record(self, version: Version) -> VersionRecord {
        let Self::V1 {
            spec_toml,
            image,
            image_size,
            layer_name,
            layer_version,
            layer_digest,
            dependencies,
            deployed_at_ms,
            artifact,
        } = self;
        VersionRecord {
            version,
            spec_toml,
            image,
            image_size,
            layer_name,
            layer_version,
            layer_digest,
            dependencies,
            deployed_at_ms,
            artifact: artifact.map(ArtifactRow::into_record),
        }
    }
}

/// An asynchronous invocation without its payload, which stands in a table of its own: a change of state must not
/// write megabytes again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "v", deny_unknown_fields)]
pub(crate) enum AsyncRow {
    #[serde(rename = "1")]
    V1(AsyncV1),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AsyncV1 {
    pub(crate) function: String,
    pub(crate) version: Option<Version>,
    pub(crate) traceparent: String,
    pub(crate) tracestate: Option<String>,
    pub(crate) client_context: Option<String>,
    pub(crate) accepted_at_ms: u64,
    pub(crate) state: StateRow,
    pub(crate) attempts: u32,
    pub(crate) last_error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StateRow {
    Queued {
        not_before_ms: u64,
    },
    Running,
    Succeeded {
        /// Its place in the order of successes, by which old ones are dropped.
        order: u64,
    },
    Dead,
}

impl AsyncV1 {
    /// The row of a new request, due at once.
    pub(crate) fn queued(request: &AsyncRequest) -> Self {
        Self {
            function: request.key.name.to_string(),
            version: request.version,
            traceparent: request.traceparent.clone(),
            tracestate: request.tracestate.clone(),
            client_context: request.client_context.clone(),
            accepted_at_ms: request.accepted_at_ms,
            state: StateRow::Queued { not_before_ms: request.accepted_at_ms },
            attempts: 0,
            last_error: None,
        }
    }

    /// The record of this row; `key` is the row's key, `TENANT/ID`. `None` when either is malformed.
    pub(crate) fn into_record(self, key: &str, payload: Vec<u8>) -> Option<AsyncRecord> {
        let (tenant, id) = key.split_once('/')?;
        let id: InvocationId = id.parse().ok()?;
        let key = FunctionKey { tenant: tenant.parse().ok()?, name: self.function.parse().ok()? };
        let state = match self.state {
            StateRow::Queued { not_before_ms } => AsyncState::Queued { not_before_ms },
            StateRow::Running => AsyncState::Running,
            StateRow::Succeeded { .. } => AsyncState::Succeeded,
            StateRow::Dead => AsyncState::Dead,
        };
        Some(AsyncRecord {
            request: AsyncRequest {
                id,
                key,
                version: self.version,
                payload,
                traceparent: self.traceparent,
                tracestate: self.tracestate,
                client_context: self.client_context,
                accepted_at_ms: self.accepted_at_ms,
            },
            state,
            attempts: self.attempts,
            last_error: self.last_error,
        })
    }
}

pub(crate) fn encode(row: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(row).expect("rows hold nothing that JSON cannot say")
}

pub(crate) fn decode<T: DeserializeOwned>(table: &str, key: &str, bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|e| format!("row `{key}` of table `{table}`: {e}"))
}
