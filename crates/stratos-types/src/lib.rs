//! The vocabulary of StratOS: names, ids, digests, quantities and function specifications.
//!
//! Untrusted text becomes one of these types through a single constructor (`FromStr` or `parse`) at the edge;
//! everything behind the edge carries the type. Nothing here does I/O, reads a clock or knows a wire format other
//! than `stratos.toml` and the node's configuration.

pub mod digest;
pub mod egress;
pub mod environment;
pub mod id;
pub mod image;
pub mod layer;
pub mod name;
pub mod node_config;
pub mod quantity;
pub mod spec;
pub mod trace_context;

pub use digest::Digest;
pub use egress::{EgressRule, EgressTarget};
pub use environment::NodeEnvironment;
pub use id::{InstanceId, InvocationId};
pub use image::{ImageFile, ImageManifest, KernelChoice};
pub use layer::{LayerManifest, PackedLayer};
pub use name::{FunctionKey, FunctionName, SecretName, TenantId};
pub use node_config::NodeConfig;
pub use quantity::{CpuShare, MemorySize, Timeout};
pub use spec::{CheckpointMode, CpuClass, Entry, FunctionSpec, Runtime, Slo, SpecError};
pub use trace_context::TraceContext;

/// The number of one deployed version of a function; the first is 1.
pub type Version = u64;
