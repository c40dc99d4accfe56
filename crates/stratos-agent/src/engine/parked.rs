//! An instance that is started in order to be checkpointed: it initialises, and waits for a release that never comes.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use stratos_sandbox::Sandbox;
use stratos_types::InstanceId;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::unix::pipe;

use super::deployed::Deployed;
use super::lock;
use super::log::{FunctionLog, MAX_LINE_BYTES};

/// What a runtime writes to the status pipe when it is about to park.
const PARKS: u8 = b'P';
/// Lines kept to explain a failure.
const LINES_KEPT: usize = 5;
/// Most lines of one stream that an initialisation prints into the log.
const MOST_LINES: usize = 1000;

/// The instance. It ends with this, which must not be dropped on a thread that others wait for.
pub(super) struct Parked {
    instance: stratos_sandbox::Instance,
    /// Closed, it would release the process.
    _park: OwnedFd,
    _status: pipe::Receiver,
}

impl Parked {
    /// Starts an instance and waits until it says that it parks.
    ///
    /// # Errors
    /// Why it does not, in words for the function's author.
    pub(super) async fn start(
        sandbox: Arc<Sandbox>,
        deployed: &Arc<Deployed>,
        log: Arc<FunctionLog>,
    ) -> Result<Self, String> {
        let id = InstanceId::random();
        let plan = deployed.plan_for_checkpoint(id);
        let starting = tokio::task::spawn_blocking(move || sandbox.start(&plan));
        let started = starting.await.map_err(|error| error.to_string())?;
        let mut instance = started.map_err(|error| format!("it cannot be started: {error}"))?;
        let park = instance.take_park();
        let last = Arc::<Mutex<VecDeque<String>>>::default();
        let receiver = |fd: OwnedFd| pipe::Receiver::from_owned_fd(fd).map_err(|error| error.to_string());
        let reading = async {
            for (stream, fd) in [("stdout", instance.take_stdout()), ("stderr", instance.take_stderr())] {
                tokio::spawn(read_lines(receiver(fd)?, stream, id, Arc::clone(&log), Arc::clone(&last)));
            }
            receiver(instance.take_status())
        };
        let result = match reading.await {
            Ok(mut status) => await_parking(&mut status, deployed, &last).await.map(|()| status),
            Err(error) => Err(error),
        };
        match result {
            Ok(status) => Ok(Self { instance, _park: park, _status: status }),
            Err(reason) => {
                // Its end removes a cgroup and waits for a process.
                tokio::task::spawn_blocking(move || drop((instance, park)));
                Err(reason)
            }
        }
    }

    pub(super) fn instance(&self) -> &stratos_sandbox::Instance {
        &self.instance
    }
}

async fn await_parking(
    status: &mut pipe::Receiver,
    deployed: &Deployed,
    last: &Mutex<VecDeque<String>>,
) -> Result<(), String> {
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
        Ok(false) => {
            // What it said last may be on its way still.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            let said = lock(last).iter().cloned().collect::<Vec<_>>().join(" / ");
            Err(format!("its initialisation ended{}{said}", if said.is_empty() { "" } else { ": " }))
        }
        Err(_) if deployed.spec.entry.is_http() => {
            Err(format!("its server did not listen and wait for a request within {timeout:?}"))
        }
        Err(_) => Err(format!("its initialisation took longer than {timeout:?}")),
    }
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
