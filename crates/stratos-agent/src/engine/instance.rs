//! One instance's life: started, made ready, given requests, watched until its process ends.
//!
//! However an instance comes to be, what follows is the same: its process waits in a blocking read on the park pipe
//! until the release frame arrives there, and serves from then on. A restored checkpoint differs only in how the
//! process came to that read.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use stratos_api::{ApiError, ErrorCode};
use stratos_sandbox::{Sandbox, StartError};
use stratos_types::{CheckpointMode, Entry, InstanceId, InvocationId};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::begin::{Begun, Pipes, Start, start_error};
use super::checkpoint::OfVersion;
use super::checkpointable::{ParkPoint, park_point};
use super::deployed::{Deployed, HTTP_PORT};
use super::failure::{Death, During, EndReason, Hook, SIGSYS, hooks_timed_out, is_last_word, timed_out};
use super::held::Origin;
use super::lock;
use super::log::{FunctionLog, MAX_LINE_BYTES};
use super::observe::{Observed, Observer};
use super::off_worker::OffWorker;
use super::port::Port;
use super::release::{self, Given, is_given_at_start};
use super::runtime_api::{InitState, Job, RuntimeApi, StartedAs};

/// Lines of stderr kept to explain a death.
const STDERR_KEPT: usize = 10;
/// How often memory is looked at where the kernel cannot limit it.
const MEMORY_POLL: Duration = Duration::from_millis(50);
/// How old a known memory high-water mark may be. A request that takes longer is always told the newest one.
const PEAK_AGE: Duration = Duration::from_millis(20);
/// What one stream of an instance may print in a second, counted in lines and further 256-byte parts of lines; beyond
/// that it waits in its write(2). Reading all that a function can print would leave no time for anybody else.
const OUTPUT_PER_SECOND: usize = 10_000;
/// How long a dead instance's last output is waited for.
const LAST_OUTPUT: Duration = Duration::from_millis(200);

/// A started instance.
pub(super) struct Instance {
    pub(super) id: InstanceId,
    pub(super) started: Instant,
    pub(super) way_in: WayIn,
    deployed: Arc<Deployed>,
    sandbox: OffWorker<Arc<stratos_sandbox::Instance>>,
    /// The kernel cannot limit its memory here, so it is looked at now and then.
    watch_memory: bool,
    ended: AtomicBool,
    ended_because: OnceLock<EndReason>,
    death: watch::Sender<Option<Death>>,
    stderr: Mutex<VecDeque<String>>,
    work: Mutex<Work>,
    cpu_seen: Mutex<Duration>,
    /// When the memory high-water mark was last read, and what it was, in KiB.
    peak_seen: Mutex<Option<(Instant, Option<u64>)>>,
    runtime_api: Option<JoinHandle<()>>,
    /// What it was restored from.
    checkpoint: OnceLock<Arc<OfVersion>>,
    /// What the kernel tells of it.
    pub(super) observed: Observed,
}

/// What instances are started by, and seen by.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) observer: Arc<Observer>,
}

/// What an instance works on, so that its output can be told by invocation.
#[derive(Default)]
struct Work {
    now: Vec<InvocationId>,
    last: Option<InvocationId>,
}

impl Work {
    /// The invocation that a line printed now belongs to. Lines take longer than answers, so what arrives when nothing
    /// is worked on belongs to what was last; when several are, nobody can tell.
    fn of_output(&self) -> Option<InvocationId> {
        match self.now.as_slice() {
            [one] => Some(*one),
            [] => self.last,
            _ => None,
        }
    }
}

/// How a request reaches the code.
pub(super) enum WayIn {
    Handler(mpsc::UnboundedSender<Job>),
    Http(Port),
}

/// The moments of a start, each the end of one phase and the begin of the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct StartTimes {
    /// What it was given was looked up next, and what it was to be restored from made ready.
    pub(super) began: Instant,
    /// The runtime's first instruction.
    pub(super) executed: Instant,
    /// The bootstrap's first line; the same as `executed` for a program without one.
    pub(super) running: Instant,
    /// It can take a request.
    pub(super) ready: Instant,
    /// It went on from a checkpoint.
    pub(super) restored: bool,
}

/// What an instance is started from.
pub(super) struct Beginning {
    /// A checkpoint, if there is one.
    pub(super) origin: Option<Origin>,
    /// Its variables.
    pub(super) given: Arc<Given>,
    /// How long hooks after a restore may take.
    pub(super) hook_limit: Duration,
    /// When all this began to be made ready.
    pub(super) began: Instant,
}

/// Why an instance cannot take a request.
#[derive(Debug)]
pub(super) struct NotReady {
    pub(super) error: ApiError,
    /// It was restored, and the function's own hooks failed or took too long.
    pub(super) in_hooks: bool,
}

impl From<ApiError> for NotReady {
    fn from(error: ApiError) -> Self {
        Self { error, in_hooks: false }
    }
}

impl Instance {
    /// Starts an instance, from a checkpoint if there is one, gives it its variables, and waits until it can take a request.
    /// `unusable` is told why it was not restored; the instance is started afresh then.
    ///
    /// # Errors
    /// Whose fault it is that it cannot: `function_init_failed`, `function_out_of_memory`, `function_timeout`
    /// (its init took longer than the function's timeout), or `internal`.
    pub(super) async fn start(
        host: Host,
        deployed: Arc<Deployed>,
        log: Arc<FunctionLog>,
        beginning: Beginning,
        unusable: impl FnOnce(&StartError),
    ) -> Result<(Arc<Self>, StartTimes), NotReady> {
        let Host { sandbox, observer } = host;
        let Beginning { origin, given, hook_limit, began } = beginning;
        let id = match &origin {
            Some(Origin::Held(held)) => held.id,
            Some(Origin::Template(_)) | None => InstanceId::random(),
        };
        let watch_memory = !sandbox.features().memory;
        let internal = |error: &(dyn std::error::Error + 'static)| {
            ApiError::new(ErrorCode::Internal, "an instance cannot be started").caused_by(error)
        };
        // What a restored instance has from before is of the one that was dumped, which was given nothing.
        let release = release::frame(&deployed.released(id), Some(&*given)).map_err(|e| internal(&e))?;
        let begun = match origin {
            // It is only released: nothing that another thread would be needed for.
            Some(Origin::Held(held)) => Begun::restored(held.into_instance(), release),
            origin => {
                let start = Start {
                    plan: deployed.plan(id),
                    template: origin.and_then(Origin::into_template),
                    required: deployed.spec.checkpoint == CheckpointMode::Required,
                    given_at_start: is_given_at_start(&deployed.spec),
                    given,
                };
                let starting = tokio::task::spawn_blocking(move || start.begin(&sandbox, release));
                let begun = starting.await.map_err(|e| internal(&e))?;
                begun.map_err(|error| start_error(&deployed, &error))?
            }
        };
        let Begun { instance: mut inner, executed, restored, not_restored, release } = begun;
        if let Some(error) = not_restored {
            unusable(&error);
        }
        let observed = observer.observe(inner.cgroup());
        let pipes = Pipes::take(&mut inner, &release).map_err(|e| internal(&e))?;
        let listener = inner.take_runtime_listener();

        let awaits_restore = park_point(&deployed.spec) == Ok(ParkPoint::RestoreNext);
        let started_as = if restored && awaits_restore { StartedAs::Restored } else { StartedAs::Fresh };
        let (way_in, init, runtime_api) = match &deployed.spec.entry {
            Entry::Handler(_) | Entry::Client { .. } => {
                let (api, jobs, init) = RuntimeApi::new(&deployed.arn(), started_as);
                let listener = tokio::net::TcpListener::from_std(listener).map_err(|e| internal(&e))?;
                let task = tokio::spawn(Arc::clone(&api).serve(listener, deployed.spec.concurrency));
                (WayIn::Handler(jobs), Some((init, api)), Some(task))
            }
            Entry::Start(_) => (WayIn::Http(Port::new()), None, None),
        };
        let (init, api) = init.unzip();
        let instance = Arc::new(Self {
            id,
            started: began,
            way_in,
            deployed,
            sandbox: OffWorker::new(Arc::new(inner)),
            watch_memory,
            ended: AtomicBool::new(false),
            ended_because: OnceLock::new(),
            death: watch::Sender::new(None),
            stderr: Mutex::default(),
            work: Mutex::default(),
            cpu_seen: Mutex::default(),
            peak_seen: Mutex::default(),
            runtime_api,
            checkpoint: OnceLock::new(),
            observed,
        });
        let output = [
            tokio::spawn(Arc::clone(&instance).read_output(pipes.stdout, "stdout", Arc::clone(&log))),
            tokio::spawn(Arc::clone(&instance).read_output(pipes.stderr, "stderr", log)),
        ];
        tokio::spawn(Arc::clone(&instance).watch(output, api));
        let hook_limit = (started_as == StartedAs::Restored).then_some(hook_limit);
        let result = instance.become_ready(pipes.status, init, hook_limit).await;
        // By its release its random numbers are its own; it reads it in the first hook after the restore.
        let unread = started_as == StartedAs::Restored
            && rustix::io::ioctl_fionread(&pipes.park).is_ok_and(|bytes| bytes > 0);
        match result {
            Ok(_) if unread => {
                instance.end(EndReason::StartFailed);
                let message =
                    "its Runtime API client asks for requests without having run its hooks after the restore";
                Err(ApiError::new(ErrorCode::FunctionInitFailed, message).into())
            }
            Ok((running, ready)) => {
                let running = running.unwrap_or(executed).max(executed);
                Ok((instance, StartTimes { began, executed, running, ready: ready.max(running), restored }))
            }
            Err(error) => {
                instance.end(EndReason::StartFailed);
                Err(error)
            }
        }
    }

    /// Waits for the first sign of readiness, death or the timeout. Gives when the bootstrap's first line ran, if it
    /// said so, and when the instance was ready.
    async fn become_ready(
        self: &Arc<Self>,
        status: pipe::Receiver,
        init: Option<watch::Receiver<InitState>>,
        hook_limit: Option<Duration>,
    ) -> Result<(Option<Instant>, Instant), NotReady> {
        let running = Arc::new(OnceLock::new());
        tokio::spawn(read_status(status, Arc::clone(&running), Arc::clone(self)));
        let ready = async {
            match (init, &self.way_in) {
                (Some(mut init), _) => {
                    let state = init.wait_for(|state| !matches!(state, InitState::Running)).await;
                    match state.map(|state| state.clone()) {
                        Ok(InitState::Ready(at)) => Ok(at),
                        Ok(InitState::Failed(error)) => Err(error.into()),
                        Ok(InitState::RestoreFailed(error)) => Err(NotReady { error, in_hooks: true }),
                        // The API went away with the instance: its death says more. No instance that serves is asked to
                        // wait to be restored.
                        Ok(InitState::Running | InitState::AwaitsRestore(_)) | Err(_) => {
                            std::future::pending().await
                        }
                    }
                }
                (None, WayIn::Http(port)) => Ok(port.wait(self).await.map(|()| Instant::now())?),
                (None, WayIn::Handler(_)) => unreachable!("a handler has a Runtime API"),
            }
        };
        let timeout = self.deployed.spec.timeout.duration().saturating_sub(self.started.elapsed());
        let ready = tokio::select! {
            // An init error is reported and then the process exits: what it reported says more.
            biased;
            ready = ready => ready?,
            death = self.death() => {
                let hook = Hook::AfterRestore;
                let in_hooks = hook_limit.is_some() && death.code == Some(hook.exit_code());
                return Err(NotReady { error: death.error(During::Init, self.deployed.spec.memory), in_hooks });
            }
            () = tokio::time::sleep(timeout) => return Err(timed_out(&self.deployed.spec, During::Init).into()),
            error = hooks_end(hook_limit) => return Err(NotReady { error, in_hooks: true }),
        };
        // The byte was written long before the first request was asked for; a program without a bootstrap writes none.
        Ok((running.get().copied(), ready))
    }

    /// Ends the process; what it was working on fails.
    pub(super) fn end(&self, reason: EndReason) {
        self.ended.store(true, Ordering::Release);
        // The first reason is the one that counts.
        self.ended_because.get_or_init(|| reason);
        self.sandbox.get().kill();
    }

    /// Whether it was ended or died.
    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits until the process has ended.
    pub(super) async fn death(&self) -> Death {
        let mut death = self.death.subscribe();
        match death.wait_for(Option::is_some).await {
            Ok(death) => death.clone().expect("waited for"),
            Err(_) => unreachable!("the sender lives as long as self"),
        }
    }

    /// A socket on its way to the function's port.
    pub(super) fn connect_port(&self) -> io::Result<std::net::TcpStream> {
        self.sandbox.get().connect_port(HTTP_PORT)
    }

    /// Notes what it was restored from.
    pub(super) fn is_restored_from(&self, checkpoint: Arc<OfVersion>) {
        self.checkpoint.get_or_init(|| checkpoint);
    }

    /// What it was restored from.
    pub(super) fn restored_from(&self) -> Option<&Arc<OfVersion>> {
        self.checkpoint.get()
    }

    /// Its first process, as the host numbers it.
    pub(super) fn pid(&self) -> u32 {
        self.sandbox.get().pid().cast_unsigned()
    }

    pub(super) fn resident_kb(&self) -> Option<u64> {
        self.sandbox.get().rss().map(|bytes| bytes / 1024)
    }

    /// Notes which invocation the output belongs to from now on.
    pub(super) fn begin_work(&self, id: InvocationId) {
        let mut work = lock(&self.work);
        if work.now.is_empty() {
            // What it printed before does not explain what happens from here on.
            lock(&self.stderr).clear();
        }
        work.now.push(id);
    }

    pub(super) fn end_work(&self, id: InvocationId) {
        let mut work = lock(&self.work);
        work.now.retain(|other| *other != id);
        work.last = Some(id);
    }

    /// CPU time since the last call, and the memory high-water mark in KiB.
    pub(super) fn usage(&self) -> (Option<u64>, Option<u64>) {
        let sandbox = self.sandbox.get();
        let cpu = sandbox.cpu_time().map(|now| {
            let mut seen = lock(&self.cpu_seen);
            let spent = now.saturating_sub(*seen);
            *seen = now;
            spent.as_micros() as u64
        });
        (cpu, self.memory_peak_kb())
    }

    /// The memory high-water mark in KiB. Where only /proc tells it, reading it costs as much as a tenth of a short
    /// request, so after requests that follow each other closely it may be [`PEAK_AGE`] old.
    fn memory_peak_kb(&self) -> Option<u64> {
        let mut seen = lock(&self.peak_seen);
        match *seen {
            Some((at, peak)) if at.elapsed() < PEAK_AGE => peak,
            _ => {
                let peak = self.sandbox.get().memory_peak().map(|bytes| bytes / 1024);
                *seen = Some((Instant::now(), peak));
                peak
            }
        }
    }

    /// Waits for the process to end, collects why, and tells everyone.
    async fn watch(self: Arc<Self>, output: [JoinHandle<()>; 2], api: Option<Arc<RuntimeApi>>) {
        let exit = self.wait_for_exit().await;
        self.ended.store(true, Ordering::Release);
        let out_of_memory =
            self.sandbox.get().oom_killed() || self.ended_because.get() == Some(&EndReason::OverMemory);
        // A grandchild cannot hold the pipes open: the pid namespace died with its first process.
        let drained = async {
            for task in output {
                if let Err(error) = task.await {
                    tracing::error!(%error, "reading an instance's output failed");
                }
            }
        };
        if tokio::time::timeout(LAST_OUTPUT, drained).await.is_err() {
            tracing::debug!(instance = %self.id, "the last output of an instance did not end");
        }
        let signal = exit.as_ref().and_then(|e| e.signal);
        let denied = if signal == Some(SIGSYS) { self.observed.denied().await } else { None };
        let death = Death {
            code: exit.as_ref().and_then(|e| e.code),
            signal,
            out_of_memory,
            denied,
            ended_because: self.ended_because.get().copied(),
            stderr: lock(&self.stderr).iter().cloned().collect(),
        };
        tracing::debug!(instance = %self.id, ?death, "instance ended");
        if let Some(api) = api {
            api.fail_all(&death.error(During::Request, self.deployed.spec.memory));
        }
        if let Some(task) = &self.runtime_api {
            task.abort();
        }
        self.death.send_replace(Some(death));
    }

    async fn wait_for_exit(&self) -> Option<stratos_sandbox::Exit> {
        let sandbox = self.sandbox.get();
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types other than OwnedFd's like; this is an OwnedFd"
        )]
        let pidfd = sandbox.pidfd().try_clone_to_owned().and_then(AsyncFd::new);
        let pidfd = match pidfd {
            Ok(pidfd) => pidfd,
            Err(error) => {
                tracing::error!(instance = %self.id, %error, "cannot watch an instance; it is ended");
                self.end(EndReason::Unwatched);
                return None;
            }
        };
        let limit = self.deployed.spec.memory.bytes();
        let mut poll = tokio::time::interval(MEMORY_POLL);
        loop {
            tokio::select! {
                _ = pidfd.readable() => break,
                _ = poll.tick(), if self.watch_memory => {
                    if sandbox.rss().is_some_and(|rss| rss > limit) {
                        self.end(EndReason::OverMemory);
                    }
                }
            }
        }
        match sandbox.wait() {
            Ok(exit) => Some(exit),
            Err(error) => {
                tracing::error!(instance = %self.id, %error, "cannot learn how an instance ended");
                None
            }
        }
    }

    async fn read_output(self: Arc<Self>, pipe: pipe::Receiver, stream: &'static str, log: Arc<FunctionLog>) {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        let (mut left, mut since) = (OUTPUT_PER_SECOND, Instant::now());
        loop {
            if since.elapsed() >= Duration::from_secs(1) {
                (left, since) = (OUTPUT_PER_SECOND, Instant::now());
            }
            left = left.saturating_sub(1 + line.len() / 256);
            if left == 0 {
                tokio::time::sleep_until((since + Duration::from_secs(1)).into()).await;
            }
            // What is buffered already is read without asking the runtime: others get their turn here.
            tokio::task::consume_budget().await;
            line.clear();
            let read = (&mut reader).take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line).await;
            match read {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(instance = %self.id, %error, "cannot read an instance's output");
                    return;
                }
            }
            let text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
            if stream == "stderr" {
                let mut kept = lock(&self.stderr);
                if kept.len() == STDERR_KEPT {
                    let oldest = kept.iter().position(|line| !is_last_word(line)).unwrap_or(0);
                    kept.remove(oldest);
                }
                kept.push_back(text.clone());
            }
            let invocation = lock(&self.work).of_output().map(|id| id.to_string());
            log.add(stratos_api::LogLine {
                at: crate::clock::rfc3339(SystemTime::now()),
                stream: stream.into(),
                instance: self.id.to_string(),
                invocation,
                message: text,
            });
        }
    }
}

/// What is said of hooks that did not end in time; never, without a limit.
async fn hooks_end(limit: Option<Duration>) -> ApiError {
    match limit {
        Some(limit) => {
            tokio::time::sleep(limit).await;
            hooks_timed_out(Hook::AfterRestore, limit)
        }
        None => std::future::pending().await,
    }
}

/// Notes when the bootstrap's first line ran, and holds the pipe for the life of the instance: a bootstrap must never
/// meet a closed one. No more is read; a function that writes on fills its own pipe.
async fn read_status(mut status: pipe::Receiver, running: Arc<OnceLock<Instant>>, instance: Arc<Instance>) {
    let mut bytes = [0; 16];
    if let Ok(1..) = status.read(&mut bytes).await {
        running.get_or_init(Instant::now);
    }
    instance.death().await;
}
