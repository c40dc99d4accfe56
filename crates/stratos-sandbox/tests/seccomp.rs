//! The shipped profiles in force: what they refuse is refused by the kernel, what they allow works.
//!
//! A filter cannot be taken off again, so each test starts this program anew to run only `confined`, which puts the
//! filter on itself and then becomes the program under test.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink, socket_with};
use stratos_sandbox::seccomp::SeccompFilter;

const PROFILE: &str = "STRATOS_TEST_PROFILE";
const PROGRAM: &str = "STRATOS_TEST_PROGRAM";
const WORKLOADS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/workloads");

/// Runs `program` (one argument per line; empty for the probes of this file) under `profile`.
fn confine(profile: &str, program: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "confined", "--ignored", "--nocapture"])
        .env(PROFILE, profile)
        .env(PROGRAM, program)
        .output()
        .unwrap()
}

#[track_caller]
fn succeeds(what: &str, output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{what}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[test]
#[ignore = "the confined half of the other tests"]
fn confined() {
    let filter = SeccompFilter::for_runtime(&std::env::var(PROFILE).unwrap()).unwrap();
    let start = Instant::now();
    stratos_sys::seccomp::confine_thread(filter.instructions()).unwrap();
    let took = start.elapsed();
    let program = std::env::var(PROGRAM).unwrap();
    let mut words = program.lines();
    if let Some(program) = words.next() {
        panic!("{}", Command::new(program).args(words).exec());
    }
    probes();
    println!("installed {} instructions in {took:?}", filter.instructions().len());
}

/// Calls with known answers, made by the confined process itself.
fn probes() {
    let mount = rustix::mount::mount("none", "/tmp", "tmpfs", rustix::mount::MountFlags::empty(), None);
    assert_eq!(mount, Err(Errno::PERM));
    assert_eq!(rustix::thread::set_name(c"renamed"), Ok(()));
    assert_eq!(rustix::process::chroot("/"), Err(Errno::PERM));
    let mut byte = [1];
    let zero = std::fs::File::open("/dev/zero").unwrap();
    assert_eq!(rustix::io::read(&zero, &mut byte), Ok(1));

    let socket = |family, kind, protocol| {
        socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, protocol).map(drop)
    };
    for (family, kind, protocol, expected) in [
        (AddressFamily::INET, SocketType::STREAM, None, Ok(())),
        (AddressFamily::INET, SocketType::DGRAM, None, Ok(())),
        (AddressFamily::UNIX, SocketType::SEQPACKET, None, Ok(())),
        (AddressFamily::NETLINK, SocketType::RAW, None, Ok(())),
        (AddressFamily::NETLINK, SocketType::RAW, Some(netlink::AUDIT), Err(Errno::PERM)),
        (AddressFamily::INET, SocketType::RAW, Some(rustix::net::ipproto::ICMP), Err(Errno::PERM)),
        (AddressFamily::INET6, SocketType::RAW, Some(rustix::net::ipproto::ICMPV6), Err(Errno::PERM)),
        (AddressFamily::INET, SocketType::DGRAM, Some(rustix::net::ipproto::ICMP), Err(Errno::PERM)),
        (AddressFamily::PACKET, SocketType::RAW, None, Err(Errno::PERM)),
        (AddressFamily::PACKET, SocketType::DGRAM, None, Err(Errno::PERM)),
        (AddressFamily::from_raw(38), SocketType::SEQPACKET, None, Err(Errno::AFNOSUPPORT)), // AF_ALG
        (AddressFamily::from_raw(40), SocketType::STREAM, None, Err(Errno::AFNOSUPPORT)),    // AF_VSOCK
    ] {
        assert_eq!(socket(family, kind, protocol), expected, "{family:?} {kind:?} {protocol:?}");
    }
    // Threads, children and listeners still work: the C library goes from clone3 to clone.
    assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
    assert!(Command::new("/bin/true").status().unwrap().success());
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
}

#[test]
fn probes_get_the_profiles_answers() {
    for profile in ["native", "node24", "python3.13", "build"] {
        let text = succeeds(profile, &confine(profile, ""));
        println!("{profile}: {}", text.lines().find(|line| line.contains("installed")).unwrap());
    }
}

/// Installing costs at each cold start: this prints the figure, from threads that end with their filters.
#[test]
fn installing_is_quick() {
    let filter = SeccompFilter::for_runtime("native").unwrap();
    let mut took: Vec<Duration> = (0..40)
        .map(|_| {
            let instructions = filter.instructions().to_vec();
            let install = move || {
                let start = Instant::now();
                stratos_sys::seccomp::confine_thread(&instructions).unwrap();
                start.elapsed()
            };
            std::thread::spawn(install).join().unwrap()
        })
        .collect();
    took.sort();
    println!("{} instructions: p50 {:?}, p95 {:?}", filter.instructions().len(), took[20], took[37]);
    assert!(took[20] < Duration::from_millis(50), "{:?}", took[20]);
}

/// Raw system calls with arguments no wrapper would pass, through Python.
#[test]
#[cfg(target_arch = "x86_64")]
fn raw_calls_get_the_profiles_answers() {
    let Some(python) = found("raw_calls_get_the_profiles_answers", "python3") else { return };
    let script = r#"
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(*(ctypes.c_long(a) for a in (number, *args)))
    return errno.errorcode.get(ctypes.get_errno(), "?") if result < 0 else "ok"
cases = [
    ("io_uring_setup", "ENOSYS", 425, 8, 0), ("io_uring_enter", "ENOSYS", 426, 0), ("clone3", "ENOSYS", 435, 0, 88),
    ("mount", "EPERM", 165, 0, 0, 0), ("umount2", "EPERM", 166, 0), ("pivot_root", "EPERM", 155, 0, 0),
    ("unshare", "EPERM", 272, 0), ("setns", "EPERM", 308, -1, 0), ("ptrace", "EPERM", 101, 0, 0),
    ("process_vm_readv", "EPERM", 310, 1), ("bpf", "EPERM", 321, 0, 0, 0), ("perf_event_open", "EPERM", 298, 0),
    ("keyctl", "EPERM", 250, 0), ("add_key", "EPERM", 248, 0), ("kexec_load", "EPERM", 246, 0),
    ("init_module", "EPERM", 175, 0), ("reboot", "EPERM", 169, 0), ("swapon", "EPERM", 167, 0),
    ("userfaultfd", "EPERM", 323, 0), ("open_by_handle_at", "EPERM", 304, -1, 0, 0), ("setuid", "EPERM", 105, 0),
    ("clone NEWUSER", "EPERM", 56, 0x10000000 | 17, 0, 0, 0, 0), ("clone NEWNET", "EPERM", 56, 0x40000000 | 17, 0),
    ("clone NEWNS, high bits", "EPERM", 56, 0x100020011, 0), ("mknod block", "EPERM", 133, 0, 0o60600, 0),
    ("ioctl TIOCSTI", "EPERM", 16, 0, 0x5412, 0), ("ioctl TIOCSTI, high bits", "EPERM", 16, 0, 0x7_0000_5412, 0),
    ("ioctl TIOCLINUX", "EPERM", 16, 0, 0x541c, 0), ("ioctl other", "ENOTTY", 16, 0, 0x1234, 0),
    ("prctl SET_MM", "EINVAL", 157, 35, 0), ("personality", "EPERM", 135, 0x0040000), ("personality", "ok", 135, 0xffffffff),
    ("setsockopt ATTACH_BPF", "EPERM", 54, -1, 1, 50, 0, 0), ("setsockopt", "EBADF", 54, -1, 1, 9, 0, 0),
    ("inotify_add_watch", "ENOSPC", 254, -1, 0, 1), ("fcntl F_NOTIFY", "EINVAL", 72, 0, 1026, 0),
    ("fcntl F_NOTIFY, high bits", "EINVAL", 72, 0, 0x1_0000_0402, 0), ("fcntl F_GETFD", "ok", 72, 1, 1, 0),
    ("x32 getpid", "ENOSYS", 0x40000000 | 39), ("no such call", "ENOSYS", 600), ("getpid", "ok", 39),
    ("socket raw", "EPERM", 41, 2, 3, 1), ("socket mptcp", "EPERM", 41, 2, 1, 262), ("socketpair inet", "EAFNOSUPPORT", 53, 2, 1, 0, 0),
]
wrong = [(name, want, got) for name, want, *args in cases if (got := call(*args)) != want]
print(wrong)
sys.exit(bool(wrong))
"#;
    for profile in ["native", "node24", "python3.13", "build"] {
        // Lines separate arguments, so the script travels as one line.
        let script = format!("exec({:?})", script.to_owned());
        succeeds(profile, &confine(profile, &format!("{python}\n-I\n-c\n{script}")));
    }
}

#[test]
fn python_works_confined() {
    let Some(python) = found("python_works_confined", "python3") else { return };
    for profile in ["python3.13", "build", "native"] {
        let text = succeeds(profile, &confine(profile, &format!("{python}\n-I\n{WORKLOADS}/python.py")));
        assert!(text.contains("workload done"), "{text}");
    }
}

#[test]
fn node_works_confined() {
    let Some(node) = found("node_works_confined", "node") else { return };
    for profile in ["node24", "build", "native"] {
        let text = succeeds(profile, &confine(profile, &format!("{node}\n{WORKLOADS}/node.mjs")));
        assert!(text.contains("workload done"), "{text}");
    }
}

/// The path of a program, or `None` after naming the test that goes without. The runtimes' own versions are tested in
/// their layers; the host's, where it has them, are tested here.
fn found(test: &str, program: &str) -> Option<String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path
        .split(':')
        .map(|folder| format!("{folder}/{program}"))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok());
    if found.is_none() {
        eprintln!("SKIPPED {test}: no {program} on this machine");
    }
    found
}
