//! A machine that runs.

use std::io::Write as _;
use std::process::{ChildStdin, ExitStatus};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use stratos_api::client::{Call, Client};
use tokio::net::UnixListener;
use tokio::time::{sleep, timeout};

use crate::console::{Console, ConsoleLine, ConsoleTail, Ready};
use crate::error::{VmError, at};
use crate::identity::{Identity, folder_for_owner};
use crate::machine::Machine;
use crate::monitor::{Monitor, forwarded_port};
use crate::process::Process;
use crate::qemu::Qemu;

/// How long QEMU may take to open its files.
const OPEN_LIMIT: Duration = Duration::from_secs(60);
/// How long the first question to the API may go unanswered; later ones twice as long each, up to the last.
const FIRST_PATIENCE: Duration = Duration::from_millis(150);
const LAST_PATIENCE: Duration = Duration::from_secs(5);
/// How often, and how long each time, a node is asked to switch itself off.
const ASKED_TO_POWER_OFF: usize = 3;
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(20);
/// Between two questions that were refused at once.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// What the kernel says when it gives up.
const PANIC: &str = "Kernel panic - not syncing";

/// A running machine. It is switched off, as by a power cut, when it is dropped.
#[derive(Debug)]
pub struct Running {
    process: Process,
    console: Console,
    monitor: Monitor,
    port: u16,
    identity: Option<Identity>,
}

impl Machine {
    /// Starts it.
    ///
    /// # Errors
    /// When QEMU is not there or does not take the settings.
    pub async fn start(mut self) -> Result<Running, VmError> {
        let qemu = Qemu::find()?;
        std::fs::create_dir_all(&self.folder).map_err(at("create", &self.folder))?;
        let temporary = folder_for_owner(&self.folder, "machine-")?;
        let mut files = self.prepare(temporary.path())?;
        // A socket's path may not be long, and that folder's may be.
        let meeting = tempfile::tempdir().map_err(at("create a folder in", &std::env::temp_dir()))?;
        files.monitor = meeting.path().join("monitor");
        let listener = UnixListener::bind(&files.monitor).map_err(at("listen at", &files.monitor))?;
        let arguments = self.arguments(&qemu, &files);
        let console = Console::new();
        let sinks = std::mem::take(&mut self.sinks);
        let mut process = Process::spawn(&arguments, console.clone(), sinks)
            .map_err(|source| VmError::NoProgram { program: "QEMU", package: "qemu-system-x86", source })?;
        let begun = begin(&listener, &console).await;
        let Some(mut monitor) = begun? else {
            let status = console.subscribe().borrow().exit.unwrap_or_default();
            let output = process.messages();
            return Err(match output.contains("host forwarding") {
                true => VmError::PortTaken { port: self.port },
                false => VmError::Refused { status, output },
            });
        };
        // QEMU speaks when it has opened everything. From here on nothing is left behind, however this ends.
        drop((temporary, meeting));
        let usernet = monitor.human("info usernet").await?;
        let port = forwarded_port(&usernet, self.guest_port()).ok_or_else(|| VmError::Monitor {
            command: "info usernet".into(),
            problem: format!("no forwarded port in `{}`", usernet.escape_debug()),
        })?;
        Ok(Running { process, console, monitor, port, identity: self.identity })
    }
}

/// Waits until QEMU speaks; `None` when it has ended in place of that.
async fn begin(listener: &UnixListener, console: &Console) -> Result<Option<Monitor>, VmError> {
    let mut progress = console.subscribe();
    let spoken = async {
        let (stream, _) = listener
            .accept()
            .await
            .map_err(|e| VmError::Monitor { command: "connect".into(), problem: e.to_string() })?;
        Monitor::begin(stream).await
    };
    tokio::select! {
        monitor = timeout(OPEN_LIMIT, spoken) => match monitor {
            Ok(Err(_)) if ended(console).await.is_some() => Ok(None),
            Ok(monitor) => monitor.map(Some),
            Err(_) => Err(VmError::TooLate {
                limit: OPEN_LIMIT,
                awaited: "a word from QEMU's monitor".into(),
                source: console.tail(),
            }),
        },
        _ = progress.wait_for(|progress| progress.exit.is_some()) => Ok(None),
    }
}

/// How QEMU ended, when it has ended or is about to.
async fn ended(console: &Console) -> Option<ExitStatus> {
    let mut progress = console.subscribe();
    let waited = timeout(Duration::from_secs(1), progress.wait_for(|progress| progress.exit.is_some())).await;
    waited.ok()?.ok()?.exit
}

impl Running {
    /// The port of this machine (on 127.0.0.1) that leads to the node's API.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A client of the node's API.
    ///
    /// # Errors
    /// When the machine was given no identity, or TLS cannot be set up.
    pub fn client(&self) -> Result<Client, VmError> {
        match &self.identity {
            Some(identity) => identity.client(self.port),
            None => Err(VmError::Settings("a machine without an identity has no client".into())),
        }
    }

    /// The node's identity.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// The console's lines from number `from` on, the last 20,000 at most.
    pub fn console(&self, from: usize) -> Vec<ConsoleLine> {
        self.console.lines(from)
    }

    /// How many lines the console has.
    pub fn console_len(&self) -> usize {
        self.console.subscribe().borrow().lines
    }

    /// The console's last lines.
    pub fn tail(&self) -> ConsoleTail {
        self.console.tail()
    }

    /// Time since QEMU was started.
    pub fn elapsed(&self) -> Duration {
        self.console.elapsed()
    }

    /// CPU time that QEMU has used.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu_time(&self) -> Result<Duration, VmError> {
        self.process.cpu_time().map_err(at("read", std::path::Path::new("/proc")))
    }

    /// Types on the console's keyboard.
    ///
    /// # Errors
    /// When QEMU has ended, or somebody else types.
    pub fn type_in(&mut self, text: &str) -> Result<(), VmError> {
        let gone = || VmError::Settings("somebody else types on the console".into());
        let input = self.process.input.as_mut().ok_or_else(gone)?;
        let typed = input.write_all(text.as_bytes()).and_then(|()| input.flush());
        typed.map_err(at("write to", std::path::Path::new("the console")))
    }

    /// The console's keyboard, for somebody else to type on.
    pub fn take_input(&mut self) -> Option<ChildStdin> {
        self.process.input.take()
    }

    /// Waits for a line of the console, from number `from` on, that `pick` makes something of. `awaited` says in errors
    /// what that is.
    ///
    /// # Errors
    /// When it does not come in time, the machine ends, or its kernel panics.
    pub async fn wait_for<T>(
        &self,
        awaited: &str,
        from: usize,
        limit: Duration,
        mut pick: impl FnMut(&ConsoleLine) -> Option<T>,
    ) -> Result<T, VmError> {
        let mut progress = self.console.subscribe();
        let found = async {
            let mut seen = from;
            loop {
                let now = *progress.borrow_and_update();
                let lines = self.console.lines(seen);
                seen = now.lines.max(seen);
                if let Some(found) = lines.iter().find_map(&mut pick) {
                    return Ok(found);
                }
                if lines.iter().any(|line| line.text.contains(PANIC)) {
                    // What it says next is why.
                    sleep(Duration::from_millis(300)).await;
                    return Err(VmError::Panicked { awaited: awaited.into(), source: self.console.tail() });
                }
                if let Some(status) = now.exit {
                    let source = self.console.tail();
                    return Err(VmError::Ended { status, awaited: awaited.into(), source });
                }
                // The sender lives as long as `self`.
                progress.changed().await.unwrap_or_default();
            }
        };
        timeout(limit, found).await.unwrap_or_else(|_| Err(self.too_late(awaited, limit)))
    }

    /// Waits until PID 1 says that every service is ready.
    ///
    /// # Errors
    /// See [`Running::wait_for`].
    pub async fn ready(&self, limit: Duration) -> Result<Ready, VmError> {
        self.wait_for("it was ready", 0, limit, Ready::parse).await
    }

    /// Waits until the node's API answers, and gives the time since QEMU was started.
    ///
    /// # Errors
    /// When that does not happen in time, the machine ends, or its kernel panics.
    pub async fn answers(&self, limit: Duration) -> Result<Duration, VmError> {
        let client = self.client()?;
        let asked = async {
            // QEMU accepts connections before the guest does, and loses what is said on them.
            let mut patience = FIRST_PATIENCE;
            loop {
                let call = Call::new(Method::GET, stratos_api::path::HEALTH, Bytes::new());
                match timeout(patience, client.json::<Value>(call)).await {
                    Ok(Ok(_)) => return self.elapsed(),
                    Ok(Err(_)) => sleep(ASK_AGAIN).await,
                    Err(_) => patience = (patience * 2).min(LAST_PATIENCE),
                }
            }
        };
        let awaited = "its API answered";
        tokio::select! {
            answered = asked => Ok(answered),
            // Never picks a line: it only ends early.
            failed = self.wait_for(awaited, self.console_len(), limit, |_| None) => failed,
        }
    }

    /// Waits until the machine has ended by itself.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn ended(&self, limit: Duration) -> Result<ExitStatus, VmError> {
        let mut progress = self.console.subscribe();
        let ended = timeout(limit, progress.wait_for(|progress| progress.exit.is_some())).await;
        let exit = ended.ok().and_then(|progress| progress.ok()?.exit);
        exit.ok_or_else(|| self.too_late("its end", limit))
    }

    /// Presses the power button and waits until the guest has switched itself off.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn press_power_button(&mut self, limit: Duration) -> Result<ExitStatus, VmError> {
        self.monitor.execute("system_powerdown", json!({})).await?;
        self.ended(limit).await
    }

    /// Asks the node to switch the machine off, by its API or else by the power button, and waits until that is done.
    ///
    /// # Errors
    /// When it is not off in time.
    pub async fn power_off(&mut self, limit: Duration) -> Result<ExitStatus, VmError> {
        if !self.ask_to_power_off().await && self.ended(Duration::ZERO).await.is_err() {
            self.monitor.execute("system_powerdown", json!({})).await?;
        }
        self.ended(limit).await
    }

    /// Whether the node has taken the request. One that is busy may be slow to.
    async fn ask_to_power_off(&self) -> bool {
        let Ok(client) = self.client() else { return false };
        for _ in 0..ASKED_TO_POWER_OFF {
            let call = Call::new(Method::POST, stratos_api::path::NODE_POWEROFF, Bytes::new());
            let answer = timeout(SHUTDOWN_PATIENCE, client.json::<Value>(call)).await;
            if answer.is_ok_and(|answer| answer.is_ok()) {
                return true;
            }
        }
        false
    }

    /// Cuts the power: QEMU is killed.
    pub fn cut_power(mut self) {
        self.process.kill();
    }

    /// Saves the machine, its memory and its disk, in its disk's file, and ends it.
    pub(crate) async fn save(mut self, name: &str, limit: Duration) -> Result<(), VmError> {
        self.monitor.execute("stop", json!({})).await?;
        let command = format!("savevm {name}");
        let said = self.monitor.human(&command).await?;
        if !said.trim().is_empty() {
            return Err(VmError::Monitor { command, problem: said.trim().to_owned() });
        }
        self.monitor.execute("quit", json!({})).await?;
        self.ended(limit).await.map(drop)
    }

    /// Goes on with what was saved, when it was saved standing still.
    pub(crate) async fn go_on(&mut self) -> Result<(), VmError> {
        self.monitor.execute("cont", json!({})).await.map(drop)
    }

    fn too_late(&self, awaited: &str, limit: Duration) -> VmError {
        VmError::TooLate { limit, awaited: awaited.to_owned(), source: self.console.tail() }
    }
}
