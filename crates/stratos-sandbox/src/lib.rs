//! Starts, isolates and ends function instances.
//!
//! [`Sandbox`] is the node's one of them: it owns the private mount namespace, the cgroups, the pool of network
//! namespaces and the user IDs. [`Sandbox::start`] turns an [`InstancePlan`] into a running [`Instance`]: a process
//! that is PID 1 of its own PID, mount, network, IPC, UTS and cgroup namespaces, runs as a user of its own, sees a
//! read-only root and writes only to its `/tmp`. [`Sandbox::run_job`] runs a build step under the same isolation.
//!
//! This crate decides nothing: how many instances, how much memory, which profile all stand in the plan. It knows
//! nothing of functions, requests or the Runtime API beyond the address where its listener waits.

mod body;
mod cgroup;
mod checkpoint;
pub mod egress;
mod error;
mod features;
mod filesystem;
mod image;
mod instance;
mod job;
mod launch;
mod network;
mod plan;
mod reaper;
mod sandbox;
pub mod seccomp;
mod setup;
mod sweep;
mod uid;
mod weaken;

pub use body::StartTimings;
pub use checkpoint::{checkpoint, checkpoint_awaiting, checkpoint_idle, keep_memory_together, template};
pub use egress::EgressPolicy;
pub use error::{JobError, MountError, OpenError, StartError};
pub use features::{Features, Missing, ReservedCpus};
pub use image::Image;
pub use instance::{Instance, MOST_RELEASED};
pub use plan::{Bind, InstancePlan, JobOutput, JobPlan, OnOutput, SandboxConfig};
pub use sandbox::Sandbox;
pub use seccomp::SeccompFilter;
pub use stratos_sys::process::Exit;
#[cfg(feature = "weaken")]
pub use weaken::Weaken;
