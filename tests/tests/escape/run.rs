//! One run of one attempt, and what came of it.

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use stratos_checkpoint::template::Template;
use stratos_sandbox::{Instance, Weaken};

use crate::table::{Defence, Fails, Row, Start};
use crate::world::{World, sleeper};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// How an attempt came out.
pub(crate) enum Outcome {
    /// It got through.
    Through(String),
    /// It failed with this errno, in words this.
    Failed { errno: String, why: String },
    /// The process was ended by this signal.
    Killed(i32),
    /// Nothing was left of the instance.
    Ended,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Through(detail) => write!(f, "got through ({detail})"),
            Self::Failed { errno, why } => write!(f, "{errno} ({why})"),
            Self::Killed(signal) => write!(f, "killed by signal {signal}"),
            Self::Ended => write!(f, "all of it ended"),
        }
    }
}

impl Outcome {
    pub(crate) fn is_through(&self) -> bool {
        matches!(self, Self::Through(_))
    }

    /// Failed, and in this way.
    pub(crate) fn is(&self, fails: Fails) -> bool {
        match (self, fails) {
            (Self::Failed { errno, .. }, Fails::With(wanted)) => errno == wanted,
            (Self::Killed(signal), Fails::Killed(wanted)) => *signal == wanted,
            (Self::Ended, Fails::Ended) => true,
            _ => false,
        }
    }
}

/// Makes the attempt with some defences left out.
pub(crate) fn attempt(world: &World, row: &Row, task: Value, without: &[Defence], id: &str) -> Outcome {
    let mut start = Start { plan: world.plan(id), weaken: Weaken::default() };
    for defence in without {
        defence.leave_out(&mut start);
    }
    let names: Vec<_> = without.iter().map(|defence| defence.name()).collect();
    let started = world.sandbox.start_weakened(&start.plan, start.weaken);
    let instance = started.unwrap_or_else(|error| panic!("{} without {names:?}: {error:?}", row.name));
    outcome(instance, row, task, !without.contains(&Defence::End))
}

/// Makes the attempt in an instance that is restored from a checkpoint, with all defences.
pub(crate) fn attempt_restored(
    world: &World,
    row: &Row,
    task: Value,
    template: &Template,
    id: &str,
) -> Outcome {
    let restored = world.sandbox.restore(&world.plan(id), template, &[]);
    let instance = restored.unwrap_or_else(|error| panic!("{} restored: {error:?}", row.name));
    outcome(instance, row, task, true)
}

/// What comes of an attempt. `killed`: the end of its instance kills what is in it.
fn outcome(mut instance: Instance, row: &Row, mut task: Value, killed: bool) -> Outcome {
    task["probe"] = row.probe.into();
    if row.probe == "linger" {
        return survivors(instance, &task, killed);
    }
    let mut same_user = None;
    if task["pid"] == "same user" {
        let child = sleeper(uid(&instance));
        task["pid"] = child.id().into();
        same_user = Some(child);
    }
    let park = instance.take_park();
    tell(&park, &task);
    let output = read_line(&mut instance, row.name);
    if let Some(mut child) = same_user {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let Some(line) = output else {
        let exit = instance.wait().unwrap();
        let errors = String::from_utf8_lossy(&read_some(&instance.take_stderr())).into_owned();
        return Outcome::Killed(exit.signal.unwrap_or_else(|| panic!("{}: {exit:?}: {errors}", row.name)));
    };
    let told: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{}: {e}: {line}", row.name));
    let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
    if told["ok"] == true {
        Outcome::Through(text("detail"))
    } else {
        Outcome::Failed { errno: text("errno"), why: text("detail") }
    }
}

/// Ends an instance that has left a process behind, and looks for it.
fn survivors(mut instance: Instance, task: &Value, killed: bool) -> Outcome {
    let park = instance.take_park();
    tell(&park, task);
    status(&mut instance);
    let user = uid(&instance);
    assert!(processes_of(user).len() >= 2, "the attempt has no process besides its first");
    if task["leader_exits"] == true {
        drop(park);
        readable(instance.pidfd());
        instance.wait().unwrap();
    }
    // An end that kills comes in its own time; where nothing kills there is nothing to wait for.
    let deadline = Instant::now() + if killed { PATIENCE } else { Duration::ZERO };
    drop(instance);
    loop {
        let left = processes_of(user);
        if left.is_empty() {
            return Outcome::Ended;
        }
        if Instant::now() >= deadline {
            left.iter().for_each(|pid| kill_process(*pid, Signal::KILL).unwrap());
            return Outcome::Through(format!("{} processes go on", left.len()));
        }
        std::thread::yield_now();
    }
}

/// The user of an instance's first process.
pub(crate) fn uid(instance: &Instance) -> u32 {
    real_uid(instance.pid()).expect("a running process")
}

fn real_uid(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    // Ended, but not waited for by whoever is its parent now.
    let ended = status.contains("\nState:\tZ");
    line.split_whitespace().next()?.parse().ok().filter(|_| !ended)
}

/// The processes of a user.
pub(crate) fn processes_of(user: u32) -> Vec<Pid> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid| real_uid(*pid) == Some(user)).filter_map(Pid::from_raw).collect()
}

/// Sends the task.
pub(crate) fn tell(park: &OwnedFd, task: &Value) {
    let mut file = fs::File::from(park.try_clone().unwrap());
    file.write_all(format!("{task}\n").as_bytes()).unwrap();
}

/// Waits for the byte that says a staying probe is there.
pub(crate) fn status(instance: &mut Instance) {
    let status = instance.take_status();
    readable(&status);
    let mut byte = [0];
    if rustix::io::read(&status, &mut byte).unwrap() != 1 {
        panic!("{}", String::from_utf8_lossy(&read_some(&instance.take_stderr())));
    }
}

fn readable(fd: impl AsFd) {
    let timeout = rustix::time::Timespec::try_from(PATIENCE).unwrap();
    let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).unwrap();
    assert!(ready > 0, "nothing came in {PATIENCE:?}");
}

fn read_some(fd: &OwnedFd) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let length = rustix::io::read(fd, &mut bytes).unwrap_or(0);
    bytes.truncate(length);
    bytes
}

/// The line on stdout, or `None` when the process ended without one.
fn read_line(instance: &mut Instance, name: &str) -> Option<String> {
    let stdout = instance.take_stdout();
    let mut bytes = Vec::new();
    while bytes.last() != Some(&b'\n') {
        readable(&stdout);
        let more = read_some(&stdout);
        if more.is_empty() {
            assert!(bytes.is_empty(), "{name}: half a line: {}", String::from_utf8_lossy(&bytes));
            return None;
        }
        bytes.extend(more);
    }
    Some(String::from_utf8(bytes).unwrap())
}
