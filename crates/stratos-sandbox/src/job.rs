//! Build jobs: a program under the same isolation as an instance, with folders of the host and a time limit.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::lchown;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::body::Body;
use crate::error::{JobError, StartError};
use crate::instance::from_child;
use crate::launch::{Launch, above_targets, launch};
use crate::plan::{Bind, JobOutput, JobPlan};
use crate::sandbox::Node;
use crate::setup::Mounted;
use crate::weaken::Weaken;

/// Processes and threads of a job: compilers and package managers use many.
const PIDS_MAX: u32 = 1024;
/// Host name of every job.
const HOSTNAME: &str = "build";
/// Bytes read from a job at once.
const CHUNK: usize = 16 * 1024;

pub(crate) fn run(node: &Arc<Node>, plan: &JobPlan) -> Result<JobOutput, JobError> {
    let deadline = Instant::now() + plan.timeout;
    let mounts = plan.binds.iter().map(mounted).collect::<Result<Vec<_>, _>>()?;
    let cwd = CString::new(plan.cwd.as_str())
        .map_err(|_| StartError::Plan { reason: "the working directory holds a zero byte" })?;
    let uid = node.uids.lease().ok_or(StartError::UserIds)?;
    for bind in plan.binds.iter().filter(|bind| bind.writable) {
        hand_over(&bind.source, uid.get()).map_err(|(path, source)| JobError::Handover { path, source })?;
    }
    let (output, stdout) = from_child("the output pipe")?;
    let descriptor = |source| StartError::Descriptor { what: "the output pipe", source };
    let stderr = stdout.try_clone().and_then(above_targets).map_err(descriptor)?;
    let stdout = above_targets(stdout).map_err(descriptor)?;
    let (body, _listener) = launch(
        node,
        Launch {
            id: &plan.id,
            layer: &plan.layer,
            function: None,
            mounts: &mounts,
            argv: &plan.argv,
            env: &plan.env,
            cwd: &cwd,
            hostname: HOSTNAME,
            tmp_bytes: plan.memory_bytes,
            memory_bytes: plan.memory_bytes,
            cpu_millis: None,
            reserved_cpus: false,
            pids_max: PIDS_MAX,
            seccomp: &plan.seccomp,
            egress: plan.egress.as_ref(),
            descriptors: vec![stdout, stderr],
            uid,
            weaken: Weaken::default(),
            template: None,
        },
    )?;
    follow(&body, &output, plan, deadline)
}

/// Reads the output until the job has ended, or the time is up. The end of the program counts, not the end of the
/// output: what it leaves running dies with it.
fn follow(body: &Body, output: &OwnedFd, plan: &JobPlan, deadline: Instant) -> Result<JobOutput, JobError> {
    let follow = |source: io::Error| JobError::Follow { source };
    let mut tail = Tail::new(plan);
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            body.kill().map_err(follow)?;
            body.wait().map_err(follow)?;
            tail.drain(output).map_err(follow)?;
            return Err(JobError::Timeout { after: plan.timeout, output: tail.kept });
        }
        let timeout =
            rustix::time::Timespec::try_from(left).map_err(|_| follow(io::ErrorKind::InvalidInput.into()))?;
        let pidfd = body.pidfd();
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(output, PollFlags::IN)];
        let watched = if open { 2 } else { 1 };
        match poll(&mut fds[..watched], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(follow(errno.into())),
        }
        let ended = !fds[0].revents().is_empty();
        open = open && tail.drain(output).map_err(follow)?;
        if ended {
            let exit = body.wait().map_err(follow)?;
            tail.drain(output).map_err(follow)?;
            return Ok(JobOutput { exit, output: tail.kept, oom_killed: body.oom_killed() });
        }
    }
}

/// The end of the output.
struct Tail<'a> {
    plan: &'a JobPlan,
    kept: Vec<u8>,
}

impl<'a> Tail<'a> {
    fn new(plan: &'a JobPlan) -> Self {
        Self { plan, kept: Vec::new() }
    }

    /// Takes what is there; false when no more will come.
    fn drain(&mut self, output: &OwnedFd) -> io::Result<bool> {
        let mut chunk = [0; CHUNK];
        loop {
            match rustix::io::read(output, &mut chunk) {
                Ok(0) => return Ok(false),
                Ok(length) => self.add(&chunk[..length]),
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn add(&mut self, piece: &[u8]) {
        if let Some(on_output) = &self.plan.on_output {
            on_output(piece);
        }
        self.kept.extend_from_slice(piece);
        let surplus = self.kept.len().saturating_sub(self.plan.output_limit);
        self.kept.drain(..surplus);
    }
}

/// Works out the mount of a bind. Directories are made under /tmp only, the one place where they can be.
fn mounted(bind: &Bind) -> Result<Mounted, StartError> {
    let plan = |reason| StartError::Plan { reason };
    let target = Path::new(&bind.target);
    let plain = target.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    if !target.is_absolute() || !plain || target == Path::new("/") {
        return Err(plan("the target of a bind is not a plain absolute path"));
    }
    let c_path = |path: &Path| {
        CString::new(path.as_os_str().as_bytes()).map_err(|_| plan("a path of a bind holds a zero byte"))
    };
    let relative = target.strip_prefix("/").map_err(|_| plan("the target of a bind is not absolute"))?;
    let mut parents = Vec::new();
    if relative.starts_with("tmp") {
        let mut made: Vec<&Path> =
            relative.ancestors().filter(|path| path.components().count() > 1).collect();
        made.reverse();
        parents = made.into_iter().map(c_path).collect::<Result<_, _>>()?;
    }
    Ok(Mounted {
        source: c_path(&bind.source)?,
        relative: c_path(relative)?,
        target: c_path(target)?,
        parents,
        writable: bind.writable,
    })
}

/// Makes a tree belong to the job's user. Symbolic links change hands themselves and are never followed; a job cannot
/// have hard links to other files of the host in it, which it never saw.
fn hand_over(path: &Path, uid: u32) -> Result<(), (PathBuf, io::Error)> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    lchown(path, Some(uid), Some(uid)).map_err(at(path))?;
    if !fs::symlink_metadata(path).map_err(at(path))?.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(at(path))? {
        hand_over(&entry.map_err(at(path))?.path(), uid)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_absolute_targets_are_bound() {
        let check = |target: &str| {
            mounted(&Bind { source: "/src".into(), target: target.into(), writable: false })
                .map(|m| (m.relative, m.parents))
        };
        let (relative, parents) = check("/tmp/a/b").unwrap();
        assert_eq!(relative.as_c_str(), c"tmp/a/b");
        assert_eq!(parents, [c"tmp/a".to_owned(), c"tmp/a/b".to_owned()]);
        assert_eq!(check("/var/task").unwrap().1, Vec::<CString>::new());
        for wrong in ["", "/", "tmp", "/tmp/../etc", "/a/\0"] {
            assert!(check(wrong).is_err(), "{wrong:?}");
        }
    }
}
