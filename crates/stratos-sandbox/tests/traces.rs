//! Nothing stays behind: after instances, after failures, after an agent that was killed.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use stratos_sandbox::{OpenError, Sandbox};
use support::{config, eventually, function_image, open, read_all, rig, run, status_byte};

/// The tests of this file compare the host before and after: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static HOST: Mutex<()> = Mutex::new(());
    HOST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the traces of one sandbox would be, learnt from an instance of it. Others may run on this host.
struct Traces {
    cgroup: Option<PathBuf>,
    first_uid: u32,
    dir: PathBuf,
}

/// What a leak would add to.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    mounts: Vec<String>,
    cgroups: BTreeSet<PathBuf>,
    processes: BTreeSet<u32>,
}

impl Traces {
    fn of(pid: impl std::fmt::Display, dir: &Path) -> Self {
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let leaf = cgroup
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .filter(|path| path.starts_with("stratos-"));
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let cgroup = leaf.map(|leaf| {
            let leaf = roots.map(|root| root.join(leaf)).into_iter().find(|path| path.exists()).unwrap();
            leaf.parent().unwrap().to_owned()
        });
        let first_uid = real_uid(&pid.to_string()).unwrap() & !0xffff;
        Self { cgroup, first_uid, dir: dir.to_owned() }
    }

    fn find(&self) -> Found {
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let ours = |line: &&str| line.contains(self.dir.to_str().unwrap());
        let entries = self.cgroup.iter().flat_map(fs::read_dir).flatten().map(|entry| entry.unwrap().path());
        Found {
            mounts: mounts.lines().filter(ours).map(str::to_owned).collect(),
            cgroups: entries.filter(|path| path.is_dir()).collect(),
            processes: self.processes(),
        }
    }

    fn processes(&self) -> BTreeSet<u32> {
        let names =
            fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let uids = self.first_uid..self.first_uid + 0x1_0000;
        names
            .filter(|name| {
                name.parse::<u32>().is_ok() && real_uid(name).is_some_and(|uid| uids.contains(&uid))
            })
            .map(|name| name.parse().unwrap())
            .collect()
    }

    fn assert_gone(&self) {
        let Found { mounts, cgroups, processes } = self.find();
        assert!(
            mounts.is_empty() && cgroups.is_empty() && processes.is_empty(),
            "{mounts:?} {cgroups:?} {processes:?}"
        );
        assert!(!self.cgroup.as_ref().is_some_and(|path| path.exists()), "the node's cgroup stays");
    }
}

/// The user of a process that runs; one that has ended and waits to be collected has none here.
fn real_uid(pid: &str) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    (field("State:")? != "Z").then_some(())?;
    field("Uid:")?.parse().ok()
}

#[test]
fn fifty_starts_leave_nothing() {
    let _alone = alone();
    let Some(rig) = rig("fifty_starts_leave_nothing") else { return };
    let first = rig.sandbox.start(&rig.plan("first", "park")).unwrap();
    let traces = Traces::of(first.pid(), rig.dir.path());
    drop(first);
    eventually("the first instance is gone", || {
        let found = traces.find();
        found.processes.is_empty() && found.cgroups.is_empty()
    });
    let before = traces.find();
    let mut times: Vec<Duration> = Vec::new();
    for round in 0..50 {
        let started = Instant::now();
        let mut instance = rig.sandbox.start(&rig.plan(&format!("round-{round}"), "park")).unwrap();
        times.push(started.elapsed());
        assert_eq!(status_byte(instance.take_status()), b'P');
        match round % 3 {
            0 => assert_eq!(run(&mut instance).1.code, Some(0)),
            1 => instance.kill(),
            _ => {}
        }
    }
    times.sort();
    println!("start: median {:?}, 95th {:?}", times[25], times[47]);
    eventually("the last instance is gone", || traces.find() == before);
    drop(rig);
    traces.assert_gone();
}

#[test]
fn descriptors_are_closed() {
    let _alone = alone();
    let Some(rig) = rig("descriptors_are_closed") else { return };
    let mut failing = rig.plan("fails", "park");
    failing.argv = support::strings(&["/missing"]);
    let second = rig.dir.path().join("second");
    fs::create_dir(&second).unwrap();
    let start_and_stop = || {
        let sandbox = open(&second);
        for round in 0..10 {
            assert!(sandbox.start(&failing).is_err());
            drop(sandbox.start(&rig.plan(&format!("works-{round}"), "park")).unwrap());
        }
    };
    start_and_stop();
    let count = || fs::read_dir("/proc/self/fd").unwrap().count();
    // The rig's own pool takes descriptors until it is full.
    let (mut steady, mut looks) = (0, 0);
    eventually("the pool is full", || {
        let now = count();
        looks = if steady == now { looks + 1 } else { 0 };
        steady = now;
        looks > 1000
    });
    start_and_stop();
    assert_eq!(count(), steady);
}

#[test]
fn nothing_outlives_its_instance() {
    let _alone = alone();
    let Some(rig) = rig("nothing_outlives_its_instance") else { return };
    let mut instance = rig.sandbox.start(&rig.plan("orphan", "orphan")).unwrap();
    let traces = Traces::of(instance.pid(), rig.dir.path());
    assert_eq!(status_byte(instance.take_status()), b'P');
    assert_eq!(traces.processes().len(), 2);
    drop(instance);
    eventually("both processes are gone", || traces.processes().is_empty());

    let mut instance = rig.sandbox.start(&rig.plan("orphan-2", "orphan")).unwrap();
    assert_eq!(status_byte(instance.take_status()), b'P');
    assert_eq!(traces.processes().len(), 2);
    instance.kill();
    instance.wait().unwrap();
    assert!(traces.processes().is_empty(), "the first process's end took the other along");
}

/// Not a test: the agent that the next test kills. Starts an instance, says so, and waits.
#[test]
#[ignore = "run by a_killed_agent_is_swept_after"]
fn agent_to_be_killed() {
    let Some(dir) = std::env::var_os("STRATOS_TEST_AGENT_DIR") else { return };
    let dir = Path::new(&dir);
    let sandbox = open(dir);
    let layer = sandbox.mount_image(&support::native_layer().unwrap()).unwrap();
    let function = sandbox.mount_image(&function_image(dir)).unwrap();
    let rig = support::Rig { layer, function, sandbox, dir: tempfile::tempdir().unwrap() };
    // Not "park": that ends when the agent's end of the pipe closes.
    let mut instance = rig.sandbox.start(&rig.plan("left-over", "sleep")).unwrap();
    println!("\nleft {}", instance.pid());
    read_all(instance.take_stdout());
}

#[test]
fn a_killed_agent_is_swept_after() {
    let _alone = alone();
    if rig("a_killed_agent_is_swept_after").is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut agent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "agent_to_be_killed", "--ignored", "--nocapture"])
        .env("STRATOS_TEST_AGENT_DIR", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(agent.stdout.take().unwrap()).lines();
    let left = lines.find_map(|line| line.unwrap().strip_prefix("left ").map(str::to_owned)).unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();
    // Instances outlive their agent until the next one comes.
    let traces = Traces::of(left, dir.path());
    assert_eq!(traces.processes().len(), 1);
    let sandbox = open(dir.path());
    assert_eq!(traces.processes(), BTreeSet::new());
    drop(sandbox);
    traces.assert_gone();
}

#[test]
fn a_host_without_all_limits_is_refused_by_name() {
    let _alone = alone();
    let Some(rig) = rig("a_host_without_all_limits_is_refused_by_name") else { return };
    let dir = tempfile::tempdir().unwrap();
    let missing = rig.sandbox.features().missing_limits();
    let opened = Sandbox::open(stratos_sandbox::SandboxConfig { require_limits: true, ..config(dir.path()) });
    match opened {
        Ok(_) => assert!(missing.is_empty()),
        Err(error) => {
            let text = error.to_string();
            assert!(matches!(error, OpenError::LimitsMissing { .. }), "{text}");
            assert!(text.contains("`--dev`") && missing.iter().all(|m| text.contains(m.what)), "{text}");
        }
    }
}
