//! QEMU's process: started, watched and ended.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::console::Console;

/// Starts a program that is killed when the thread that started it ends (util-linux, part of every Debian).
const TIED: &[&str] = &["setpriv", "--pdeathsig", "KILL", "--"];

/// A running QEMU, killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    handle: OwnedFd,
    /// What is typed on the console.
    pub(crate) input: Option<ChildStdin>,
    messages: File,
    keeper: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts it. Its stdout is the console, which a thread reads until QEMU ends.
    pub(crate) fn spawn(
        arguments: &[std::ffi::OsString],
        console: Console,
        sinks: Vec<Box<dyn Write + Send>>,
    ) -> io::Result<Self> {
        let messages = tempfile::tempfile()?;
        let stderr = messages.try_clone()?;
        let arguments = arguments.to_owned();
        let (tell, told) = mpsc::channel();
        // The thread that starts it outlives it, as otherwise it would be killed with that thread.
        let keeper = std::thread::Builder::new().name("machine".into()).spawn(move || {
            let child = command(&arguments).and_then(|mut command| {
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr).process_group(0).spawn()
            });
            let mut child = match child {
                Ok(child) => child,
                Err(error) => return tell.send(Err(error)).unwrap_or_default(),
            };
            let (input, output) = (child.stdin.take(), child.stdout.take());
            let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty());
            tell.send(handle.map(|handle| (child.id(), handle, input)).map_err(Into::into))
                .unwrap_or_default();
            // Whatever reading gives: what counts is how the process ends.
            output.map(|output| console.read(output, sinks)).unwrap_or(Ok(())).unwrap_or_default();
            if let Ok(status) = child.wait() {
                console.ended(status);
            }
        })?;
        let (pid, handle, input) =
            told.recv().map_err(|_| io::Error::other("the thread that starts QEMU panicked"))??;
        Ok(Self { pid, handle, input, messages, keeper: Some(keeper) })
    }

    /// What QEMU said on stderr.
    pub(crate) fn messages(&mut self) -> String {
        let mut bytes = Vec::new();
        let read =
            self.messages.rewind().and_then(|()| (&self.messages).take(16 << 10).read_to_end(&mut bytes));
        read.map_or_else(|e| e.to_string(), |_| String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// CPU time it has used, this machine's.
    pub(crate) fn cpu_time(&self) -> io::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // proc_pid_stat(5): fields 14 and 15, in clock ticks; the name in field 2 may hold spaces.
        let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).into_iter().flatten();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_secs(ticks) / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100))
    }

    /// Ends it at once, as a power cut ends a machine.
    pub(crate) fn kill(&mut self) {
        let Some(keeper) = self.keeper.take() else { return };
        // It may have ended by itself.
        pidfd_send_signal(&self.handle, Signal::KILL).unwrap_or_default();
        keeper.join().unwrap_or_default();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// QEMU, tied to the life of its starter where there is a program for that.
fn command(arguments: &[std::ffi::OsString]) -> io::Result<Command> {
    let tied = Command::new(TIED[0]).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let mut command = match tied {
        Ok(_) => {
            let mut command = Command::new(TIED[0]);
            command.args(&TIED[1..]).arg(crate::qemu::QEMU);
            command
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Command::new(crate::qemu::QEMU),
        Err(e) => return Err(e),
    };
    command.args(arguments);
    Ok(command)
}
