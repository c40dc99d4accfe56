//! What a function may take of the machine, with all of the kernel's cgroups.

use serde_json::{Value, json};
use stratos_api::ErrorCode;
use stratos_tests::{Guest, Package, Workshop};
use stratos_types::{KernelChoice, NodeConfig};

use crate::{greets, native, restarts};

/// Does what the event says.
const GLUTTON: &str = r#"
import os, time

def handler(event, context):
    return globals()[event["do"]](event)

def hold(event):
    return len(b"\x01" * (event["mib"] << 20))

def fork_on(event):
    stay, go = os.pipe()
    children = []
    try:
        while True:
            child = os.fork()
            if child == 0:
                os.close(go)
                os.read(stay, 1)
                os._exit(0)
            children.append(child)
    except OSError as error:
        refused = error.errno
    os.close(go)
    for child in children:
        os.waitpid(child, 0)
    return {"children": len(children), "errno": refused}

def burn(event):
    end = time.monotonic() + event["seconds"]
    children = []
    for _ in range(event["processes"] - 1):
        child = os.fork()
        if child == 0:
            while time.monotonic() < end:
                pass
            os._exit(0)
        children.append(child)
    began, used = time.monotonic(), os.times()
    while time.monotonic() < end:
        pass
    for child in children:
        os.waitpid(child, 0)
    wall, now = time.monotonic() - began, os.times()
    spent = sum(now[:4]) - sum(used[:4])
    return {"share": spent / wall, "cpus": sorted(os.sched_getaffinity(0))}
"#;

fn glutton(name: &str, settings: &str) -> Package {
    Package::python(name, GLUTTON).setting(&format!("timeout = \"120s\"\n{settings}"))
}

/// The instance that answered last.
async fn instance(guest: &Guest, function: &str) -> String {
    guest.records(function).await.remove(0).instance.expect("an instance answered")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_beyond_its_memory_or_its_processes_harms_nobody_else() {
    let test = "a_function_beyond_its_memory_or_its_processes_harms_nobody_else";
    let Some(workshop) = Workshop::open(test, KernelChoice::Debian).await else { return };
    let guest = workshop.restore().await;
    guest.deploy(&native()).await;
    guest.deploy(&glutton("glutton", "memory = \"128MB\"")).await;
    greets(&guest).await;
    let neighbour = instance(&guest, "hello-native").await;

    let hold = |mib: u64| json!({ "do": "hold", "mib": mib }).to_string();
    assert_eq!(guest.invoke_ok("glutton", hold(64)).await, 64 << 20);
    let answer = guest.invoke("glutton", hold(256)).await;
    assert_eq!(answer.error().code, ErrorCode::FunctionOutOfMemory, "{}", answer.text());
    assert_eq!(guest.invoke_ok("glutton", hold(1)).await, 1 << 20, "the next instance is well");

    let forks = guest.invoke_ok("glutton", json!({ "do": "fork_on" }).to_string()).await;
    assert_eq!(forks["errno"], rustix::io::Errno::AGAIN.raw_os_error(), "{forks}");
    let children = forks["children"].as_u64().expect("a number");
    assert!((200..256).contains(&children), "its limit is 256 processes: {forks}");

    greets(&guest).await;
    assert_eq!(instance(&guest, "hello-native").await, neighbour, "the neighbour lives on");
    assert_eq!(restarts(&guest).await, 0, "and the agent");
}

#[tokio::test(flavor = "multi_thread")]
async fn hogs_are_throttled_and_keep_off_reserved_cpus() {
    let test = "hogs_are_throttled_and_keep_off_reserved_cpus";
    let Some(workshop) = Workshop::open(test, KernelChoice::Debian).await else { return };
    let mut config = NodeConfig::default();
    config.cpu.reserved = Some("1".into());
    let mut guest = workshop.boot(workshop.with_shell(workshop.machine()).config(config)).await;
    guest.deploy(&glutton("throttled", "cpu = \"0.3\"")).await;
    guest.deploy(&glutton("hog", "")).await;
    guest.deploy(&glutton("reserved", "cpu_class = \"reserved\"")).await;
    let burn = json!({ "do": "burn", "seconds": 5, "processes": 2 }).to_string();
    let asked: Value = guest.invoke_ok("throttled", burn.clone()).await;
    let share = asked["share"].as_f64().expect("a number");
    // It may use up one period's share at once, before and after.
    assert!((0.15..0.45).contains(&share), "{share:.2} of a CPU instead of 0.30");

    let before = cpu1_ticks(&mut guest).await;
    let asked: Value = guest.invoke_ok("hog", burn.clone()).await;
    assert_eq!(asked["cpus"], json!([0]), "{asked}");
    let spent = cpu1_ticks(&mut guest).await - before;
    // The hog had five seconds of CPU 0, 500 ticks; the kernel does a little of its own everywhere.
    assert!(spent < 100, "{spent} ticks on the reserved CPU");

    let asked: Value = guest.invoke_ok("reserved", burn).await;
    assert_eq!(asked["cpus"], json!([1]), "{asked}");
}

/// User time that was spent on CPU 1, in hundredths of a second (proc_stat(5)).
async fn cpu1_ticks(guest: &mut Guest) -> u64 {
    let stat = guest.shell("cat /proc/stat").await;
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu1 ")).unwrap_or_else(|| panic!("{stat}"));
    line.split_whitespace().next().and_then(|user| user.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}
