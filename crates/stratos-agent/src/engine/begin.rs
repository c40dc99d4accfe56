//! How an instance's process begins: restored or afresh, with what it is given.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use stratos_api::{ApiError, ErrorCode};
use stratos_checkpoint::template::Template;
use stratos_sandbox::{InstancePlan, MOST_RELEASED, Sandbox, StartError};
use tokio::net::unix::pipe;
use zeroize::Zeroizing;

use super::deployed::Deployed;
use super::release::{self, Given};

/// A process that was begun.
pub(super) struct Begun {
    pub(super) instance: stratos_sandbox::Instance,
    /// When its first instruction ran.
    pub(super) executed: Instant,
    pub(super) restored: bool,
    /// Why it was not restored, when it should have been.
    pub(super) not_restored: Option<StartError>,
    /// What it is still to be released with.
    pub(super) release: Zeroizing<Vec<u8>>,
}

impl Begun {
    pub(super) fn restored(instance: stratos_sandbox::Instance, release: Zeroizing<Vec<u8>>) -> Self {
        Self { instance, executed: Instant::now(), restored: true, not_restored: None, release }
    }
}

/// How an instance is to be begun.
pub(super) struct Start {
    pub(super) plan: InstancePlan,
    pub(super) template: Option<Arc<Template>>,
    /// It must not be started afresh in place of being restored.
    pub(super) required: bool,
    pub(super) given: Arc<Given>,
    /// A fresh one has it in its environment.
    pub(super) given_at_start: bool,
}

impl Start {
    /// Restores an instance, or starts it afresh when there is no template or that fails. Blocks. `release` is for a
    /// restored one.
    pub(super) fn begin(
        mut self,
        sandbox: &Sandbox,
        release: Zeroizing<Vec<u8>>,
    ) -> Result<Begun, StartError> {
        let mut not_restored = None;
        if let Some(template) = &self.template {
            // Lying there when it comes, it is read at once; nobody has to be woken up in between.
            let ahead = if release.len() <= MOST_RELEASED { release.as_slice() } else { &[] };
            match sandbox.restore(&self.plan, template, ahead) {
                Ok(instance) if ahead.is_empty() => return Ok(Begun::restored(instance, release)),
                Ok(instance) => return Ok(Begun::restored(instance, Zeroizing::default())),
                Err(error) if self.required => return Err(error),
                Err(error) => not_restored = Some(error),
            }
        }
        if self.given_at_start {
            self.plan.env = self.given.over(&self.plan.env);
        }
        let started = sandbox.start(&self.plan);
        release::wipe(self.plan.env);
        let instance = started?;
        let given = (!self.given_at_start).then_some(&*self.given);
        let release = release::frame(&[], given)
            .map_err(|source| StartError::Descriptor { what: "its release", source })?;
        Ok(Begun { instance, executed: Instant::now(), restored: false, not_restored, release })
    }
}

/// The pipes of a new instance, its release already written.
pub(super) struct Pipes {
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
    pub(super) status: pipe::Receiver,
    /// What the release was written to.
    pub(super) park: std::fs::File,
}

impl Pipes {
    pub(super) fn take(inner: &mut stratos_sandbox::Instance, release: &[u8]) -> io::Result<Self> {
        let mut park = std::fs::File::from(inner.take_park());
        // Nothing is waited for: a pipe takes a whole frame.
        match park.write_all(release) {
            // It has ended already, for lack of a library, say: its death tells more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written?,
        }
        let receiver = |fd: OwnedFd| pipe::Receiver::from_owned_fd(fd);
        Ok(Self {
            stdout: receiver(inner.take_stdout())?,
            stderr: receiver(inner.take_stderr())?,
            status: receiver(inner.take_status())?,
            park,
        })
    }
}

fn is_read_error(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// A program that cannot be executed is the function's fault, everything else about a start is the node's.
pub(super) fn start_error(deployed: &Deployed, error: &StartError) -> ApiError {
    match error {
        // The first page of the program, or of its loader, could not be read.
        StartError::Step { step: "execute", source, .. } if is_read_error(source) => {
            let message = format!(
                "{} cannot be read from this node's disk (runtime layer `{}`)",
                deployed.program(),
                deployed.layer_name()
            );
            ApiError::new(ErrorCode::Internal, message).caused_by(source)
        }
        StartError::Step { step: "execute", source, .. } => {
            let message = format!("{} cannot be executed", deployed.program());
            ApiError::new(ErrorCode::FunctionInitFailed, message).caused_by(source).hint(
                "`handler` or `start` in stratos.toml must name a file of the function that is executable, \
                 and made for this processor",
            )
        }
        _ => ApiError::new(ErrorCode::Internal, "an instance cannot be started").caused_by(error),
    }
}
