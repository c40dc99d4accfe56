//! Machines and their owners.

use std::io::BufRead as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use stratos_tests::{Session, Workshop};
use stratos_types::KernelChoice;
use stratos_vm::{Boot, Machine, VmError};

/// How long the end of a process may take to show.
const SOON: Duration = Duration::from_secs(20);

/// A machine from the snapshot, by the command line; its process, and what it printed.
fn boot(session: &Session) -> (std::process::Child, Value) {
    let mut command = session.command("stratos");
    command.args(["image", "boot", "--from-snapshot", "--json"]);
    command.env("STRATOS_CACHE", stratos_tests::cache_dir()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("stratos starts");
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("a pipe");
    std::io::BufReader::new(stdout).read_line(&mut line).expect("text");
    let said = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
    (child, said)
}

fn is_gone(node: &str) -> bool {
    let port = node.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let begun = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
        if begun.elapsed() > SOON {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_boots_serves_and_switches_off() {
    let test = "the_command_line_boots_serves_and_switches_off";
    let Some(workshop) = Workshop::open(test, KernelChoice::Debian).await else { return };
    drop(workshop.restore().await);
    let session = Session::without_node();
    let (mut child, said) = boot(&session);
    let text = |key: &str| said[key].as_str().unwrap_or_else(|| panic!("{said}")).to_owned();
    let health = session.json(&[
        "node",
        "health",
        "--node",
        &text("node"),
        "--ca",
        &text("ca"),
        "--token-file",
        &text("token_file"),
    ]);
    assert_eq!(health["status"], "ok", "{health}");
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    let status = child.wait().expect("it ends");
    assert!(status.success(), "{status}");
    assert!(is_gone(&text("node")));
    let (mut child, said) = boot(&session);
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert!(is_gone(said["node"].as_str().expect("an address")), "QEMU ends with a killed owner");
}

#[tokio::test]
async fn what_is_wrong_with_a_machine_is_told() {
    let test = "what_is_wrong_with_a_machine_is_told";
    let Some(workshop) = Workshop::open(test, KernelChoice::Debian).await else { return };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let error = workshop.machine().port(port).start().await.expect_err("the port is taken");
    assert!(matches!(error, VmError::PortTaken { .. }), "{error}");
    // Without an initramfs the kernel finds no root, and gives up.
    let kernel = workshop.image().file("vmlinuz").expect("a kernel");
    let boot = Boot::Direct { kernel, initramfs: None, cmdline: "panic=-1 loglevel=4".into() };
    let machine = workshop.fit(Machine::new(boot)).start().await.expect("QEMU starts");
    let error = machine.ready(Duration::from_secs(120)).await.expect_err("it does not boot");
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(source.contains("Unable to mount root"), "{error}: {source}");
}
