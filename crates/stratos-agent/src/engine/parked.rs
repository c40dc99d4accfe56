//! An instance that is started in order to be checkpointed: it initialises, and waits for a release that never comes.

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use stratos_checkpoint::dump::{DumpError, Dumped};
use stratos_sandbox::{Sandbox, StartError};
use stratos_sys::process;
use stratos_types::{InstanceId, Runtime};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::unix::pipe;

use super::checkpointable::{ParkPoint, park_point};
use super::deployed::Deployed;
use super::failure::Hook;
use super::log::{FunctionLog, MAX_LINE_BYTES};
use super::snap_start::SnapStart;
use super::{listening, lock};

/// What a runtime writes to the status pipe when it is about to park.
pub(super) const PARKS: u8 = b'P';
/// Lines kept to explain a failure.
const LINES_KEPT: usize = 5;
/// Most lines of one stream that an initialisation prints into the log.
const MOST_LINES: usize = 1000;

/// How long the exit code of a process that has closed its pipes is waited for.
const EXIT_WAIT: Duration = Duration::from_millis(200);

/// Why a checkpoint was not made.
#[derive(Debug)]
pub(super) struct NotMade {
    pub(super) reason: String,
    /// It may be different the next time.
    pub(super) passes: bool,
}

impl NotMade {
    /// For something that may be different the next time.
    pub(super) fn for_now(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), passes: true }
    }

    /// For what the program does at each start.
    pub(super) fn for_good(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), passes: false }
    }
}

/// Why an instance does not park.
#[derive(Debug)]
pub(super) enum Unready {
    /// Its process has ended.
    Ended,
    Refused(NotMade),
}

impl From<NotMade> for Unready {
    fn from(reason: NotMade) -> Self {
        Self::Refused(reason)
    }
}

/// The instance. It ends with this, which must not be dropped on a thread that others wait for.
pub(super) struct Parked {
    instance: stratos_sandbox::Instance,
    /// Closed, it would release the process.
    _park: OwnedFd,
    _status: pipe::Receiver,
    at: At,
}

/// What it waits for.
enum At {
    /// Its release.
    Release,
    /// Its own Runtime API client for `restore/next`, which it asked for from this address.
    RestoreNext { client: SocketAddrV4, _api: SnapStart },
    /// Requests, knowing nothing of checkpoints.
    Requests,
}

impl Parked {
    /// Starts an instance and waits until it parks. `hook_limit`: how long it may run hooks before.
    ///
    /// # Errors
    /// Why it does not, in words for the function's author.
    pub(super) async fn start(
        sandbox: Arc<Sandbox>,
        deployed: &Arc<Deployed>,
        log: Arc<FunctionLog>,
        hook_limit: Duration,
    ) -> Result<Self, NotMade> {
        let id = InstanceId::random();
        let plan = deployed.plan_for_checkpoint(id);
        let draws_addresses = deployed.spec.runtime == Runtime::Node24;
        let starting = tokio::task::spawn_blocking(move || {
            let instance = sandbox.start(&plan)?;
            if draws_addresses && let Err(error) = stratos_sandbox::keep_memory_together(&instance) {
                // Its clones are larger then, and that is all.
                tracing::debug!(pid = instance.pid(), %error, "an instance's memory is not kept together");
            }
            Ok::<_, StartError>(instance)
        });
        let started = starting.await.map_err(|error| NotMade::for_now(error.to_string()))?;
        let mut instance =
            started.map_err(|error| NotMade::for_now(format!("it cannot be started: {error}")))?;
        let park = instance.take_park();
        let last = Arc::<Mutex<VecDeque<String>>>::default();
        let parking = park_instance(&mut instance, id, deployed, log, &last, hook_limit);
        match parking.await {
            Ok((status, at)) => Ok(Self { instance, _park: park, _status: status, at }),
            Err(unready) => {
                // Its end removes a cgroup and waits for a process.
                let ending = tokio::task::spawn_blocking(move || {
                    let code = exit_code(&instance);
                    drop((instance, park));
                    code
                });
                match unready {
                    Unready::Refused(reason) => Err(reason),
                    Unready::Ended => Err(ended(ending.await.ok().flatten(), deployed, &last).await),
                }
            }
        }
    }

    /// Dumps it; it goes on to wait. Blocks.
    ///
    /// # Errors
    /// See [`DumpError`].
    pub(super) fn dump(&self, subject: &str, path: &Path) -> Result<Dumped, DumpError> {
        match &self.at {
            At::Release => stratos_sandbox::checkpoint(&self.instance, subject, path),
            At::RestoreNext { client, .. } => {
                stratos_sandbox::checkpoint_awaiting(&self.instance, *client, subject, path)
            }
            At::Requests => stratos_sandbox::checkpoint_idle(&self.instance, subject, path),
        }
    }
}

async fn park_instance(
    instance: &mut stratos_sandbox::Instance,
    id: InstanceId,
    deployed: &Deployed,
    log: Arc<FunctionLog>,
    last: &Arc<Mutex<VecDeque<String>>>,
    hook_limit: Duration,
) -> Result<(pipe::Receiver, At), Unready> {
    let failed = |error: std::io::Error| NotMade::for_now(error.to_string());
    let receiver = |fd: OwnedFd| pipe::Receiver::from_owned_fd(fd).map_err(failed);
    for (stream, fd) in [("stdout", instance.take_stdout()), ("stderr", instance.take_stderr())] {
        tokio::spawn(read_lines(receiver(fd)?, stream, id, Arc::clone(&log), Arc::clone(last)));
    }
    let mut status = receiver(instance.take_status())?;
    let at = match park_point(&deployed.spec).map_err(NotMade::for_good)? {
        ParkPoint::Release => {
            await_parking(&mut status, deployed).await?;
            At::Release
        }
        ParkPoint::Listening => tokio::select! {
            biased;
            parks = await_parking(&mut status, deployed) => parks.map(|()| At::Release)?,
            primed = listening::prime(instance, &deployed.spec.prime) => {
                primed.map_err(NotMade::for_now)?;
                if deployed.is_given {
                    let reason = "it does not wait for its release, and would not get its secrets and the node's variables";
                    return Err(NotMade::for_good(reason).into());
                }
                At::Requests
            }
        },
        ParkPoint::Itself => {
            let mut client = SnapStart::begin(instance.take_runtime_listener(), deployed).map_err(failed)?;
            tokio::select! {
                biased;
                parks = await_parking(&mut status, deployed) => parks.map(|()| At::Release)?,
                reason = client.asks_for_requests() => return Err(reason.into()),
            }
        }
        ParkPoint::RestoreNext => {
            let mut client = SnapStart::begin(instance.take_runtime_listener(), deployed).map_err(failed)?;
            let timeout = deployed.spec.timeout.duration();
            let address = client.await_restore_next(&mut status, timeout, hook_limit).await?;
            At::RestoreNext { client: address, _api: client }
        }
    };
    Ok((status, at))
}

async fn await_parking(status: &mut pipe::Receiver, deployed: &Deployed) -> Result<(), Unready> {
    let timeout = deployed.spec.timeout.duration();
    let parks = async {
        let mut bytes = [0; 16];
        loop {
            match status.read(&mut bytes).await {
                Ok(0) | Err(_) => return false,
                Ok(count) if bytes[..count].contains(&PARKS) => return true,
                Ok(_) => {}
            }
        }
    };
    match tokio::time::timeout(timeout, parks).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Unready::Ended),
        Err(_) if deployed.spec.entry.is_http() => Err(NotMade::for_now(format!(
            "its server did not listen and wait for a request within {timeout:?}"
        ))
        .into()),
        Err(_) => Err(NotMade::for_now(format!("its initialisation took longer than {timeout:?}")).into()),
    }
}

/// The exit code of a process that has ended by itself, or is about to.
fn exit_code(instance: &stratos_sandbox::Instance) -> Option<i32> {
    let ended = process::ended_within(instance.pidfd(), EXIT_WAIT);
    if !matches!(ended, Ok(true)) {
        return None;
    }
    instance.wait().ok()?.code
}

async fn ended(code: Option<i32>, deployed: &Deployed, last: &Mutex<VecDeque<String>>) -> NotMade {
    // What it said last may be on its way still.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let said = lock(last).iter().cloned().collect::<Vec<_>>().join(" / ");
    let what = match code {
        Some(code) if code == Hook::BeforeSnapshot.exit_code() => {
            format!("a before-snapshot hook failed (exit status {code})")
        }
        _ if !deployed.spec.secrets.is_empty() => "its initialisation ended, without its secrets".to_owned(),
        _ => "its initialisation ended".to_owned(),
    };
    NotMade::for_now(format!("{what}{}{said}", if said.is_empty() { "" } else { ": " }))
}

async fn read_lines(
    pipe: pipe::Receiver,
    stream: &'static str,
    id: InstanceId,
    log: Arc<FunctionLog>,
    last: Arc<Mutex<VecDeque<String>>>,
) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    for _ in 0..MOST_LINES {
        line.clear();
        match (&mut reader).take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let message = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
        {
            let mut last = lock(&last);
            if last.len() == LINES_KEPT {
                last.pop_front();
            }
            last.push_back(message.clone());
        }
        log.add(stratos_api::LogLine {
            at: crate::clock::rfc3339(SystemTime::now()),
            stream: stream.into(),
            instance: id.to_string(),
            invocation: None,
            message,
        });
    }
}
