//! A running function instance and the agent's ends of its channels.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use stratos_sys::process::Exit;

use stratos_checkpoint::template::Template;

use crate::body::{Body, StartTimings};
use crate::egress::EgressStats;
use crate::error::StartError;
use crate::launch::{Launch, above_targets, launch};
use crate::plan::InstancePlan;
use crate::sandbox::Node;
use crate::weaken::Weaken;

/// A running instance. Its descriptors are fixed: 0 is the null device, 1 and 2 the pipes of its output, 3 the park
/// pipe it reads its release from, 4 the status pipe it reports on. Dropping it kills every process in it at once; the
/// rest (waiting for their end, removing the cgroup) follows in the background.
pub struct Instance {
    body: Body,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    park: Option<OwnedFd>,
    status: Option<OwnedFd>,
    listener: Option<TcpListener>,
}

/// Most bytes that an instance is released with before it is there: what every pipe takes without waiting for a reader
/// (`PIPE_BUF`, pipe(7)).
pub const MOST_RELEASED: usize = 4096;

pub(crate) fn start(
    node: &Arc<Node>,
    plan: &InstancePlan,
    template: Option<&Template>,
    release: &[u8],
    weaken: Weaken,
) -> Result<Instance, StartError> {
    if release.len() > MOST_RELEASED {
        return Err(StartError::Plan { reason: "its release is longer than a pipe takes" });
    }
    let (stdout, child_stdout) = from_child("the stdout pipe")?;
    let (stderr, child_stderr) = from_child("the stderr pipe")?;
    let (child_park, park) = pipe("the park pipe")?;
    let (status, child_status) = from_child("the status pipe")?;
    if !release.is_empty() {
        // All of it, or an error: an empty pipe takes so much at once.
        rustix::io::write(&park, release)
            .map_err(|errno| StartError::Descriptor { what: "the park pipe", source: errno.into() })?;
    }
    let above = |what, fd| above_targets(fd).map_err(|source| StartError::Descriptor { what, source });
    let descriptors = vec![
        above("the stdout pipe", child_stdout)?,
        above("the stderr pipe", child_stderr)?,
        above("the park pipe", child_park)?,
        above("the status pipe", child_status)?,
    ];
    let (body, listener) = launch(
        node,
        Launch {
            id: &plan.id,
            layer: &plan.layer,
            function: Some(&plan.function),
            mounts: &[],
            argv: &plan.argv,
            env: &plan.env,
            cwd: c"/var/task",
            hostname: &plan.hostname,
            tmp_bytes: plan.tmp_bytes,
            memory_bytes: plan.memory_bytes,
            cpu_millis: plan.cpu_millis,
            reserved_cpus: plan.reserved_cpus,
            pids_max: plan.pids_max,
            seccomp: &plan.seccomp,
            egress: plan.egress.as_ref(),
            descriptors,
            uid: node.uids.lease().ok_or(StartError::UserIds)?,
            weaken,
            template,
        },
    )?;
    Ok(Instance {
        body,
        stdout: Some(stdout),
        stderr: Some(stderr),
        park: Some(park),
        status: Some(status),
        listener: Some(listener),
    })
}

/// A pipe: read end, write end, both closed on exec.
pub(crate) fn pipe(what: &'static str) -> Result<(OwnedFd, OwnedFd), StartError> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|errno| StartError::Descriptor { what, source: errno.into() })
}

/// A pipe whose read end, ours, does not block.
pub(crate) fn from_child(what: &'static str) -> Result<(OwnedFd, OwnedFd), StartError> {
    let (read, write) = pipe(what)?;
    fcntl_setfl(&read, OFlags::NONBLOCK)
        .map_err(|errno| StartError::Descriptor { what, source: errno.into() })?;
    Ok((read, write))
}

/// The part of an instance that its owner may take out once.
fn once<T>(slot: &mut Option<T>, what: &str) -> T {
    slot.take().unwrap_or_else(|| panic!("{what} of an instance is taken twice"))
}

impl Instance {
    /// Its process, as the host numbers it.
    pub fn pid(&self) -> i32 {
        self.body.pid()
    }

    /// Its process. Readable when it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.body.pidfd()
    }

    /// Read end of its stdout; does not block.
    ///
    /// # Panics
    /// When taken twice.
    pub fn take_stdout(&mut self) -> OwnedFd {
        once(&mut self.stdout, "stdout")
    }

    /// Read end of its stderr; does not block.
    ///
    /// # Panics
    /// When taken twice.
    pub fn take_stderr(&mut self) -> OwnedFd {
        once(&mut self.stderr, "stderr")
    }

    /// Read end of its status pipe; does not block.
    ///
    /// # Panics
    /// When taken twice.
    pub fn take_status(&mut self) -> OwnedFd {
        once(&mut self.status, "the status pipe")
    }

    /// Write end of its park pipe. Blocks when more than the pipe holds (64 KiB) is written before it reads.
    ///
    /// # Panics
    /// When taken twice.
    pub fn take_park(&mut self) -> OwnedFd {
        once(&mut self.park, "the park pipe")
    }

    /// The listener on `127.0.0.1:9001` in its network namespace; does not block.
    ///
    /// # Panics
    /// When taken twice.
    pub fn take_runtime_listener(&mut self) -> TcpListener {
        once(&mut self.listener, "the Runtime API listener")
    }

    /// A connection to `127.0.0.1:port` in its network namespace, under way: it does not block, and is writable when
    /// it has succeeded or failed.
    ///
    /// # Errors
    /// `ECONNREFUSED` when nothing listens there (it may also come later, on the socket).
    pub fn connect_port(&self, port: u16) -> io::Result<TcpStream> {
        self.body.network().connect(port)
    }

    /// How long the steps of its start took.
    pub fn timings(&self) -> &StartTimings {
        self.body.timings()
    }

    /// Kills every process in it. A second call, or one after its end, does nothing.
    pub fn kill(&self) {
        if let Err(error) = self.body.kill() {
            tracing::error!(pid = self.pid(), %error, "cannot kill an instance");
        }
    }

    /// How it ended. Blocks until it has; call it when [`Instance::pidfd`] is readable to be sure not to block.
    ///
    /// # Errors
    /// When somebody else has waited for the process.
    pub fn wait(&self) -> io::Result<Exit> {
        self.body.wait()
    }

    /// The kernel's number of its cgroup (v2); `None` on a machine without such a hierarchy.
    pub fn cgroup(&self) -> Option<u64> {
        self.body.cgroup()
    }

    /// The kernel has killed a process in it for exceeding its memory limit. Needs the memory controller.
    pub fn oom_killed(&self) -> bool {
        self.body.oom_killed()
    }

    /// Most memory it has had, bytes: of the cgroup with the memory controller (page cache included), else of the
    /// process itself without mapped files, as last seen here or at [`Instance::kill`].
    pub fn memory_peak(&self) -> Option<u64> {
        self.body.memory_peak()
    }

    /// CPU time used so far by all its processes (without cgroups: by the first one, while it runs).
    pub fn cpu_time(&self) -> Option<Duration> {
        self.body.cpu_time()
    }

    /// What went through its egress gateway; `None` without egress rules.
    pub fn egress_stats(&self) -> Option<EgressStats> {
        self.body.egress_stats()
    }

    /// Memory that its first process has now, without mapped files, bytes. `None` after its end.
    pub fn rss(&self) -> Option<u64> {
        self.body.rss()
    }
}
