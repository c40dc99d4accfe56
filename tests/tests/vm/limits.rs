//! What a function may take, seen from its outside.

use std::path::PathBuf;

use http::Method;
use serde_json::{Value, json};
use stratos_api::ErrorCode;
use stratos_api::client::Call;
use stratos_tests::machine::Machine;
use stratos_tests::{Node, Package, package};

use crate::{MACHINE, need_controllers};

const MIB: u64 = 1 << 20;

/// Does what the event says.
const GLUTTON: &str = r#"
import os, signal

def handler(event, context):
    return globals()[event["do"]](event.get("mib"))

def hold(mib):
    return len(b"\x01" * (mib << 20))

def hold_in_child(mib):
    child = os.fork()
    if child == 0:
        hold(mib)
        os._exit(0)
    os.waitpid(child, 0)
    return "the parent outlived it"

def fork_on(mib):
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

def leave_a_daemon(mib):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                signal.pause()
        os._exit(0)
    return "left"
"#;

async fn node() -> Node {
    let node = Node::builder().with_limits().start().await;
    assert!(!node.log().contains("controller"), "{}", node.log());
    node
}

/// A node without `--dev`, and on it the glutton with 96 MiB.
async fn node_with_glutton() -> Node {
    let node = node().await;
    node.deploy(&Package::python("glutton", GLUTTON).setting("memory = \"96MB\"\ntimeout = \"60s\"")).await;
    node
}

fn ask(what: &str, mib: u64) -> String {
    json!({ "do": what, "mib": mib }).to_string()
}

/// The cgroup of the instance that answered last.
async fn leaf(node: &Node, function: &str) -> PathBuf {
    let record = node.records(function).await.remove(0);
    let instance = record.instance.expect("an instance answered");
    let bases =
        std::fs::read_dir("/sys/fs/cgroup").expect("cgroup v2").map(|entry| entry.expect("a name").path());
    let mut leaves = bases.map(|base| base.join(&instance)).filter(|leaf| leaf.exists());
    leaves.next().unwrap_or_else(|| panic!("no cgroup {instance}"))
}

fn read(dir: &std::path::Path, file: &str) -> String {
    let text = std::fs::read_to_string(dir.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    text.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_answer() {
    if !need_controllers("the_examples_answer") {
        return;
    }
    let _alone = MACHINE.lock().await;
    let node = node().await;
    let native = std::fs::read(package::native_example().expect("it builds")).expect("it is there");
    node.deploy(&Package::folder("examples/hello-native").executable("bootstrap", native)).await;
    node.deploy(&Package::folder("examples/hello-python")).await;
    for name in ["hello-native", "hello-python"] {
        let answer = node.invoke_ok(name, r#"{"name":"machine"}"#).await;
        assert_eq!(answer["message"], "Hello, machine!", "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_has_its_limits() {
    if !need_controllers("an_instance_has_its_limits") {
        return;
    }
    let _alone = MACHINE.lock().await;
    let node = node_with_glutton().await;
    node.invoke_ok("glutton", ask("hold", 1)).await;
    let leaf = leaf(&node, "glutton").await;
    let base = leaf.parent().expect("the node's");
    for dir in [base.parent().expect("the root"), base] {
        let passed_on = read(dir, "cgroup.subtree_control");
        for controller in ["cpu", "memory", "pids"] {
            assert!(passed_on.split(' ').any(|c| c == controller), "{}: {passed_on}", dir.display());
        }
    }
    assert_eq!(read(base, "cgroup.procs"), "", "the node's cgroup holds leaves only");
    for (file, expected) in [
        ("memory.max", (96 * MIB).to_string().as_str()),
        ("memory.oom.group", "1"),
        ("memory.swap.max", "0"),
        ("pids.max", "256"),
        ("cpu.max", "max 100000"),
        ("cpu.weight", "100"),
    ] {
        assert_eq!(read(&leaf, file), expected, "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_up_to_the_limit_is_the_functions_and_counted() {
    if !need_controllers("memory_up_to_the_limit_is_the_functions_and_counted") {
        return;
    }
    let _alone = MACHINE.lock().await;
    let node = node_with_glutton().await;
    assert_eq!(node.invoke_ok("glutton", ask("hold", 1)).await, MIB);
    assert_eq!(node.invoke_ok("glutton", ask("hold", 48)).await, 48 * MIB);
    let records = node.records("glutton").await;
    let peak = |i: usize| records[i].memory_peak_kb.expect("the kernel counts") * 1024;
    assert!(peak(1) < 48 * MIB, "before: {}", peak(1));
    assert!((48 * MIB..=96 * MIB).contains(&peak(0)), "after: {}", peak(0));
    assert_eq!(read(&leaf(&node, "glutton").await, "memory.peak"), peak(0).to_string());
    assert!(records[0].cpu_us.is_some_and(|us| us > 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_beyond_the_limit_ends_the_whole_instance() {
    if !need_controllers("memory_beyond_the_limit_ends_the_whole_instance") {
        return;
    }
    let _alone = MACHINE.lock().await;
    let node = node_with_glutton().await;
    for what in ["hold", "hold_in_child"] {
        let answer = node.invoke("glutton", ask(what, 256)).await;
        assert_eq!(answer.error().code, ErrorCode::FunctionOutOfMemory, "{what}: {}", answer.text());
        let record = node.records("glutton").await.remove(0);
        assert_eq!(record.outcome, "function_out_of_memory");
        assert_eq!(node.invoke_ok("glutton", ask("hold", 1)).await, MIB, "the next one is well");
        assert!(node.records("glutton").await[0].cold, "in an instance of its own");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forks_beyond_the_limit_fail_and_the_instance_goes_on() {
    if !need_controllers("forks_beyond_the_limit_fail_and_the_instance_goes_on") {
        return;
    }
    let _alone = MACHINE.lock().await;
    let node = node().await;
    let package = Package::python("glutton", GLUTTON).setting("memory = \"512MB\"\ntimeout = \"120s\"");
    node.deploy(&package).await;
    let first = node.invoke_ok("glutton", ask("fork_on", 0)).await;
    assert_eq!(first["errno"], rustix::io::Errno::AGAIN.raw_os_error(), "{first}");
    let children = first["children"].as_u64().expect("a number");
    assert!((200..256).contains(&children), "{first}");
    let leaf = leaf(&node, "glutton").await;
    assert_eq!(read(&leaf, "pids.peak"), "256");
    assert_eq!(node.invoke_ok("glutton", ask("hold", 1)).await, MIB);
    assert!(!node.records("glutton").await[0].cold, "by the same instance");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_ends_with_everything_it_started() {
    if !need_controllers("an_instance_ends_with_everything_it_started") {
        return;
    }
    let _alone = MACHINE.lock().await;
    let before = Machine::look();
    let mut node = node_with_glutton().await;
    node.invoke_ok("glutton", ask("leave_a_daemon", 0)).await;
    let leaf = leaf(&node, "glutton").await;
    assert!(read(&leaf, "cgroup.procs").lines().count() >= 2, "the daemon runs");
    let removed = node.call(Call::new(Method::DELETE, "/v1/functions/glutton", "")).await;
    assert!(removed.status.is_success(), "{}", removed.text());
    node.stop();
    assert!(!leaf.exists());
    drop(node);
    assert_eq!(Machine::look().since(&before), Machine::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_leaves_nothing_behind_its_successor() {
    if !need_controllers("a_killed_node_leaves_nothing_behind_its_successor") {
        return;
    }
    let _alone = MACHINE.lock().await;
    let before = Machine::look();
    let mut node = node_with_glutton().await;
    node.invoke_ok("glutton", ask("leave_a_daemon", 0)).await;
    let leaf = leaf(&node, "glutton").await;
    node.kill_9();
    assert_ne!(read(&leaf, "cgroup.procs"), "", "orphans outlive the node");
    node.restart().await;
    assert!(!leaf.exists(), "the cgroup is gone");
    assert_eq!(Machine::look().since(&before).instance_processes, Default::default());
    let answer: Value = node.invoke_ok("glutton", ask("hold", 1)).await;
    assert_eq!(answer, MIB);
    node.stop();
    drop(node);
    assert_eq!(Machine::look().since(&before), Machine::default());
}
