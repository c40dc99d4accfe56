//! A process does a known amount of something in a cgroup of its own; the kernel's figures have to say the same.
//!
//! The process is this test itself, started again: `work` below does what the variable says, and nothing without it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use stratos_sys::seccomp::BpfInstruction;
use stratos_trace::{CgroupId, Counters, Event, Events, GroupState, Options, Tracer, What, WindowError};

const WORK: &str = "STRATOS_TRACE_WORK";
/// Written by the process to be told from what the test harness prints.
const READY: &str = "\n#ready\n";
const DONE: &str = "\n#done\n";

/// What the process does: not a test.
#[test]
fn work() {
    let Ok(work) = std::env::var(WORK) else { return };
    let (kind, amount) = work.split_once(' ').expect("KIND AMOUNT");
    let amount: usize = amount.parse().expect("a number");
    say(READY);
    wait_for_line();
    // It is in its cgroup by now, and waits there.
    say(READY);
    wait_for_line();
    match kind {
        "getppid" => (0..amount).for_each(|_| assert!(rustix::process::getppid().is_some())),
        "fail" => (0..amount).for_each(|_| assert!(fs::metadata("/nonexistent/file").is_err())),
        "touch" => {
            let mut memory = vec![0_u8; amount];
            memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
            std::hint::black_box(&memory);
        }
        "send" => send(amount),
        "unconnected" => assert!(TcpStream::connect(("127.0.0.1", u16::try_from(amount).unwrap())).is_err()),
        "sleep" => std::thread::sleep(Duration::from_millis(amount as u64)),
        "spawn" => (0..amount).for_each(|_| assert!(Command::new("true").status().unwrap().success())),
        "refused" => {
            // With EPERM.
            filter("getpriority", 0x0005_0001);
            (0..amount).for_each(|_| assert!(rustix::process::getpriority_process(None).is_err()));
        }
        "forbidden" => forbidden(),
        "signalled" => {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::SYS).unwrap();
        }
        "powerless" => powerless(),
        "exit" => std::process::exit(i32::try_from(amount).unwrap()),
        "abort" => std::process::abort(),
        other => panic!("no work {other}"),
    }
    say(DONE);
    wait_for_line();
}

fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).expect("a pipe to the test");
}

fn wait_for_line() {
    std::io::stdin().lock().read_line(&mut String::new()).expect("a pipe from the test");
}

/// Sends to a listener of its own, which lies in the same cgroup: what is sent is received as well.
fn send(bytes: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut out = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut inside, _) = listener.accept().unwrap();
    // Fast enough that nothing has to be sent again.
    let reader = std::thread::spawn(move || std::io::copy(&mut inside, &mut std::io::sink()).unwrap());
    out.write_all(&vec![1; bytes]).unwrap();
    drop(out);
    assert_eq!(reader.join().unwrap(), bytes as u64);
}

/// Answers a call so from now on in this thread; all other calls pass.
fn filter(call: &str, answer: u32) {
    let instruction = |code, jt, jf, k| BpfInstruction { code, jt, jf, k };
    // The number is what the filter is given first.
    let filter = [
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, number_of(call)),
        instruction(0x06, 0, 0, answer),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ];
    stratos_sys::seccomp::confine_thread(&filter).unwrap();
}

fn number_of(name: &str) -> u32 {
    match stratos_sys::syscalls::find(name) {
        Some(stratos_sys::syscalls::Syscall::Number(number)) => number,
        _ => panic!("no system call {name} here"),
    }
}

/// Is killed for its next getppid(2), beside a thread that waits.
fn forbidden() {
    std::thread::spawn(|| std::thread::sleep(Duration::from_secs(60)));
    filter("getppid", 0x8000_0000);
    panic!("{:?} came back", rustix::process::getppid());
}

/// Without a capability nothing can be loaded: every group says so, and everything can be asked all the same.
fn powerless() {
    let none = rustix::thread::CapabilitySet::empty();
    let sets = rustix::thread::CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).unwrap();
    let tracer = Tracer::load(&Options::default());
    for group in tracer.groups() {
        let GroupState::Refused(reason) = &group.state else { panic!("{group:?}") };
        assert!(reason.contains("Operation not permitted"), "{reason}");
    }
    assert_eq!(tracer.groups().len(), 5);
    let cgroup = CgroupId(1);
    assert!(!tracer.watch(cgroup) && tracer.begin(cgroup).is_none() && tracer.counters(cgroup).is_none());
    tracer.forget(cgroup);
    assert!(matches!(tracer.window(&[cgroup]), Err(WindowError::Refused { .. })));
    assert!(tracer.events(|_| ()).is_err());
    assert_eq!(tracer.dropped(), stratos_trace::Dropped::default());
}

/// A tracer, and a cgroup of its own that it watches.
struct Rig {
    tracer: Tracer,
    folder: PathBuf,
    cgroup: CgroupId,
}

/// Makes a cgroup for a test.
fn make_cgroup(test: &str) -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let root = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("a cgroup v2 hierarchy");
    let name = format!("stratos-trace-{}-{test}", std::process::id());
    let folder = PathBuf::from(root.split(' ').nth(4).unwrap()).join(name);
    fs::create_dir(&folder).unwrap();
    folder
}

fn rig(test: &str) -> Option<Rig> {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "{test}: this tier needs root, and CI is meant to run it");
        eprintln!("skipped: {test}: needs root to load eBPF programs");
        return None;
    }
    let folder = make_cgroup(test);
    let cgroup = CgroupId(fs::metadata(&folder).unwrap().ino());
    let rig = Rig { tracer: Tracer::load(&Options { cgroups: vec![folder.clone()] }), folder, cgroup };
    for group in rig.tracer.groups() {
        assert!(!matches!(group.state, GroupState::Refused(_)), "{group:?}");
    }
    assert!(rig.tracer.watch(cgroup));
    Some(rig)
}

impl Rig {
    /// A process in the cgroup that waits to begin.
    fn process(&self, work: &str) -> Worker {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "work", "--nocapture", "--test-threads=1"])
            .env(WORK, work)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        wait_for(&mut output, READY);
        fs::write(self.folder.join("cgroup.procs"), child.id().to_string()).unwrap();
        let mut worker = Worker { input: child.stdin.take(), output, child };
        worker.go();
        wait_for(&mut worker.output, READY);
        worker
    }

    fn events(&self) -> (Events, Receiver<Event>) {
        let (sender, receiver) = channel();
        // Nobody listens any more when a test has failed.
        (self.tracer.events(move |event| sender.send(event).unwrap_or_default()).unwrap(), receiver)
    }

    fn counters(&self) -> Counters {
        self.tracer.counters(self.cgroup).expect("it is watched")
    }

    /// What the kernel counts while a process does its work.
    fn counted(&self, work: &str) -> Counters {
        let mut worker = self.process(work);
        let before = self.tracer.begin(self.cgroup).unwrap();
        worker.run();
        let after = self.counters();
        worker.end();
        after.since(&before)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Every process in it has been waited for, unless the test failed.
        let removed = fs::remove_dir(&self.folder);
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

struct Worker {
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    child: Child,
}

impl Worker {
    fn go(&mut self) {
        self.input.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    fn run(&mut self) {
        self.go();
        wait_for(&mut self.output, DONE);
    }

    fn end(mut self) -> ExitStatus {
        drop(self.input.take());
        // What the harness still prints.
        self.output.read_to_end(&mut Vec::new()).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            drop((self.child.kill(), self.child.wait()));
        }
    }
}

fn wait_for(output: &mut impl std::io::BufRead, mark: &str) {
    let mut line = String::new();
    while line.trim() != mark.trim() {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "the process ended before it said {mark:?}");
    }
}

/// `is` lies within so many percent of `expected`.
fn near(is: u64, expected: u64, percent: u64) -> bool {
    is.abs_diff(expected) * 100 <= expected * percent
}

#[test]
fn every_group_is_taken_here() {
    let Some(rig) = rig("every_group_is_taken_here") else { return };
    let states: Vec<_> = rig.tracer.groups().iter().map(|group| (group.name, &group.state)).collect();
    let attached = &GroupState::Attached;
    let expected = ["lifecycle", "scheduler", "faults", "network"].map(|name| (name, attached));
    assert_eq!(states[..4], expected);
    assert_eq!(states[4], ("syscalls", &GroupState::OnDemand));
    let programs = &rig.tracer.groups()[1].programs;
    assert!(programs.contains(&"switch_tasks: tp_btf/sched_switch".to_owned()), "{programs:?}");
    // One of the two ways to see a process end.
    let ends = rig.tracer.groups()[0].programs.iter().filter(|program| program.starts_with("exit_")).count();
    assert_eq!(ends, 1);
}

#[test]
fn without_capabilities_every_group_says_why() {
    let Some(rig) = rig("without_capabilities_every_group_says_why") else { return };
    let mut worker = rig.process("powerless 0");
    worker.run();
    assert!(worker.end().success());
}

#[test]
fn system_calls_are_counted_exactly() {
    let Some(rig) = rig("system_calls_are_counted_exactly") else { return };
    let mut worker = rig.process("getppid 12345");
    let window = rig.tracer.window(&[rig.cgroup]).unwrap();
    assert!(matches!(rig.tracer.window(&[rig.cgroup]), Err(WindowError::Open)));
    worker.run();
    let all = window.calls(rig.cgroup).unwrap();
    let table = window.close();
    // Those that wait now were not counted yet, and end only after the window.
    assert_eq!(all, table.calls.iter().map(|call| call.count).sum::<u64>());
    let call = table.get("getppid").expect("it was made");
    assert_eq!((call.count, call.errors), (12345, 0), "{table:?}");
    assert_eq!(call.buckets.iter().sum::<u64>(), 12345);
    // All of them lie in buckets that the total allows.
    let least: u64 = call.buckets.iter().enumerate().skip(1).map(|(i, n)| n << i).sum();
    assert!(call.total_ns >= least && call.total_ns < 2 * least + 12345, "{call:?}");
    // Nothing is counted without a window, and nothing is left of the first.
    let window = rig.tracer.window(&[rig.cgroup]).unwrap();
    assert_eq!(window.close().get("getppid"), None);
    worker.end();
}

#[test]
fn failed_system_calls_are_told_apart() {
    let Some(rig) = rig("failed_system_calls_are_told_apart") else { return };
    let mut worker = rig.process("fail 321");
    let window = rig.tracer.window(&[rig.cgroup]).unwrap();
    worker.run();
    let table = window.close();
    let statx = table.get("statx").expect("metadata(2) is statx(2)");
    assert_eq!((statx.count, statx.errors), (321, 321));
    assert_eq!(rig.tracer.dropped().syscalls, 0);
    worker.end();
}

#[test]
fn system_calls_that_a_filter_refuses_are_counted_apart() {
    let Some(rig) = rig("system_calls_that_a_filter_refuses_are_counted_apart") else { return };
    let mut worker = rig.process("refused 77");
    let window = rig.tracer.window(&[rig.cgroup]).unwrap();
    worker.run();
    let table = window.close();
    let call = table.get("getpriority").expect("it was tried");
    assert_eq!((call.denied, call.count, call.errors), (77, 0, 0));
    assert_eq!(table.calls.iter().map(|call| call.denied).sum::<u64>(), 77, "{table:?}");
    worker.end();
}

#[test]
fn bytes_sent_and_received_are_those_of_the_sockets() {
    const BYTES: u64 = 16 << 20;
    let Some(rig) = rig("bytes_sent_and_received_are_those_of_the_sockets") else { return };
    let counted = rig.counted(&format!("send {BYTES}"));
    assert!(near(counted.tx_bytes, BYTES, 2), "{counted:?}");
    assert!(near(counted.rx_bytes, BYTES, 2), "{counted:?}");
    assert_eq!((counted.connects, counted.connect_failures), (1, 0));
    assert!(counted.connect_ns > 0 && counted.rx_packets > 0 && counted.tx_packets > 0, "{counted:?}");
}

#[test]
fn refused_connections_are_counted_as_such() {
    let Some(rig) = rig("refused_connections_are_counted_as_such") else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let counted = rig.counted(&format!("unconnected {port}"));
    assert_eq!((counted.connects, counted.connect_failures, counted.connect_ns), (0, 1, 0));
}

#[test]
fn memory_that_is_touched_is_the_high_water_mark() {
    const BYTES: u64 = 64 << 20;
    let Some(rig) = rig("memory_that_is_touched_is_the_high_water_mark") else { return };
    let counted = rig.counted(&format!("touch {BYTES}"));
    // The harness itself has some hundred KiB.
    assert!(near(counted.memory_peak_kib, BYTES >> 10, 5), "{counted:?}");
    // Each page is touched once; huge pages are faulted in whole.
    let pages = BYTES / rustix::param::page_size() as u64;
    assert!(counted.faults >= pages / 512 && counted.faults <= pages + pages / 20, "{counted:?}");
}

/// Maps a file that is not in memory, reads a byte of some of its pages, and prints how many major faults its own
/// resource usage tells of.
const READER: &str = "
import mmap, os, resource, sys
sys.stdin.readline()
file = os.open(sys.argv[1], os.O_RDWR)
os.write(file, b'x' * (16 << 20))
os.fsync(file)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
pages = mmap.mmap(file, 0, prot=mmap.PROT_READ)
pages.madvise(mmap.MADV_RANDOM)
before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
for at in range(0, len(pages), 1 << 20):
    pages[at]
last = bytearray(64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before)
";

#[test]
fn major_faults_are_those_of_getrusage() {
    let Some(rig) = rig("major_faults_are_those_of_getrusage") else { return };
    // On a disk, which /tmp may not be.
    let file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut child = Command::new("python3")
        .args(["-c", READER])
        .arg(file.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    fs::write(rig.folder.join("cgroup.procs"), child.id().to_string()).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let expected: u64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    let counted = rig.counters().major_faults;
    assert!(expected >= 16, "{expected}: the file is read from a disk");
    // Python itself may have had some before.
    assert!(counted >= expected && counted <= expected + 8, "{counted}, not {expected}");
}

#[test]
fn sleep_is_off_cpu_time_and_only_that() {
    let Some(rig) = rig("sleep_is_off_cpu_time_and_only_that") else { return };
    let mut worker = rig.process("sleep 400");
    // It waits to begin for longer than all that follows, which is nobody's.
    let mut other = rig.process("sleep 800");
    other.run();
    other.end();
    let (began, before) = (Instant::now(), rig.tracer.begin(rig.cgroup).unwrap());
    worker.run();
    let slept = rig.counters().since(&before).off_cpu_ns / 1_000_000;
    let all = began.elapsed().as_millis();
    worker.end();
    assert!(slept >= 400 && u128::from(slept) <= all, "{slept} ms of {all}");
}

#[test]
fn processes_and_their_ends_are_counted_and_told() {
    let Some(rig) = rig("processes_and_their_ends_are_counted_and_told") else { return };
    let (_reader, events) = rig.events();
    let counted = rig.counted("spawn 7");
    assert_eq!(
        (counted.processes, counted.execs, counted.exits, counted.killed),
        (7, 7, 7, 0),
        "{counted:?}"
    );
    for (work, code, signal) in [("exit 3", Some(3), None), ("abort 0", None, Some(6))] {
        let mut worker = rig.process(work);
        let pid = worker.child.id();
        worker.go();
        let status = worker.end();
        assert_eq!((status.code(), status.signal()), (code, signal));
        let end = std::iter::from_fn(|| events.recv_timeout(Duration::from_secs(10)).ok())
            .find(|event| event.pid == pid && matches!(event.what, What::Exit { .. }))
            .expect("its end is told");
        assert_eq!(end.cgroup, rig.cgroup);
        let What::Exit { code: told, signal: by, out_of_memory, max_rss_kib } = end.what else {
            unreachable!()
        };
        assert_eq!((told, by, out_of_memory), (code, signal, false));
        assert!(max_rss_kib > 500, "{max_rss_kib} KiB");
    }
    assert_eq!(rig.tracer.dropped().events, 0);
}

#[test]
fn a_forbidden_system_call_is_told_by_number() {
    let Some(rig) = rig("a_forbidden_system_call_is_told_by_number") else { return };
    let (_reader, events) = rig.events();
    let mut worker = rig.process("forbidden 0");
    let pid = worker.child.id();
    worker.go();
    assert_eq!(worker.end().signal(), Some(31));
    let denied = std::iter::from_fn(|| events.recv_timeout(Duration::from_secs(10)).ok())
        .find(|event| matches!(event.what, What::Denied { .. }))
        .expect("the call is told");
    assert_eq!(
        (denied.pid, denied.what),
        (pid, What::Denied { number: number_of("getppid"), foreign: false })
    );
}

#[test]
fn a_signal_that_a_process_sends_tells_of_no_system_call() {
    let Some(rig) = rig("a_signal_that_a_process_sends_tells_of_no_system_call") else { return };
    let (_reader, events) = rig.events();
    let mut worker = rig.process("signalled 0");
    let pid = worker.child.id();
    worker.go();
    assert_eq!(worker.end().signal(), Some(31));
    loop {
        let event = events.recv_timeout(Duration::from_secs(10)).expect("its end is told");
        assert!(!matches!(event.what, What::Denied { .. }), "{event:?}");
        if event.pid == pid && matches!(event.what, What::Exit { .. }) {
            break;
        }
    }
}

#[test]
fn a_window_over_more_cgroups_than_it_has_places_for_counts_the_first() {
    let Some(rig) = rig("a_window_over_more_cgroups_than_it_has_places_for_counts_the_first") else { return };
    let mut worker = rig.process("getppid 33");
    // Of cgroups that there are not: nothing is counted, but each takes a place.
    let all: Vec<_> = std::iter::once(rig.cgroup).chain((1..70).map(|id| CgroupId(u64::MAX - id))).collect();
    let window = rig.tracer.window(&all).unwrap();
    assert_eq!(window.left_out(), 6);
    assert!(window.has(all[63]) && !window.has(all[64]));
    assert!(matches!(rig.tracer.window(&[CgroupId(1)]), Err(WindowError::Full)), "not one has a place");
    worker.run();
    assert_eq!(window.read(rig.cgroup).get("getppid").map(|call| call.count), Some(33));
    assert_eq!(window.read(all[1]), stratos_trace::SyscallTable::default());
    assert_eq!(window.close().get("getppid").map(|call| call.count), Some(33));
    // All places are given back.
    assert_eq!(rig.tracer.window(&all[6..]).unwrap().left_out(), 0);
    worker.end();
}

#[test]
fn what_is_not_watched_is_not_counted() {
    let Some(rig) = rig("what_is_not_watched_is_not_counted") else { return };
    let mut worker = rig.process("getppid 10");
    rig.tracer.forget(rig.cgroup);
    worker.run();
    assert_eq!(rig.tracer.counters(rig.cgroup), None);
    assert!(rig.tracer.watch(rig.cgroup));
    worker.end();
    // 4,096 are watched at most; what is beyond is counted.
    let ids: Vec<CgroupId> = (1..=5000).map(|id| CgroupId((1 << 40) + id)).collect();
    let taken = ids.iter().filter(|id| rig.tracer.watch(**id)).count();
    ids.iter().for_each(|id| rig.tracer.forget(*id));
    assert_eq!((taken, rig.tracer.dropped().cgroups), (4095, 905));
}
