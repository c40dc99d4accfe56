//! One service: starting it, and what is known of it.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitStatus};
use stratos_api::node::ServiceStatus;
use stratos_setup::abi::{CLONE_NEWNS, MNT_DETACH, RLIMIT_NOFILE};
use stratos_setup::{ArgList, CStrPtr, Op};
use stratos_sys::spawn::{Child, SpawnError, spawn};

use crate::backoff::Backoff;
use crate::cgroups;
use crate::clock;
use crate::console;
use crate::error::InitError;
use crate::files;
use crate::log::Lines;
use crate::patience;
use crate::supervisor::READY_DEADLINE;
use crate::unit::Unit;

/// Descriptors below this one are a program's standard ones.
const FIRST_OTHER: i32 = 3;
/// What may start after the node is ready leaves the processors to the first requests for so long.
const AFTER_READY: Duration = Duration::from_secs(1);
/// How long the start of a program may take.
const SPAWN_DEADLINE: Duration = Duration::from_secs(20);

/// What a service is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It runs and has until then to become ready.
    Starting(Duration),
    /// It is ready.
    Ready,
    /// It is started again then.
    Waiting(Duration),
    /// It was asked to stop and has until then.
    Stopping(Duration),
    /// It is stopped for good.
    Stopped,
}

impl State {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting(_) => "starting",
            Self::Ready => "ready",
            Self::Waiting(_) => "waiting",
            Self::Stopping(_) => "stopping",
            Self::Stopped => "stopped",
        }
    }

    /// When something has to happen next.
    pub const fn deadline(self) -> Option<Duration> {
        match self {
            Self::Starting(at) | Self::Waiting(at) | Self::Stopping(at) => Some(at),
            Self::Ready | Self::Stopped => None,
        }
    }
}

/// A service.
pub struct Service {
    /// What it is.
    pub unit: Unit,
    /// What it is doing.
    pub state: State,
    /// Its process, until it was collected.
    pub pid: Option<Pid>,
    /// Reads what it prints.
    pub output: Option<OwnedFd>,
    /// The line that it is printing.
    pub lines: Lines,
    /// Whether it talks on the console instead, and runs once.
    pub on_console: bool,
    /// A mounted tree that becomes its root; the node's own is at `/host` in it then.
    pub root: Option<CString>,
    /// When it is killed, if it may not run for ever.
    pub until: Option<Duration>,
    group: Option<PathBuf>,
    started: Duration,
    restarts: u32,
    last_exit: Option<String>,
    backoff: Backoff,
}

impl Service {
    /// A service that is to be started at once; or when the node is ready, at the latest when nobody waits for that any
    /// more.
    pub fn new(unit: Unit) -> Self {
        let restart = unit.restart;
        let backoff = Backoff::new(
            Duration::from_millis(restart.first_ms),
            Duration::from_millis(restart.most_ms),
            Duration::from_secs(restart.reset_after_s),
        );
        let first = if unit.after_ready { clock::now() + READY_DEADLINE } else { Duration::ZERO };
        Self {
            unit,
            state: State::Waiting(first),
            pid: None,
            output: None,
            lines: Lines::default(),
            on_console: false,
            root: None,
            until: None,
            group: None,
            started: Duration::ZERO,
            restarts: 0,
            last_exit: None,
            backoff,
        }
    }

    /// Starts it soon if it has waited for the node to be ready, which it is now.
    pub fn not_later(&mut self) {
        if self.unit.after_ready && self.started == Duration::ZERO && matches!(self.state, State::Waiting(_))
        {
            self.state = State::Waiting(clock::now() + AFTER_READY);
        }
    }

    /// Starts its process.
    ///
    /// # Errors
    /// When that is not possible; it waits for its next start then.
    pub fn start(&mut self, environment: &[(&'static str, String)]) -> Result<(), InitError> {
        let now = clock::now();
        match self.spawn(environment) {
            Ok(pid) => {
                self.pid = Some(pid);
                self.started = now;
                let ready = self.unit.ready;
                self.state = if ready.notify { State::Starting(now + ready.within()) } else { State::Ready };
                Ok(())
            }
            Err(error) => {
                self.last_exit = Some(error.chain());
                self.wait_again(Duration::ZERO);
                Err(error)
            }
        }
    }

    fn spawn(&mut self, node: &[(&'static str, String)]) -> Result<Pid, InitError> {
        let group = cgroups::service(&self.unit);
        // Nobody of an earlier run may be left, also one whose start came too late.
        if let Ok(group) = &group
            && cgroups::is_populated(group)
        {
            cgroups::kill(group)?;
        }
        // Where the hierarchy cannot hold it, it runs in PID 1's group: served is better than not served.
        let group_fd = group.as_ref().ok().and_then(|group| {
            rustix::fs::open(group, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
        });
        let (read, write) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|errno| InitError::system("make a pipe", errno))?;
        rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK)
            .map_err(|errno| InitError::system("set a pipe", errno))?;
        let (input, output) = match self.on_console {
            true => (open_console()?, open_console()?),
            false => (
                File::open("/dev/null")
                    .map_err(|source| InitError::file("open", "/dev/null", source))?
                    .into(),
                write,
            ),
        };
        let own = self.unit.environment.iter().map(|(key, value)| format!("{key}={value}"));
        let node =
            node.iter().filter(|_| self.unit.node_environment).map(|(key, value)| format!("{key}={value}"));
        let notify = self.unit.ready.notify.then(|| format!("NOTIFY_SOCKET={}", crate::notify::SOCKET));
        let start = Start {
            argv: texts(self.unit.exec.iter().cloned())?,
            envp: texts(own.chain(node).chain(notify))?,
            input,
            output,
            group: group_fd,
            root: self.root.as_deref().map(Root::new).transpose()?,
            open_files: self.unit.open_files,
        };
        // The new program is read from a disk.
        let program = || self.unit.exec.first().cloned().unwrap_or_default();
        let child = patience::within(SPAWN_DEADLINE, "spawn", move || start.run())
            .ok_or_else(|| InitError::Late {
                what: format!("the start of {}", program()),
                after: SPAWN_DEADLINE,
            })?
            .map_err(|source| InitError::Spawn { program: program(), source })?;
        let pid = Pid::from_raw(child.pid).ok_or_else(|| InitError::missing("the new process"))?;
        // Without it the kernel chooses as it would anyway.
        let oom_score_adj = format!("/proc/{}/oom_score_adj", child.pid);
        drop(files::write_value(oom_score_adj, &self.unit.oom_score_adj.to_string()));
        self.output = (!self.on_console).then_some(read);
        self.group = group.ok();
        Ok(pid)
    }

    /// Its process ended.
    pub fn ended(&mut self, status: WaitStatus) {
        self.pid = None;
        self.last_exit = Some(describe(status));
        self.kill_group();
        match self.state {
            State::Stopping(_) | State::Stopped => self.state = State::Stopped,
            _ if self.on_console => self.state = State::Stopped,
            _ => self.wait_again(clock::now().saturating_sub(self.started)),
        }
    }

    fn wait_again(&mut self, ran: Duration) {
        self.state = State::Waiting(clock::now() + self.backoff.after(ran));
        self.restarts = self.restarts.saturating_add(1);
    }

    /// It said that it is ready. True when that is news.
    pub fn ready(&mut self) -> bool {
        let news = matches!(self.state, State::Starting(_));
        if news {
            self.state = State::Ready;
        }
        news
    }

    /// Asks it to stop.
    pub fn stop(&mut self) {
        match self.pid {
            Some(pid) => {
                self.state = State::Stopping(clock::now() + self.unit.stop.within());
                // It may have ended just now, which the next look tells.
                let _ = rustix::process::kill_process(pid, self.unit.stop.signal.signal());
            }
            None => self.state = State::Stopped,
        }
    }

    /// Kills all of it.
    pub fn kill(&self) {
        self.kill_group();
        if let Some(pid) = self.pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    /// Kills what is left in its group: helpers whose parent is gone.
    fn kill_group(&self) {
        if let Some(group) = &self.group {
            drop(cgroups::kill(group));
        }
    }

    /// When something has to happen next.
    pub fn next_deadline(&self) -> Option<Duration> {
        let until = self.until.filter(|_| self.pid.is_some());
        self.state.deadline().into_iter().chain(until).min()
    }

    /// What is known of it.
    pub fn status(&self) -> ServiceStatus {
        let running = self.pid.is_some();
        ServiceStatus {
            name: self.unit.name.clone(),
            state: self.state.name().to_owned(),
            pid: self.pid.and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok()),
            started_us: running.then(|| u64::try_from(self.started.as_micros()).unwrap_or(u64::MAX)),
            restarts: self.restarts,
            last_exit: self.last_exit.clone(),
        }
    }
}

/// What a new process is made from.
struct Start {
    argv: Vec<CString>,
    envp: Vec<CString>,
    input: OwnedFd,
    output: OwnedFd,
    group: Option<OwnedFd>,
    root: Option<Root>,
    open_files: u64,
}

/// A root of its own, and what is shown in it.
struct Root {
    path: CString,
    shown: Vec<(&'static CStr, CString)>,
}

impl Root {
    fn new(path: &CStr) -> Result<Self, InitError> {
        const SHOWN: [(&CStr, &str); 6] = [
            (c"/", "host"),
            (c"/proc", "proc"),
            (c"/sys", "sys"),
            (c"/dev", "dev"),
            (c"/run", "run"),
            (c"/tmp", "tmp"),
        ];
        let base = path.to_string_lossy();
        let mut shown = Vec::new();
        for (source, name) in SHOWN {
            let target = format!("{base}/{name}");
            if Path::new(&target).is_dir() {
                shown.push((source, text(target)?));
            }
        }
        Ok(Self { path: path.to_owned(), shown })
    }

    fn operations<'a>(&'a self, ops: &mut Vec<Op<'a>>) {
        ops.push(Op::Unshare(CLONE_NEWNS));
        ops.extend(self.shown.iter().map(|(source, target)| Op::Bind { source, target, recursive: true }));
        ops.push(Op::Chdir(&self.path));
        // The old root goes on top of the new one, and from there away.
        ops.push(Op::PivotRoot { new: c".", old: c"." });
        ops.push(Op::Unmount { target: c".", flags: MNT_DETACH });
    }
}

impl Start {
    fn run(&self) -> Result<Child, SpawnError> {
        let (argv, envp) = (pointers(&self.argv), pointers(&self.envp));
        let lists = ArgList::new(&argv).zip(ArgList::new(&envp));
        let (Some(path), Some((argv, envp))) = (self.argv.first(), lists) else {
            return Err(SpawnError::Clone { source: std::io::ErrorKind::InvalidInput.into() });
        };
        let (input, output) = (self.input.as_raw_fd(), self.output.as_raw_fd());
        let mut ops = vec![
            Op::Umask(0o022),
            Op::NewSession,
            Op::Dup { from: input, to: 0 },
            Op::Dup { from: output, to: 1 },
            Op::Dup { from: output, to: 2 },
            Op::CloseFrom(FIRST_OTHER),
            Op::Limit { resource: RLIMIT_NOFILE, value: self.open_files },
        ];
        if let Some(root) = &self.root {
            root.operations(&mut ops);
        }
        ops.extend([Op::Chdir(c"/"), Op::UnblockSignals, Op::Exec { path, argv, envp }]);
        spawn(0, self.group.as_ref().map(AsFd::as_fd), &ops)
    }
}

fn open_console() -> Result<OwnedFd, InitError> {
    rustix::fs::open(
        Path::new(console::PATH),
        OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    )
    .and_then(|fd| {
        // Opening does not wait for a line that is not there; the shell's reads do wait.
        rustix::fs::fcntl_setfl(&fd, OFlags::empty())?;
        Ok(fd)
    })
    .map_err(|errno| InitError::file("open", console::PATH, errno))
}

fn texts(texts: impl Iterator<Item = String>) -> Result<Vec<CString>, InitError> {
    texts.map(text).collect()
}

fn text(text: String) -> Result<CString, InitError> {
    CString::new(text).map_err(|_| InitError::invalid("a unit", "has a zero"))
}

/// As the kernel wants a list: pointers, ended by none.
fn pointers(texts: &[CString]) -> Vec<CStrPtr<'_>> {
    texts.iter().map(|text| CStrPtr::from(text.as_c_str())).chain([CStrPtr::NULL]).collect()
}

/// How a process ended, in words.
fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Service {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../distro/units/stratosd.toml");
        Service::new(Unit::parse(&path, &std::fs::read_to_string(&path).unwrap()).unwrap())
    }

    #[test]
    fn a_service_that_is_not_started_is_due_at_once() {
        let service = service();
        assert_eq!(service.state.deadline(), Some(Duration::ZERO));
        let status = service.status();
        assert_eq!((status.state.as_str(), status.pid, status.started_us), ("waiting", None, None));
    }

    #[test]
    fn what_comes_after_ready_waits_for_it_once() {
        let mut unit = service().unit;
        unit.after_ready = true;
        let mut service = Service::new(unit);
        assert!(service.state.deadline() > Some(clock::now() + READY_DEADLINE / 2));
        service.not_later();
        assert!(service.state.deadline() <= Some(clock::now() + AFTER_READY));
        // Later waits are those between a service's end and its next start.
        service.started = Duration::from_secs(1);
        service.state = State::Waiting(Duration::MAX);
        service.not_later();
        assert_eq!(service.state.deadline(), Some(Duration::MAX));
    }

    #[test]
    fn it_is_ready_once() {
        let mut service = service();
        assert!(!service.ready());
        service.state = State::Starting(Duration::MAX);
        assert!(service.ready());
        assert!(!service.ready());
        assert_eq!(service.state, State::Ready);
    }

    #[test]
    fn a_service_without_a_process_stops_at_once() {
        let mut service = service();
        service.stop();
        assert_eq!(service.state, State::Stopped);
    }
}
