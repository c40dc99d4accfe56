//! Launching a process: collecting what it needs, cloning it, saying what went wrong.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::fchown;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{Gid, Uid};
use stratos_checkpoint::template::Template;
use stratos_restorer::abi;
use stratos_setup::abi::{CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS};
use stratos_setup::{CStrPtr, Op};
use stratos_sys::spawn::{Child, SpawnError, spawn};
use tokio::runtime::Handle;

use crate::body::{Body, Held, StartTimings};
use crate::cgroup::{Leaf, Limits};
use crate::egress::{EgressGateway, EgressPolicy};
use crate::error::StartError;
use crate::image::Image;
use crate::network::Network;
use crate::sandbox::Node;
use crate::seccomp::SeccompFilter;
use crate::setup::{Mounted, Restored, Setup};
use crate::uid::UidLease;
use crate::weaken::Weaken;

/// Descriptors of a new process come from numbers above these, so that placing one cannot cover another.
const ABOVE_TARGETS: RawFd = 16;
/// Bytes of /tmp per file in it, on average, at its fullest: each file takes kernel memory besides its pages.
const BYTES_PER_INODE: u64 = 4096;
/// Fewest files in a /tmp.
const MIN_INODES: u64 = 1024;
/// How ready functions are to be killed when the host runs out of memory; the agent is at 0.
pub(crate) const OOM_SCORE: &str = "500";

/// What to launch.
pub(crate) struct Launch<'a> {
    pub(crate) id: &'a str,
    pub(crate) layer: &'a Image,
    pub(crate) function: Option<&'a Image>,
    pub(crate) mounts: &'a [Mounted],
    pub(crate) argv: &'a [CString],
    pub(crate) env: &'a [CString],
    pub(crate) cwd: &'a CStr,
    pub(crate) hostname: &'a str,
    pub(crate) tmp_bytes: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) cpu_millis: Option<u32>,
    pub(crate) reserved_cpus: bool,
    pub(crate) pids_max: u32,
    pub(crate) seccomp: &'a SeccompFilter,
    pub(crate) egress: Option<&'a Arc<EgressPolicy>>,
    /// Descriptors `1..` of the process; 0 is the null device.
    pub(crate) descriptors: Vec<OwnedFd>,
    pub(crate) uid: UidLease,
    pub(crate) weaken: Weaken,
    /// Goes on from a checkpoint in place of executing `argv`.
    pub(crate) template: Option<&'a Template>,
}

/// Starts a process; besides it, the listener that waits in its network. When it fails, nothing is left.
pub(crate) fn launch(node: &Arc<Node>, launch: Launch<'_>) -> Result<(Body, TcpListener), StartError> {
    check(&launch)?;
    let started = Instant::now();
    let (network, listener) = network(node, launch.weaken)?;
    let gateway = gateway(&network, &launch)?;
    let networked = Instant::now();
    let cgroup = cgroup(node, &launch)?;
    let grouped = Instant::now();
    let child = match clone(node, &launch, &network, cgroup.as_ref().map(Leaf::fd)) {
        Ok(child) => child,
        Err(error) => {
            if let Some(leaf) = &cgroup
                && let Err(error) = leaf.remove(Duration::from_millis(100))
            {
                tracing::error!(path = %leaf.path().display(), %error, "cannot remove a cgroup");
            }
            return Err(error);
        }
    };
    let timings = StartTimings {
        network: networked - started,
        cgroup: grouped - networked,
        clone_to_exec: grouped.elapsed(),
    };
    let oom_score = format!("/proc/{}/oom_score_adj", child.pid);
    if let Err(error) = std::fs::write(oom_score, OOM_SCORE) {
        tracing::debug!(pid = child.pid, %error, "cannot make an instance the first to be killed");
    }
    let held = Held { pidfd: child.pidfd, cgroup, uid: launch.uid, network, gateway };
    Ok((Body::new(node, child.pid, held, timings, !launch.weaken.end_kill), listener))
}

fn check(launch: &Launch<'_>) -> Result<(), StartError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let problem = if launch.argv.is_empty() {
        "no program"
    } else if launch.id.is_empty() || launch.id.len() > 200 || !launch.id.bytes().all(plain) {
        "the id is not a plain name"
    } else if launch.id.starts_with('.') {
        "the id starts with a dot"
    } else if launch.hostname.len() > 64 {
        "the host name is longer than 64 bytes"
    } else {
        return Ok(());
    };
    Err(StartError::Plan { reason: problem })
}

fn network(node: &Node, weaken: Weaken) -> Result<(Network, TcpListener), StartError> {
    let network = if weaken.network_namespace { node.networks.host() } else { node.networks.take() };
    network.map_err(|source| StartError::Network { source })
}

fn gateway(network: &Network, launch: &Launch<'_>) -> Result<Option<EgressGateway>, StartError> {
    let Some(policy) = launch.egress else {
        return Ok(None);
    };
    let runtime = Handle::try_current()
        .map_err(|_| StartError::Plan { reason: "egress needs a tokio runtime around the caller" })?;
    EgressGateway::start(network.as_fd(), Arc::clone(policy), &runtime)
        .map(Some)
        .map_err(|source| StartError::Egress { source })
}

fn cgroup(node: &Node, launch: &Launch<'_>) -> Result<Option<Leaf>, StartError> {
    let Some(base) = node.cgroups.as_ref().map(|cgroups| cgroups.of(launch.reserved_cpus)) else {
        return Ok(None);
    };
    let limits = Limits {
        memory_bytes: launch.memory_bytes,
        swap_bytes: launch.memory_bytes / 100 * u64::from(node.swap_percent),
        cpu_millis: launch.cpu_millis,
        pids_max: (!launch.weaken.nproc).then_some(launch.pids_max),
    };
    base.leaf(launch.id, &limits)
        .map(Some)
        .map_err(|source| StartError::Cgroup { path: base.leaf_path(launch.id), source })
}

fn clone(
    node: &Node,
    launch: &Launch<'_>,
    network: &Network,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Child, StartError> {
    let ruleset = match node.features.landlock_abi {
        0 => None,
        abi => {
            let ruleset = stratos_sys::landlock::ruleset(abi)
                .map_err(|source| StartError::Descriptor { what: "a Landlock ruleset", source })?;
            Some((ruleset, abi))
        }
    };
    let null = File::open("/dev/null")
        .and_then(|null| above_targets(null.into()))
        .map_err(|source| StartError::Descriptor { what: "the null device's descriptor", source })?;
    // Else the instance could not open /dev/stdout, which leads to a pipe that root made.
    let (user, group) = (Uid::from_raw(launch.uid.get()), Gid::from_raw(launch.uid.get()));
    for pipe in &launch.descriptors {
        fchown(pipe, Some(user), Some(group))
            .map_err(|errno| StartError::Descriptor { what: "a pipe of its own", source: errno.into() })?;
    }
    let descriptors: Vec<RawFd> =
        std::iter::once(null.as_raw_fd()).chain(launch.descriptors.iter().map(AsRawFd::as_raw_fd)).collect();
    let inodes = (launch.tmp_bytes / BYTES_PER_INODE).max(MIN_INODES);
    let tmp_options = c_string(format!("size={},nr_inodes={inodes},mode=1777", launch.tmp_bytes))?;
    let overlay_options = overlay_options(node, launch)?;
    let argv = vector(launch.argv);
    let env = vector(launch.env);
    let landlock = ruleset.as_ref().map(|(ruleset, abi)| (ruleset.as_fd(), *abi));
    let mut setup = Setup {
        filesystem: &node.filesystem,
        layer: launch.layer.c_mount_point(),
        function: launch.function.map(Image::c_mount_point),
        mounts: launch.mounts,
        tmp_options: &tmp_options,
        overlay_options: &overlay_options,
        cwd: launch.cwd,
        argv: &argv,
        env: &env,
        hostname: launch.hostname,
        network: network.as_fd().as_raw_fd(),
        landlock: landlock.map(|(ruleset, abi)| (ruleset.as_raw_fd(), abi)),
        descriptors: &descriptors,
        uid: launch.uid.get(),
        pids_max: launch.pids_max,
        open_files: node.open_files,
        last_capability: node.last_capability,
        seccomp: launch.seccomp.instructions(),
        weaken: launch.weaken,
    };
    if let Some(template) = launch.template {
        let standard = std::iter::once(null.as_fd()).chain(launch.descriptors.iter().map(AsFd::as_fd));
        let mut sent = Sent::default();
        let cgroup = cgroup.map(|cgroup| sent.add(cgroup) - FIRST_SENT);
        setup.network = sent.add(network.as_fd());
        setup.landlock = landlock.map(|(ruleset, abi)| (sent.add(ruleset), abi));
        let descriptors: Vec<RawFd> = standard.map(|fd| sent.add(fd)).collect();
        setup.descriptors = &descriptors;
        setup.cwd = template.cwd();
        return restore(template, &setup, cgroup, &sent.descriptors);
    }
    let ops = setup.operations().ok_or(StartError::Plan { reason: "no program" })?;
    spawn(namespaces(launch.weaken), cgroup, &ops).map_err(|error| explain(error, &ops))
}

/// Number in a clone of the first descriptor that is sent to it; the one before is where it reports.
const FIRST_SENT: RawFd = abi::FIRST_FD + 1;

/// Descriptors on their way to a clone of a template, where they have other numbers than here.
#[derive(Default)]
struct Sent<'a> {
    descriptors: Vec<BorrowedFd<'a>>,
}

impl<'a> Sent<'a> {
    /// Adds one; gives its number there.
    fn add(&mut self, descriptor: BorrowedFd<'a>) -> RawFd {
        self.descriptors.push(descriptor);
        FIRST_SENT + self.descriptors.len() as RawFd - 1
    }
}

fn restore(
    template: &Template,
    setup: &Setup<'_>,
    cgroup: Option<RawFd>,
    sent: &[BorrowedFd<'_>],
) -> Result<Child, StartError> {
    let Restored { setup: operations, privileges, filter } = setup.restored();
    let plan = stratos_checkpoint::plan::InstancePlan {
        namespaces: namespaces(setup.weaken),
        // The first that is received is the pipe to report on.
        cgroup: cgroup.map(|index| index as usize + 1),
        setup: &operations,
        privileges: &privileges,
        drop_capabilities: !setup.weaken.capabilities,
        filter: &filter,
    };
    template.instance(&plan, sent).map_err(|source| StartError::Restore { source })
}

fn namespaces(weaken: Weaken) -> u64 {
    let optional =
        [(weaken.pid_namespace, CLONE_NEWPID), (weaken.ipc, CLONE_NEWIPC), (weaken.uts, CLONE_NEWUTS)];
    optional.into_iter().filter(|(weak, _)| !weak).fold(CLONE_NEWNS, |flags, (_, flag)| flags | flag)
}

/// Says in words which step failed.
fn explain(error: SpawnError, ops: &[Op<'_>]) -> StartError {
    match error {
        SpawnError::Stack { source } => StartError::Descriptor { what: "a stack", source },
        SpawnError::Clone { source } => StartError::Clone { source },
        SpawnError::Step { index, source } => {
            let op = ops.get(index);
            StartError::Step {
                step: op.map_or("do an unknown step", Op::name),
                path: op.and_then(Op::path).map(|path| path.to_string_lossy().into_owned()),
                source,
            }
        }
    }
}

fn overlay_options(node: &Node, launch: &Launch<'_>) -> Result<CString, StartError> {
    let Some(function) = launch.function.filter(|_| launch.weaken.read_only) else {
        return Ok(CString::default());
    };
    let scratch = node.filesystem.scratch.to_string_lossy();
    let lower = function.mount_point().display();
    c_string(format!("lowerdir={lower},upperdir={scratch}/upper,workdir={scratch}/work"))
}

fn c_string(text: String) -> Result<CString, StartError> {
    CString::new(text).map_err(|_| StartError::Plan { reason: "a text holds a zero byte" })
}

/// The strings as execve wants them, with the null at the end.
fn vector(strings: &[CString]) -> Vec<CStrPtr<'_>> {
    strings.iter().map(|text| CStrPtr::from(text.as_c_str())).chain([CStrPtr::NULL]).collect()
}

/// Moves a descriptor out of the way of those that the new process gets.
pub(crate) fn above_targets(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() >= ABOVE_TARGETS {
        fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
        return Ok(fd);
    }
    Ok(fcntl_dupfd_cloexec(&fd, ABOVE_TARGETS)?)
}
