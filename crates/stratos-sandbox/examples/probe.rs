//! The program that the tests of this crate run inside a sandbox: says what it sees, then does what it is told.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;

const PARK: &str = "/proc/self/fd/3";
const STATUS: &str = "/proc/self/fd/4";

fn main() {
    let told = std::env::args().nth(1).unwrap_or_default();
    match told.as_str() {
        "report" => report(),
        "park" => park(),
        "serve" => serve(),
        "orphan" => orphan(),
        "call" => call(),
        "out" => out(),
        "files" => files(),
        "forks" => forks(),
        "sleep" => std::thread::sleep(std::time::Duration::from_secs(600)),
        "exit" => std::process::exit(7),
        "memory" => memory(),
        other => {
            eprintln!("no such probe: {other}");
            std::process::exit(2);
        }
    }
}

fn status(byte: u8) {
    fs::OpenOptions::new().write(true).open(STATUS).unwrap().write_all(&[byte]).unwrap();
}

/// Blocks until the park pipe is closed; prints what came.
fn park() {
    status(b'P');
    let mut frame = String::new();
    fs::File::open(PARK).unwrap().read_to_string(&mut frame).unwrap();
    println!("released {frame}");
}

fn report() {
    status(b'R');
    let mut fds: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let number: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
            let target = fs::read_link(entry.path()).ok()?;
            let kind = target.to_string_lossy().split(':').next().unwrap().to_owned();
            // The directory that is being listed is a descriptor too.
            (!kind.contains("/fd")).then(|| format!("{number}={kind}"))
        })
        .collect();
    fds.sort();
    println!("fds {}", fds.join(" "));
    println!("pid {}", std::process::id());
    println!("cwd {}", std::env::current_dir().unwrap().display());
    println!("hostname {}", fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
    println!("cgroup {}", fs::read_to_string("/proc/self/cgroup").unwrap().lines().last().unwrap());
    let status = fs::read_to_string("/proc/self/status").unwrap();
    for name in [
        "Umask",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "SigBlk",
        "SigIgn",
        "Groups",
    ] {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        println!("{name} {}", value.trim());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(4);
        let (point, options) = (fields.next().unwrap(), fields.next().unwrap());
        println!("mount {point} {}", options.split(',').next().unwrap());
    }
    let mut env: Vec<_> = std::env::vars().map(|(key, value)| format!("{key}={value}")).collect();
    env.sort();
    println!("env {}", env.join(" "));
    park();
}

fn serve() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 8080)).unwrap();
    status(b'P');
    let (mut stream, _) = listener.accept().unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).unwrap();
    word.reverse();
    stream.write_all(&word).unwrap();
    park();
}

/// Connects to the Runtime API's address.
fn call() {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, 9001)).unwrap();
    stream.write_all(b"hello").unwrap();
    // The way out must not exist: an address of documentation (RFC 5737), no route to it.
    let out = TcpStream::connect((Ipv4Addr::new(192, 0, 2, 1), 80)).unwrap_err();
    println!("out {:?}", out.kind());
    park();
}

/// Connects to the address in the second argument, and to the port after it, which no rule opens.
fn out() {
    let address: std::net::SocketAddrV4 = std::env::args().nth(2).unwrap().parse().unwrap();
    let mut answer = String::new();
    TcpStream::connect(address).unwrap().read_to_string(&mut answer).unwrap();
    println!("answer {answer}");
    let closed = std::net::SocketAddrV4::new(*address.ip(), address.port() + 1);
    println!("closed {:?}", TcpStream::connect(closed).map(drop).map_err(|error| error.kind()));
}

/// Leaves a process behind, and ends.
#[expect(clippy::zombie_processes, reason = "that it is not waited for is what the test is about")]
fn orphan() {
    let exe = std::env::current_exe().unwrap();
    let child = Command::new(exe).arg("sleep").spawn().unwrap();
    println!("child {}", child.id());
    park();
}

fn files() {
    for path in ["/x", "/var/task/x", "/dev/x", "/proc/x", "/etc/x", "/tmp/x"] {
        let result = fs::write(path, "x").map_err(|error| error.kind());
        println!("write {path} {result:?}");
    }
    let filled = fs::write("/tmp/big", vec![0; 4 << 20]).map_err(|error| error.kind());
    println!("fill {filled:?}");
    for path in ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"] {
        let opened = fs::OpenOptions::new().read(true).write(true).open(path).map(drop);
        println!("device {path} {:?}", opened.map_err(|error| error.kind()));
    }
    println!("keys {:?}", fs::read("/proc/keys").map(|bytes| bytes.len()).map_err(|error| error.kind()));
    println!("meminfo {}", fs::read_to_string("/proc/meminfo").unwrap().starts_with("MemTotal"));
}

fn forks() {
    let exe = std::env::current_exe().unwrap();
    let mut children = Vec::new();
    let refused = loop {
        match Command::new(&exe).arg("sleep").spawn() {
            Ok(child) => children.push(child),
            Err(error) => break error,
        }
        if children.len() > 64 {
            println!("forks unlimited");
            return;
        }
    };
    println!("forks {} {:?}", children.len(), refused.kind());
}

/// Takes 32 MiB and keeps it.
fn memory() {
    let taken = vec![1_u8; 32 << 20];
    println!("taken {}", std::hint::black_box(&taken).len());
    park();
    drop(taken);
}
