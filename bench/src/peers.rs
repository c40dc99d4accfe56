//! The peers: the same server started by runc, by crun, and as a plain process.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::bundle::{Bundle, environment};
use crate::fixture::{ANSWER, Runtime};
use crate::http::{Connection, PATIENCE, request};

/// Pause between two looks whether a server listens.
const POLL: Duration = Duration::from_micros(250);
/// The same where the looks share one CPU with the server, and every instruction may be emulated.
const SPARING_POLL: Duration = Duration::from_millis(5);

/// A way to start the server without StratOS.
pub(crate) enum Peer {
    /// An OCI runtime: its name, its program, and the folder for its state.
    Oci {
        /// `runc` or `crun`.
        name: &'static str,
        /// Path of the program.
        program: PathBuf,
        /// For `--root`, in /run as by default.
        state: TempDir,
        /// Pause between two looks whether the server listens.
        poll: Duration,
    },
    /// fork and exec, with the layer's own loader and libraries.
    Bare,
}

/// A started server. Ended and cleaned up when dropped.
pub(crate) struct Running<'a> {
    peer: &'a Peer,
    id: String,
    child: Child,
    log: PathBuf,
    ended: bool,
}

impl Peer {
    /// An OCI runtime; `None` when it is not installed.
    ///
    /// # Errors
    /// When a folder for its state cannot be made.
    pub(crate) fn oci(name: &'static str) -> Result<Option<Self>> {
        let Some(program) = Self::find(name) else { return Ok(None) };
        let state = tempfile::Builder::new().prefix("stratos-bench-").tempdir_in("/run")?;
        Ok(Some(Self::Oci { name, program, state, poll: POLL }))
    }

    /// A program of this machine, also where only root looks for it.
    pub(crate) fn find(name: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut programs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
        programs.find_map(|dir| Some(dir.join(name)).filter(|path| path.is_file()))
    }

    /// The same under another name, on a machine with one CPU.
    pub(crate) fn on_one_cpu(self, name: &'static str) -> Self {
        match self {
            Self::Oci { program, state, .. } => Self::Oci { name, program, state, poll: SPARING_POLL },
            Self::Bare => Self::Bare,
        }
    }

    fn poll(&self) -> Duration {
        match self {
            Self::Oci { poll, .. } => *poll,
            Self::Bare => POLL,
        }
    }

    /// The subject's name in rows.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Oci { name, .. } => name,
            Self::Bare => "bare",
        }
    }

    /// Starts the server and gives the time from just before until its first answer was read. It has ended and its
    /// traces are gone when this returns.
    ///
    /// # Errors
    /// When it does not start, answer or end as it should.
    pub(crate) fn cold(&self, bundle: &Bundle) -> Result<Duration> {
        let (id, port) = prepare(bundle)?;
        let hello = request("GET", "/", b"");
        let begun = Instant::now();
        let mut running = self.start(bundle, id, port)?;
        let answer = running.connect(port)?.send(&hello);
        let took = begun.elapsed();
        let answer = answer.and_then(crate::http::Answer::ok).with_context(|| running.failure())?;
        ensure!(answer.body == ANSWER.as_bytes(), "{} answered `{}`", self.name(), answer.text());
        bundle.check_limit(&running.id)?;
        running.end()?;
        Ok(took)
    }

    /// Starts the server to be kept for a while; gives it and its port.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn serve(&self, bundle: &Bundle) -> Result<(Running<'_>, u16)> {
        let (id, port) = prepare(bundle)?;
        Ok((self.start(bundle, id, port)?, port))
    }

    fn start(&self, bundle: &Bundle, id: String, port: u16) -> Result<Running<'_>> {
        let mut command = match self {
            Self::Oci { program, state, .. } => {
                let mut command = oci(program, state.path());
                command.args(["run", "--bundle"]).arg(bundle.dir()).arg(&id);
                command
            }
            Self::Bare => bare(bundle, port)?,
        };
        let log = bundle.dir().join("log");
        let output = File::create(&log)?;
        // A process group of its own: Ctrl-C reaches the benchmark alone, which then ends everything in order.
        command.process_group(0).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("start {}", self.name()))?;
        Ok(Running { peer: self, id, child, log, ended: false })
    }
}

/// A name and a port for the next start, and the configuration written: before the clock starts.
fn prepare(bundle: &Bundle) -> Result<(String, u16)> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let id = format!("stratos-bench-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    bundle.configure(&id, port)?;
    Ok((id, port))
}

fn oci(program: &Path, state: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--root").arg(state);
    command
}

/// The server as a plain process.
///
/// # Errors
/// When the bundle has no loader.
pub(crate) fn bare(bundle: &Bundle, port: u16) -> Result<Command> {
    let (loader, libraries) = bundle.loader()?;
    let runtime = bundle.runtime();
    let mut command = Command::new(loader);
    command
        .arg("--library-path")
        .arg(libraries)
        .arg(bundle.path(runtime.program()))
        .arg(bundle.server_file());
    command.current_dir(bundle.task()).env_clear().envs(environment(port, &bundle.task()));
    if runtime == Runtime::Python313 {
        // It looks for its library beside the program, and the program is the loader here.
        command.env("PYTHONHOME", bundle.path("/usr"));
    }
    Ok(command)
}

impl Running<'_> {
    /// Connects as soon as the server listens.
    ///
    /// # Errors
    /// When it ends before, or takes longer than [`PATIENCE`].
    pub(crate) fn connect(&mut self, port: u16) -> Result<Connection> {
        let begun = Instant::now();
        loop {
            if let Some(connection) = Connection::local(port)? {
                return Ok(connection);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}); {}", self.peer.name(), self.failure());
            }
            ensure!(begun.elapsed() < PATIENCE, "no server within {PATIENCE:?}; {}", self.failure());
            std::thread::sleep(self.peer.poll());
        }
    }

    /// What the server and its starter wrote, for messages.
    fn failure(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_else(|error| error.to_string());
        format!("{} wrote: {}", self.peer.name(), log.trim())
    }

    /// Ends the server and removes its traces.
    ///
    /// # Errors
    /// When something stays.
    pub(crate) fn end(mut self) -> Result<()> {
        self.clean_up()
    }

    fn clean_up(&mut self) -> Result<()> {
        self.ended = true;
        match self.peer {
            Peer::Bare => self.child.kill().context("end the server")?,
            Peer::Oci { program, state, .. } => {
                let output = oci(program, state.path()).args(["delete", "--force", &self.id]).output()?;
                let stderr = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "{} delete: {}", self.peer.name(), stderr.trim());
            }
        }
        self.child.wait().context("wait for the server's end")?;
        Ok(())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if let Err(error) = self.clean_up() {
            eprintln!("warning: {error:#}");
        }
    }
}
