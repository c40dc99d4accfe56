//! A template: a process that holds the memory of an image, runs none of its code, and is cloned.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::MemfdFlags;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    recv, sendmsg, socketpair,
};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::Timespec;
use stratos_restorer::abi::Call;
use stratos_restorer::{PROGRAM, abi};
use stratos_setup::{ArgList, CStrPtr, Op};
use stratos_sys::pages::huge_pages_fit;
use stratos_sys::process::last_capability;
use stratos_sys::spawn::{Child, SpawnError, spawn};

use crate::image::{Checkpoint, Image, KernelMapping};
use crate::machine::monotonic_ns;
use crate::plan::{self, Fixed, InstancePlan, PlanError, Whereabouts};
use crate::working_set::WorkingSet;

/// How long building the address space may take: a disk may be slow.
const BUILD: Duration = Duration::from_secs(20);
/// How long a clone may take to be complete.
const CLONE: Duration = Duration::from_secs(5);

/// Why there is no template, or no instance of it.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// This build has no restorer for this processor.
    #[error("checkpoints cannot be restored on this kind of processor")]
    Unsupported,
    /// The image does not fit this machine.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A file that the image maps is not there.
    #[error("cannot open {} for the template", path.display())]
    MappedFile {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The restorer cannot be started.
    #[error("cannot start the restorer")]
    Spawn(#[from] SpawnError),
    /// Talking to it failed.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It is gone.
    #[error("the template has ended")]
    Ended,
    /// It does not answer.
    #[error("the template does not answer within {} s", after.as_secs())]
    Late {
        /// How long it was waited for.
        after: Duration,
    },
    /// One of its system calls failed.
    #[error("{call} failed while a process was restored")]
    Call {
        /// Which one, as its place in the plan.
        call: String,
        /// Why.
        source: io::Error,
    },
}

trait While<T> {
    fn during(self, what: &'static str) -> Result<T, TemplateError>;
}

impl<T> While<T> for io::Result<T> {
    fn during(self, what: &'static str) -> Result<T, TemplateError> {
        self.map_err(|source| TemplateError::System { what, source })
    }
}

impl<T> While<T> for rustix::io::Result<T> {
    fn during(self, what: &'static str) -> Result<T, TemplateError> {
        self.map_err(io::Error::from).during(what)
    }
}

/// The process. Dropping it ends it; instances made of it go on.
#[derive(Debug)]
pub struct Template {
    child: Child,
    /// One message and its answer at a time.
    control: Mutex<OwnedFd>,
    fixed: Fixed,
    cwd: CString,
    /// What instances are to have pages of their own of, once it is known: see [`WorkingSet::own`].
    ahead: OnceLock<Vec<u64>>,
}

impl Template {
    /// Builds a template in a process of its own. Blocks for some milliseconds. `inherited`: how many descriptors, from
    /// 0 on, instances are given. `open` finds the files that the image maps, by the paths that the process saw.
    ///
    /// # Errors
    /// See [`TemplateError`]; no process is left then.
    pub fn build(
        image: &Image,
        inherited: u32,
        open: impl Fn(&Path) -> io::Result<OwnedFd>,
    ) -> Result<Self, TemplateError> {
        if PROGRAM.is_empty() {
            return Err(TemplateError::Unsupported);
        }
        let checkpoint = image.checkpoint();
        let files = open_files(checkpoint, open)?;
        let (child, control) = start()?;
        let mut started = Started { child: Some(child) };
        receive(&control, BUILD)?;
        let here = whereabouts(started.pid())?;
        let plan = plan::template(checkpoint, &here, image.pages_at(), inherited)?;
        let memory = memory_file(&plan.memory)?;
        send(&control, &plan::run(&plan.load, 1), &[memory.as_fd()])?;
        receive(&control, BUILD)?;
        let mut descriptors = vec![image.file().as_fd()];
        descriptors.extend(files.iter().map(AsFd::as_fd));
        let build = [plan::list(plan.build)];
        send(&control, &plan::run(&build, descriptors.len() as u32), &descriptors)?;
        receive(&control, BUILD)?;
        let child = started.child.take().expect("taken here only");
        // The check of the metadata has refused zeros in paths.
        let cwd = CString::new(checkpoint.process.cwd.as_str()).unwrap_or_default();
        Ok(Self { child, control: Mutex::new(control), fixed: plan.fixed, cwd, ahead: OnceLock::new() })
    }

    /// Whether [`Template::learn`] was called.
    pub fn has_learned(&self) -> bool {
        self.ahead.get().is_some()
    }

    /// Gives later instances ahead what one touched that was made of this template from its image.
    ///
    /// # Errors
    /// When the template has ended.
    pub fn learn(&self, set: &WorkingSet, checkpoint: &Checkpoint) -> Result<(), TemplateError> {
        // The first one that is learned is as good as any other.
        if self.ahead.set(set.own()).is_err() {
            return Ok(());
        }
        let calls = set.calls_of_template(checkpoint);
        let learned = self.run(&calls);
        if learned.is_err() {
            // A mapping may be writable that should not be.
            self.kill();
        }
        learned?;
        if huge_pages_fit() { self.enlarge_pages(checkpoint) } else { Ok(()) }
    }

    /// Has its memory in large pages where it fills them. One at a time: instances are made in between.
    fn enlarge_pages(&self, checkpoint: &Checkpoint) -> Result<(), TemplateError> {
        for call in plan::large_pages(&checkpoint.mappings) {
            match self.run(&[call]) {
                Ok(()) => {}
                Err(TemplateError::Call { source, .. }) => {
                    tracing::debug!(pid = self.pid(), %source, "a template keeps its small pages");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes calls in its process.
    fn run(&self, calls: &[Call]) -> Result<(), TemplateError> {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        self.ask(&control, &plan::run(calls, 0), &[], BUILD).map(drop)
    }

    /// Sends a message and waits for its answer. A template that does not answer in time is ended: the answer that comes
    /// later would be taken for that to the next message.
    fn ask(
        &self,
        control: &OwnedFd,
        message: &[u8],
        descriptors: &[BorrowedFd<'_>],
        patience: Duration,
    ) -> Result<abi::Reply, TemplateError> {
        send(control, message, descriptors)?;
        let reply = receive(control, patience);
        if !matches!(reply, Ok(_) | Err(TemplateError::Call { .. })) {
            self.kill();
        }
        reply
    }

    fn kill(&self) {
        kill(&self.child);
    }

    /// The working directory of its instances.
    pub fn cwd(&self) -> &CStr {
        &self.cwd
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.pid
    }

    /// Makes an instance, and blocks until it is complete: it goes on where the checkpoint was taken. `cgroup` and
    /// `descriptors` are sent in this order, after the pipe that it reports on: the operations of the plan name them by
    /// [`abi::FIRST_FD`] `+ 1` and so on.
    ///
    /// # Errors
    /// See [`TemplateError`]; no process is left then.
    pub fn instance(
        &self,
        plan: &InstancePlan<'_>,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Child, TemplateError> {
        let (report, reporter) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).during("make a pipe")?;
        let mut all = vec![reporter.as_fd()];
        all.extend_from_slice(descriptors);
        let ahead = self.ahead.get().map_or(&[][..], Vec::as_slice);
        let message = plan::instance(&self.fixed, plan, ahead, all.len() as u32);
        let reply = {
            let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
            self.ask(&control, &message, &all, CLONE)?
        };
        drop(reporter);
        let pid = i32::try_from(reply.pid).map_err(|_| TemplateError::Ended)?;
        // Its parent is this process, and has not waited for it: the number is still its own.
        let process = Pid::from_raw(pid).ok_or(TemplateError::Ended)?;
        let pidfd = pidfd_open(process, PidfdFlags::empty()).during("open the new process")?;
        let mut started = Started { child: Some(Child { pid, pidfd }) };
        match read_reply(&report, CLONE, |fd, bytes| rustix::io::read(fd, bytes))? {
            abi::Reply { errno: 0, .. } => Ok(started.child.take().expect("taken here only")),
            failed => Err(failure(failed)),
        }
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        end(&self.child);
    }
}

/// A process that ends unless it is taken.
struct Started {
    child: Option<Child>,
}

impl Started {
    fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |child| child.pid)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            end(child);
        }
    }
}

/// Kills a process, which may have ended by itself.
fn kill(child: &Child) {
    match pidfd_send_signal(&child.pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => tracing::error!(pid = child.pid, %error, "cannot kill a template"),
    }
}

/// Kills a process and collects it.
fn end(child: &Child) {
    kill(child);
    if let Err(error) = stratos_sys::process::wait(&child.pidfd) {
        tracing::error!(pid = child.pid, %error, "cannot wait for the end of a template");
    }
}

fn open_files(
    checkpoint: &Checkpoint,
    open: impl Fn(&Path) -> io::Result<OwnedFd>,
) -> Result<Vec<OwnedFd>, TemplateError> {
    let open = |path: &String| {
        let path = Path::new(path);
        open(path).map_err(|source| TemplateError::MappedFile { path: path.to_owned(), source })
    };
    checkpoint.files.iter().map(open).collect()
}

/// Starts the restorer with nothing but its socket.
fn start() -> Result<(Child, OwnedFd), TemplateError> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).during("make a socket")?;
    let program = program_file()?;
    let path = CString::new(format!("/proc/self/fd/{}", program.as_raw_fd())).expect("no zero in it");
    let argv = [CStrPtr::from(c"stratos-template"), CStrPtr::NULL];
    let envp = [CStrPtr::NULL];
    // The program stays open until the exec, as it closes then.
    let ops = [
        Op::NewSession,
        Op::Dup { from: theirs.as_raw_fd(), to: abi::CONTROL_FD },
        Op::Exec {
            path: &path,
            argv: ArgList::new(&argv).expect("ends with null"),
            envp: ArgList::new(&envp).expect("ends with null"),
        },
    ];
    let child = spawn(0, None, &ops)?;
    Ok((child, ours))
}

/// The program as a file without a name.
fn program_file() -> Result<OwnedFd, TemplateError> {
    let flags = MemfdFlags::CLOEXEC;
    let program =
        rustix::fs::memfd_create("stratos-restorer", flags).during("make a file for the restorer")?;
    let mut file = File::from(program);
    file.write_all(PROGRAM).during("write the restorer")?;
    // Open for writing, it could not be executed.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(File::open(path).during("open the restorer")?.into())
}

fn memory_file(bytes: &[u8]) -> Result<OwnedFd, TemplateError> {
    let memory =
        rustix::fs::memfd_create("stratos-plan", MemfdFlags::CLOEXEC).during("make a file for a plan")?;
    let mut file = File::from(memory);
    file.write_all(bytes).during("write a plan")?;
    Ok(file.into())
}

/// Where things are in a restorer that has said it is there.
fn whereabouts(pid: i32) -> Result<Whereabouts, TemplateError> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).during("read the restorer's memory map")?;
    let mut here = Whereabouts {
        monotonic_ns: monotonic_ns(),
        last_capability: last_capability().during("learn the last capability")?,
        ..Whereabouts::default()
    };
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let range = fields.next().and_then(|range| range.split_once('-'));
        let range = range.and_then(|(start, end)| {
            Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
        });
        let Some(range) = range else { continue };
        let name = fields.nth(4).unwrap_or_default();
        if name == "[vsyscall]" || (range.start >= abi::BASE && range.end <= abi::END) {
            continue;
        }
        match name == "[vdso]" || name.starts_with("[vvar") {
            true => {
                let (name, start, end) = (name.to_owned(), range.start, range.end);
                here.kernel.push(KernelMapping { name, start, end });
            }
            false => here.others.push(range),
        }
    }
    Ok(here)
}

fn send(control: &OwnedFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), TemplateError> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(abi::MOST_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if descriptors.len() > abi::MOST_FDS || !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        let error = io::Error::other(format!(
            "it takes {} descriptors, and at most {} can be sent",
            descriptors.len(),
            abi::MOST_FDS
        ));
        return Err(error).during("send a message to the template");
    }
    let sent = sendmsg(control, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL);
    match sent {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Err(TemplateError::Ended),
        Err(errno) => Err(errno).during("send a message to the template"),
    }
}

/// Waits for the answer to a message.
fn receive(control: &OwnedFd, patience: Duration) -> Result<abi::Reply, TemplateError> {
    let read = |fd: &OwnedFd, bytes: &mut [u8]| recv(fd, bytes, RecvFlags::empty()).map(|(count, _)| count);
    match read_reply(control, patience, read)? {
        reply if reply.errno == 0 => Ok(reply),
        failed => Err(failure(failed)),
    }
}

fn read_reply(
    from: &OwnedFd,
    patience: Duration,
    read: impl Fn(&OwnedFd, &mut [u8]) -> rustix::io::Result<usize>,
) -> Result<abi::Reply, TemplateError> {
    let mut poll_fd = [PollFd::new(from, PollFlags::IN)];
    let timeout = Timespec::try_from(patience).ok();
    loop {
        match poll(&mut poll_fd, timeout.as_ref()) {
            Ok(0) => return Err(TemplateError::Late { after: patience }),
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).during("wait for the template"),
        }
    }
    let mut bytes = [0; size_of::<abi::Reply>()];
    match read(from, &mut bytes) {
        Ok(count) if count == bytes.len() => {
            let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
            let pid = i64::from_ne_bytes(bytes[8..16].try_into().expect("eight bytes"));
            Ok(abi::Reply { errno: word(0).cast_signed(), index: word(4), pid })
        }
        Ok(_) | Err(rustix::io::Errno::CONNRESET) => Err(TemplateError::Ended),
        Err(errno) => Err(errno).during("read from the template"),
    }
}

fn failure(reply: abi::Reply) -> TemplateError {
    let (thread, list) = (reply.index & abi::OF_THREAD != 0, reply.index & abi::OF_LIST != 0);
    let index = reply.index & !(abi::OF_THREAD | abi::OF_LIST);
    let call = match (thread, list) {
        (true, _) => format!("call {index} of a thread"),
        (false, true) => format!("call {} of list {}", index & 0xffff, index >> 16),
        (false, false) => format!("call {index}"),
    };
    TemplateError::Call { call, source: io::Error::from_raw_os_error(reply.errno) }
}
