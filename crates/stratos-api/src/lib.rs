//! What is said on the wire between a node and its clients: JSON bodies, header names, paths, and a client.
//!
//! These types are the contract. They hold plain text and numbers so that a client of another version can read
//! what it knows; the node turns them into `stratos-types` at its edge.

pub mod artifact;
pub mod boot_chart;
#[cfg(feature = "client")]
pub mod client;
pub mod error;
#[cfg(feature = "client")]
mod file_body;
pub mod header;
pub mod node;
pub mod path;
pub mod telemetry;
pub mod trace;
pub mod types;
#[cfg(feature = "client")]
mod verifier;

pub use artifact::{ArtifactInfo, BuildEvent, BuildInfo, KeyInfo};
#[cfg(feature = "client")]
pub use client::{Client, Endpoint};
pub use error::{ApiError, Blame, ErrorCode};
#[cfg(feature = "client")]
pub use file_body::FileBody;
pub use trace::{DroppedCounts, KernelFigures, NodeFeatures, ProgramGroup, SyscallCount, SyscallTrace};
pub use types::*;
