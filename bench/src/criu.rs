//! CRIU as a peer: the server as a plain process, warmed, dumped once, and restored for each start.
//!
//! Where a choice could cost it time that StratOS does not pay, it is made in its favour: the process has a pid namespace
//! of its own, without which it could not come back under its number, and none of the others.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use stratos_image::BuildOptions;
use tempfile::TempDir;

use crate::bundle::Bundle;
use crate::fixture::ANSWER;
use crate::guest::{Notices, cache};
use crate::http::{Connection, PATIENCE, request};
use crate::interrupt::Interrupt;
use crate::mmdebstrap::Root;
use crate::peers::bare;

/// CRIU itself, and util-linux: its setpriv installs system call filters from 2.41 on. Debian's next release has both;
/// CRIU before 4.2 cannot dump on a kernel of 2025.
const TOOLS: Root = Root {
    name: "criu",
    suite: "forky",
    variant: "extract",
    packages: &["criu", "util-linux"],
    folders: &[],
};
/// Requests that the server has answered when it is dumped.
const WARM: usize = 20;
/// In this time its threads have come to rest.
const REST: Duration = Duration::from_secs(1);
/// Pause between two looks whether the server listens, as for the other peers.
const POLL: Duration = Duration::from_micros(250);
/// Pause between two looks whether it is gone.
const LOOK: Duration = Duration::from_millis(2);

/// The dumped server.
pub(crate) struct Criu {
    tools: Tools,
    /// Images, logs, and the restored process's number.
    dir: TempDir,
    port: u16,
}

/// Programs of another Debian, run with the loader and the libraries that they came with.
struct Tools {
    loader: PathBuf,
    libraries: PathBuf,
    root: PathBuf,
}

/// The root of CRIU's programs, when it is in the cache or to be put there.
///
/// # Errors
/// When it cannot be fetched.
pub(crate) fn tools(install: bool, interrupt: &Interrupt) -> Result<Option<PathBuf>> {
    let cache = cache()?;
    if install {
        let build = BuildOptions::new(cache, stratos_tests::repository().to_owned(), &Notices);
        return TOOLS.folder(&build, interrupt).map(Some);
    }
    let root = TOOLS.cached(&cache);
    if root.is_none() {
        eprintln!("notice: CRIU was not fetched (--install-peers does); it has no row");
    }
    Ok(root)
}

impl Tools {
    fn of(root: PathBuf) -> Result<Self> {
        let libraries = root.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
        let names = fs::read_dir(&libraries).with_context(|| format!("read {}", libraries.display()))?;
        for name in names {
            let path = name?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux")) {
                return Ok(Self { loader: path, libraries, root });
            }
        }
        bail!("no dynamic loader in {}", libraries.display())
    }

    /// The words that start one of them.
    fn words(&self, program: &str) -> [OsString; 4] {
        let program = self.root.join(program).into();
        [self.loader.clone().into(), "--library-path".into(), self.libraries.clone().into(), program]
    }

    fn command(&self, program: &str) -> Command {
        let [loader, words @ ..] = self.words(program);
        let mut command = Command::new(loader);
        command.args(words);
        command
    }
}

impl Criu {
    /// Starts the server of a bundle, lets it answer a few requests, and dumps it.
    ///
    /// # Errors
    /// When CRIU cannot do that on this machine.
    pub(crate) fn dump(root: PathBuf, bundle: &Bundle) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("stratos-bench-").tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let criu = Self { tools: Tools::of(root)?, dir, port };
        let mut parent = criu.start(bundle)?;
        let dumped = criu.dump_child(&mut parent);
        if dumped.is_err() {
            // It may have ended already, with the error.
            only_child(&parent).into_iter().try_for_each(|pid| kill_process(pid, Signal::KILL))?;
        }
        parent.wait().context("wait for the server's end")?;
        dumped.map(|()| criu)
    }

    /// The server as PID 1 and leader of a session, with a filter like that of the other peers for what CRIU cannot
    /// dump.
    fn start(&self, bundle: &Bundle) -> Result<Child> {
        let filter = self.dir.path().join("filter");
        fs::File::create(&filter)?.write_all(&without_io_uring())?;
        let server = bare(bundle, self.port)?;
        let mut command = self.tools.command("usr/bin/unshare");
        command.args(["--pid", "--fork"]).args(self.tools.words("usr/bin/setsid"));
        command.args(self.tools.words("usr/bin/setpriv")).arg("--seccomp-filter").arg(filter);
        command.arg(server.get_program()).args(server.get_args()).env_clear();
        command.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(server.get_current_dir().unwrap_or(Path::new("/")));
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().context("start the server for CRIU")
    }

    fn dump_child(&self, parent: &mut Child) -> Result<()> {
        for _ in 0..WARM {
            let ended = || Ok(parent.try_wait()?.map(|status| format!("the server ended ({status})")));
            self.ask(ended)?;
        }
        std::thread::sleep(REST);
        let pid = only_child(parent).context("the server is gone")?;
        let mut command = self.command("dump");
        command.arg("--tree").arg(pid.as_raw_nonzero().to_string());
        let status = command.status().context("start criu")?;
        ensure!(status.success(), "criu dump failed ({status}): {}", self.log("dump"));
        Ok(())
    }

    /// `criu restore` until the first answer. The server has ended when this returns.
    ///
    /// # Errors
    /// When it is not restored, or does not answer or end as it should.
    pub(crate) fn cold(&self) -> Result<Duration> {
        let number = self.dir.path().join("pid");
        let mut command = self.command("restore");
        command.arg("--restore-detached").arg("--pidfile").arg(&number);
        let begun = Instant::now();
        let mut criu = command.spawn().context("start criu")?;
        let asked = self.ask(|| match criu.try_wait()? {
            Some(status) if !status.success() => {
                Ok(Some(format!("criu restore failed ({status}): {}", self.log("restore"))))
            }
            _ => Ok(None),
        });
        let took = begun.elapsed();
        // The server may answer before CRIU has let go of it.
        let status = criu.wait().context("wait for criu")?;
        if status.success() {
            let pid = fs::read_to_string(&number).context("read the restored server's number")?;
            fs::remove_file(&number)?;
            end(pid.trim().parse().ok().and_then(Pid::from_raw).context("it is no number")?)?;
        }
        asked.map(|()| took)
    }

    /// Asks as soon as the server listens; gives up for the reason that `failed` gives.
    fn ask(&self, mut failed: impl FnMut() -> Result<Option<String>>) -> Result<()> {
        let begun = Instant::now();
        let mut connection = loop {
            if let Some(connection) = Connection::local(self.port)? {
                break connection;
            }
            if let Some(reason) = failed()? {
                bail!("{reason}");
            }
            ensure!(begun.elapsed() < PATIENCE, "no server within {PATIENCE:?}");
            std::thread::sleep(POLL);
        };
        let answer = connection.send(&request("GET", "/", b""))?.ok()?;
        ensure!(answer.body == ANSWER.as_bytes(), "it answered `{}`", answer.text());
        Ok(())
    }

    fn command(&self, what: &str) -> Command {
        let mut command = self.tools.command("usr/sbin/criu");
        command
            .arg(what)
            .arg("--images-dir")
            .arg(self.dir.path())
            .args(["--log-file", &format!("{what}.log")]);
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// The end of what CRIU wrote.
    fn log(&self, what: &str) -> String {
        let text = fs::read_to_string(self.dir.path().join(format!("{what}.log")));
        let text = text.unwrap_or_else(|error| error.to_string());
        let lines: Vec<&str> = text.trim().lines().collect();
        lines[lines.len().saturating_sub(4)..].join("; ")
    }
}

/// The process that another one waits for.
fn only_child(parent: &Child) -> Option<Pid> {
    let id = parent.id();
    let list = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
    list.trim().parse().ok().and_then(Pid::from_raw)
}

/// Kills a process that is nobody's child here, and waits until nothing of it runs.
fn end(pid: Pid) -> Result<()> {
    kill_process(pid, Signal::KILL).context("end the restored server")?;
    let begun = Instant::now();
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    // A zombie's number is in use, in a namespace that nobody needs; its port and memory are free.
    while fs::read_to_string(&path).is_ok_and(|stat| !stat.contains(") Z ")) {
        ensure!(begun.elapsed() < PATIENCE, "the restored server does not end");
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// A system call filter (seccomp(2)) that answers io_uring_setup with ENOSYS, as the other peers' does: what it makes
/// cannot be dumped.
fn without_io_uring() -> Vec<u8> {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const NUMBER: u32 = 0; // of struct seccomp_data
    const IO_URING_SETUP: u32 = 425; // on every architecture
    const ALLOW: u32 = 0x7fff_0000;
    const ENOSYS: u32 = 0x0005_0000 | 38;
    let program = [
        (LOAD, 0, 0, NUMBER),
        (JUMP_IF_EQUAL, 0, 1, IO_URING_SETUP),
        (RETURN, 0, 0, ENOSYS),
        (RETURN, 0, 0, ALLOW),
    ];
    let instruction = |(code, yes, no, value): (u16, u8, u8, u32)| {
        let [low, high] = code.to_ne_bytes();
        let value = value.to_ne_bytes();
        [low, high, yes, no, value[0], value[1], value[2], value[3]]
    };
    program.into_iter().flat_map(instruction).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_four_instructions() {
        let filter = without_io_uring();
        assert_eq!(filter.len(), 32);
        assert_eq!(filter[12..16], 425_u32.to_ne_bytes());
    }

    #[test]
    fn tools_without_a_loader_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let libraries = format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        fs::create_dir_all(dir.path().join(&libraries)).unwrap();
        assert!(Tools::of(dir.path().to_owned()).is_err());
        fs::write(dir.path().join(&libraries).join("ld-linux-x86-64.so.2"), "").unwrap();
        let tools = Tools::of(dir.path().to_owned()).unwrap();
        assert!(tools.words("usr/sbin/criu")[3].to_string_lossy().ends_with("/usr/sbin/criu"));
    }
}
