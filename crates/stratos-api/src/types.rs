//! Bodies of requests and answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`, or `degraded` when something named in `missing` is missing.
    pub status: String,
    /// The node's version.
    pub version: String,
    /// What this machine lacks, and what follows from it.
    pub missing: Vec<MissingFeature>,
    /// Instances that run now.
    pub instances: u32,
    /// Requests that wait for an instance.
    pub queued: u32,
    /// Seconds since the node started.
    pub uptime_s: u64,
    /// Resident memory of the agent in KiB.
    pub agent_rss_kb: u64,
    /// Layers this node can run functions on: name and version.
    pub layers: Vec<LayerInfo>,
}

/// What a node tells of itself without a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Liveness {
    /// `ok`: it answers.
    pub status: String,
    /// The node's version.
    pub version: String,
}

/// A runtime layer on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LayerInfo {
    /// Its name, which is the runtime's.
    pub name: String,
    /// The runtime's version.
    pub version: String,
    /// Digest of its image.
    pub digest: String,
}

/// One ability the machine does not have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MissingFeature {
    /// What is missing.
    pub what: String,
    /// What follows from it.
    pub consequence: String,
}

/// One line of the list of functions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FunctionSummary {
    /// Name.
    pub name: String,
    /// Runtime.
    pub runtime: String,
    /// Current version.
    pub version: u64,
    /// When the current version was deployed (RFC 3339, UTC).
    pub deployed_at: String,
    /// Instances that run now.
    pub instances: u32,
    /// Invocations since the agent started.
    pub invocations: u64,
    /// Of these, errors.
    pub errors: u64,
}

/// One function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FunctionDetail {
    /// Name.
    pub name: String,
    /// The current version.
    pub current: VersionInfo,
    /// Instances that run now.
    pub instances: Vec<InstanceInfo>,
    /// Requests that wait.
    pub queued: u32,
    /// Invocations since the agent started.
    pub invocations: u64,
    /// Of these, errors.
    pub errors: u64,
    /// Of these, cold starts.
    pub cold_starts: u64,
    /// How its instances are started.
    #[serde(default)]
    pub checkpoint: CheckpointInfo,
    /// The function URL's path.
    pub url_path: String,
    /// The last invocations, newest first, at most 10.
    pub recent: Vec<InvocationRecord>,
}

/// The checkpoint of a function's current version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointInfo {
    /// `ready`: instances are restored from it; `making`: one is being made; `none`: instances are started afresh.
    pub state: String,
    /// Why there is none.
    pub reason: Option<String>,
    /// Memory in it, bytes.
    pub bytes: Option<u64>,
    /// Whether it is in memory now, ready to be cloned.
    pub in_memory: bool,
    /// The key that signed the artifact which it came with; nothing when this node has made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstanceInfo {
    /// Its id.
    pub id: String,
    /// The version it runs.
    pub version: u64,
    /// `starting`, `idle` or `busy`.
    pub state: String,
    /// Requests it works on.
    pub in_flight: u32,
    /// Requests it has answered.
    pub served: u64,
    /// Seconds since it was started.
    pub age_s: u64,
    /// Resident memory in KiB, where the kernel tells.
    pub memory_kb: Option<u64>,
}

/// One deployed version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VersionInfo {
    /// Its number; the first is 1.
    pub version: u64,
    /// Whether it is the current one.
    pub current: bool,
    /// When it was deployed (RFC 3339, UTC).
    pub deployed_at: String,
    /// Digest of the function's image.
    pub digest: String,
    /// The image's size in bytes.
    pub size: u64,
    /// The complete specification, as `stratos.toml` would say it.
    pub spec: String,
    /// Runtime.
    pub runtime: String,
    /// `handler` or `http`.
    pub kind: String,
    /// Layer it was deployed against: name, version, digest.
    pub layer: LayerInfo,
    /// Dependencies as they were resolved.
    pub dependencies: Vec<Dependency>,
    /// What of its specification this node cannot do, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The artifact that it was deployed from, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact: Option<crate::ArtifactInfo>,
}

/// One resolved dependency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dependency {
    /// Package name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Digest of the archive it came in, as the registry and lock file state it (`sha256:..`, `sha512-..`).
    pub digest: String,
}

/// One message of the stream that a deploy answers with (newline-delimited JSON).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum DeployEvent {
    /// A step began.
    Step {
        /// What is done now, such as `resolving dependencies`.
        step: String,
    },
    /// A line of the dependency build's output.
    Output {
        /// The line.
        line: String,
    },
    /// The new version is stored and is the current one.
    Done {
        /// Name of the function.
        name: String,
        /// The version.
        version: Box<VersionInfo>,
        /// How long the deploy took, in ms.
        took_ms: u64,
    },
    /// Nothing was changed.
    Failed {
        /// Why.
        error: Box<crate::ApiError>,
    },
}

/// What to roll back to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The version; without it, the one before the current.
    #[serde(default)]
    pub version: Option<u64>,
}

/// The phases of one invocation, in microseconds: they follow each other without a gap, each from one moment to the next,
/// so their sum is the total.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Phases {
    /// From the request's first byte until all of it was there and it was let in.
    #[serde(default)]
    pub receive_us: u64,
    /// From there until an instance was free for it, or the start of one began.
    pub queue_us: u64,
    /// A start afresh: namespaces, cgroup, mounts, filters, until the runtime's first instruction. A restored one: until the
    /// clone of its template runs. 0 when warm.
    pub sandbox_us: u64,
    /// From there until the bootstrap's first line. 0 when warm or restored.
    pub runtime_us: u64,
    /// From there until the function could take a request; of a restored instance, its hooks. 0 when warm. Of a start that
    /// failed, all of it.
    pub init_us: u64,
    /// From there, or from being given a free instance, until the function's runtime took the request.
    #[serde(default)]
    pub dispatch_us: u64,
    /// From there to the end of its answer.
    pub handler_us: u64,
    /// From there until the last of the answer was given to the kernel to be sent. 0 where it is passed on while it is made.
    #[serde(default)]
    pub respond_us: u64,
    /// All of it, at the node's edge.
    pub total_us: u64,
}

impl Phases {
    /// Each phase with its name, in their order.
    pub const fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("receive", self.receive_us),
            ("queue", self.queue_us),
            ("sandbox", self.sandbox_us),
            ("runtime", self.runtime_us),
            ("init", self.init_us),
            ("dispatch", self.dispatch_us),
            ("handler", self.handler_us),
            ("respond", self.respond_us),
        ]
    }
}

/// What is known about one invocation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InvocationRecord {
    /// Its id.
    pub id: String,
    /// The function.
    pub function: String,
    /// The version that answered.
    pub version: u64,
    /// The instance that answered, if one was reached.
    pub instance: Option<String>,
    /// When it arrived (RFC 3339, UTC, ms).
    pub started_at: String,
    /// Whether an instance was started for it.
    pub cold: bool,
    /// Whether that instance went on from a checkpoint.
    #[serde(default)]
    pub restored: bool,
    /// Its phases.
    pub phases: Phases,
    /// Payload in bytes.
    pub request_bytes: u64,
    /// Answer in bytes.
    pub response_bytes: u64,
    /// Memory high-water mark of the instance in KiB, where the kernel tells.
    pub memory_peak_kb: Option<u64>,
    /// CPU time of the instance during the invocation in microseconds, where the kernel tells.
    pub cpu_us: Option<u64>,
    /// `ok`, or an error code.
    pub outcome: String,
    /// On an error: who is to blame.
    pub blame: Option<crate::Blame>,
    /// Trace id (W3C).
    pub trace_id: String,
    /// The id of the span that this invocation is in its trace.
    #[serde(default)]
    pub span_id: String,
    /// How the request came: `http`, `pubsub` for one from the asynchronous queue, `other` (OpenTelemetry's `faas.trigger`).
    #[serde(default)]
    pub trigger: String,
    /// Whether it took longer than the function's `[slo]` allows.
    #[serde(default)]
    pub slo_breached: bool,
    /// Time of a restored instance from its release until it could take a request: its hooks after the restore,
    /// microseconds. Nothing when none was restored for this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_hook_us: Option<u64>,
    /// Time from the answer until the runtime asked for its next event, microseconds. Nothing while it has not, and for
    /// functions with more than one request at a time or a server of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_hook_us: Option<u64>,
    /// What the kernel counted in the instance meanwhile, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<crate::KernelFigures>,
}

impl InvocationRecord {
    /// How the instance came to be, in a word: `warm` when it was there, `restored` from a checkpoint, or `cold`.
    pub const fn start(&self) -> &'static str {
        match (self.cold, self.restored) {
            (false, _) => "warm",
            (true, true) => "restored",
            (true, false) => "cold",
        }
    }
}

/// Answer to an asynchronous invocation: it is stored and will be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// Its id.
    pub invocation: String,
}

/// State of an asynchronous invocation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AsyncInvocation {
    /// Its id.
    pub id: String,
    /// The function.
    pub function: String,
    /// `queued`, `running`, `succeeded` or `dead`.
    pub state: String,
    /// Attempts made.
    pub attempts: u32,
    /// When it was accepted (RFC 3339, UTC).
    pub accepted_at: String,
    /// When the next attempt is due (RFC 3339, UTC), while queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<String>,
    /// What the last attempt failed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<crate::ApiError>,
}

/// What is told of a secret: never its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretInfo {
    /// Its name.
    pub name: String,
    /// When it was last set (RFC 3339, UTC).
    pub updated_at: String,
    /// Functions whose current version uses it, by name.
    pub used_by: Vec<String>,
}

/// One line of a function's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// When it was read (RFC 3339, UTC, ms).
    pub at: String,
    /// `stdout`, `stderr`, or `platform` for StratOS's own lines.
    pub stream: String,
    /// The instance.
    pub instance: String,
    /// The invocation that ran then, when just one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<String>,
    /// The text, without its line end.
    pub message: String,
}
