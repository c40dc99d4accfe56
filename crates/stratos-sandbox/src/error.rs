//! What can go wrong, one type per operation.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use stratos_sys::erofs::ErofsError;

use crate::egress::EgressError;
use crate::features::Missing;

/// Why the node's sandbox could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not enough rights for a mount namespace: the agent must be root.
    #[error("cannot make a private mount namespace (is this root?)")]
    MountNamespace {
        /// What the kernel said.
        source: io::Error,
    },
    /// A directory under the run directory could not be made, mounted or filled.
    #[error("cannot prepare {path}")]
    RunDir {
        /// The place in question.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A fact about the kernel could not be read from /proc.
    #[error("cannot read {path}")]
    Proc {
        /// The file in question.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Limits are required and this host cannot enforce them all.
    #[error(
        "this host cannot enforce limits: {}; boot with cgroup v2 (kernel argument `systemd.unified_cgroup_hierarchy=1` on systemd hosts), or accept running without them with `--dev`",
        Missing::list(.missing)
    )]
    LimitsMissing {
        /// Each cgroup v2 controller that is missing, and what follows.
        missing: Vec<Missing>,
    },
    /// A cgroup could not be made or changed.
    #[error("cannot set up cgroup {path}")]
    Cgroup {
        /// The cgroup's directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Processes of a predecessor that was killed do not go away.
    #[error("processes left by a predecessor in {path} do not end")]
    Sweep {
        /// Where they are.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A background thread could not be started.
    #[error("cannot start a thread")]
    Thread {
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why an image is not mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The image's path does not resolve.
    #[error("cannot find image {image}")]
    Missing {
        /// The path asked for.
        image: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No directory to mount it on.
    #[error("cannot make mount point {path}")]
    MountPoint {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel did not mount it.
    #[error("cannot mount image {image}")]
    Mount {
        /// The image.
        image: PathBuf,
        /// Which step failed.
        source: ErofsError,
    },
}

/// Why an instance did not start. In each case nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The plan contradicts itself or cannot be expressed to the kernel.
    #[error("the plan is not usable: {reason}")]
    Plan {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No network namespace.
    #[error("cannot make a network namespace")]
    Network {
        /// What the kernel said.
        source: io::Error,
    },
    /// The gateway for the allowed destinations did not start.
    #[error("cannot open the function's egress")]
    Egress {
        /// What the gateway said.
        source: EgressError,
    },
    /// Its cgroup could not be made or limited.
    #[error("cannot set up cgroup {path}")]
    Cgroup {
        /// The cgroup's directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A pipe or another descriptor could not be made.
    #[error("cannot make {what}")]
    Descriptor {
        /// Which one.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// No user ID is free: 65,536 instances run.
    #[error("no user id is free")]
    UserIds,
    /// The kernel did not make the process.
    #[error("cannot make the process")]
    Clone {
        /// What the kernel said.
        source: io::Error,
    },
    /// A step between clone and exec failed.
    #[error("cannot {step}{}", .path.as_ref().map(|path| format!(" {path}")).unwrap_or_default())]
    Step {
        /// What the step does.
        step: &'static str,
        /// The path it is about, as the new process sees it.
        path: Option<String>,
        /// What the kernel said.
        source: io::Error,
    },
    /// It could not be restored from its checkpoint.
    #[error("cannot restore an instance")]
    Restore {
        /// Why.
        source: stratos_checkpoint::template::TemplateError,
    },
}

/// Why a job has no result.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// It did not start.
    #[error("the job did not start")]
    Start {
        /// Why.
        #[from]
        source: StartError,
    },
    /// A writable folder could not be given to the job's user.
    #[error("cannot hand {path} to the job")]
    Handover {
        /// The folder or file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its output could not be read, or its end not awaited.
    #[error("cannot follow the job")]
    Follow {
        /// What the kernel said.
        source: io::Error,
    },
    /// It took too long and was killed.
    #[error("the job was killed after {after:?}")]
    Timeout {
        /// The time it had.
        after: Duration,
        /// The end of what it printed.
        output: Vec<u8>,
    },
}
