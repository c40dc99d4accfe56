//! Checkpoints of instances, and templates to restore them from.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{OpenTreeFlags, open_tree};
use stratos_checkpoint::dump::{self, Connection, DumpError, Dumped, Park, Target, dump};
use stratos_checkpoint::image::Image as Checkpoint;
use stratos_checkpoint::template::{Template, TemplateError};

use crate::image::Image;
use crate::instance::Instance;
use crate::launch::OOM_SCORE;
use crate::network::RUNTIME_PORT;
use crate::plan::InstancePlan;

/// The null device, stdout, stderr, park and status pipe: see [`Instance`].
const INHERITED: u32 = 5;
/// The park pipe.
const PARK: u32 = 3;
/// Where an instance sees its function.
const TASK: &str = "var/task";

/// Has an instance that was just started, and is to be checkpointed, keep its memory together, so that its clones have less
/// to copy. For programs that draw addresses for their memory, as V8 does.
///
/// # Errors
/// See [`DumpError`]; it goes on as it would have.
pub fn keep_memory_together(instance: &Instance) -> Result<(), DumpError> {
    dump::keep_together(instance.pid())
}

/// Writes an image of an instance that waits to be released; it goes on waiting. Blocks for some tens of milliseconds.
///
/// # Errors
/// See [`DumpError`]; no file is left then.
pub fn checkpoint(instance: &Instance, subject: &str, path: &Path) -> Result<Dumped, DumpError> {
    checkpoint_at(instance, Park::Release(PARK), subject, path)
}

/// The same of an instance that waits for an answer of its Runtime API, to a request that came from `client`. What is
/// restored from it has a connection from there to its own Runtime API, the first that is accepted, and waits for the
/// answer.
///
/// # Errors
/// As [`checkpoint`].
pub fn checkpoint_awaiting(
    instance: &Instance,
    client: SocketAddrV4,
    subject: &str,
    path: &Path,
) -> Result<Dumped, DumpError> {
    let peer = SocketAddrV4::new(Ipv4Addr::LOCALHOST, RUNTIME_PORT);
    checkpoint_at(instance, Park::Answer(Connection { local: client, peer }), subject, path)
}

/// The same of an instance whose program knows nothing of checkpoints, once all its threads wait.
///
/// # Errors
/// As [`checkpoint`].
pub fn checkpoint_idle(instance: &Instance, subject: &str, path: &Path) -> Result<Dumped, DumpError> {
    checkpoint_at(instance, Park::Idle, subject, path)
}

fn checkpoint_at(instance: &Instance, park: Park, subject: &str, path: &Path) -> Result<Dumped, DumpError> {
    let root = PathBuf::from(format!("/proc/{}/root", instance.pid()));
    let target =
        Target { pid: instance.pid(), inherited: INHERITED, park, subject, scratch: "/tmp", root: &root };
    dump(&target, path)
}

/// Builds a template from an image of an instance with the same plan. Blocks for some milliseconds.
///
/// # Errors
/// See [`TemplateError`]; no process is left then.
pub fn template(image: &Checkpoint, plan: &InstancePlan) -> Result<Template, TemplateError> {
    let failed = |image: &Image| {
        let path = image.mount_point().to_owned();
        move |source| TemplateError::MappedFile { path, source }
    };
    let layer = Tree::of(&plan.layer).map_err(failed(&plan.layer))?;
    let function = Tree::of(&plan.function).map_err(failed(&plan.function))?;
    let template = Template::build(image, INHERITED, |path| {
        let path = path.strip_prefix("/").unwrap_or(path);
        match path.strip_prefix(TASK) {
            Ok(path) => function.open(path),
            Err(_) => layer.open(path),
        }
    })?;
    // It can be built again; the agent, whose score it has, must not be killed in its place.
    if let Err(error) = std::fs::write(format!("/proc/{}/oom_score_adj", template.pid()), OOM_SCORE) {
        tracing::debug!(pid = template.pid(), %error, "cannot make a template one of the first to be killed");
    }
    Ok(template)
}

/// The files of an image, in a mount that is nowhere: what an instance sees in /proc/self/maps are their paths in the
/// image, and not where the node has it.
struct Tree(OwnedFd);

impl Tree {
    fn of(image: &Image) -> io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        Ok(Self(open_tree(CWD, image.mount_point(), flags)?))
    }

    fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(openat(&self.0, path, flags, Mode::empty())?)
    }
}
