//! Checkpoints of native programs: Go's are known well enough to be restored as they are, others park by themselves.

use std::collections::BTreeSet;
use std::process::Command;

use http::Method;
use stratos_api::client::Call;
use stratos_tests::checkpoints::{ready, settled, without_instances};
use stratos_tests::package::example_program;
use stratos_tests::{Answer, Node, Package, go, need_root};

/// Instances of which each test compares the random numbers.
const INSTANCES: usize = 100;

async fn node() -> Node {
    // An instance ends right after its request, so that the next request needs another.
    Node::builder().checkpoints().arg("--idle-timeout").arg("1ms").start().await
}

fn server(name: &str, program: Vec<u8>) -> Package {
    let toml = format!("name = \"{name}\"\nruntime = \"native\"\nstart = \"./server\"\nmemory = \"64MB\"\n");
    Package::new().file("stratos.toml", toml).executable("server", program)
}

fn go_program(linker: &str) -> Vec<u8> {
    std::fs::read(go::build("go", linker)).expect("it was just built")
}

async fn ask(node: &Node, name: &str) -> Answer {
    node.call(Call::new(Method::GET, format!("/f/{name}/"), "")).await
}

/// Asks for `/` in as many new instances, and looks at each answer.
async fn ask_new_instances(node: &Node, name: &str, mut look: impl FnMut(&serde_json::Value)) {
    for _ in 0..INSTANCES {
        without_instances(node, name).await;
        let answer = ask(node, name).await;
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), node.log());
        assert_eq!(answer.header("stratos-start"), "restored", "{}", node.log());
        look(&answer.json());
    }
}

/// A Go server that knows nothing of checkpoints: its threads, timers and collector go on in each instance, and nothing
/// random comes twice, whichever thread it is drawn on.
#[tokio::test(flavor = "multi_thread")]
async fn go_servers_are_restored_as_they_are() {
    if !need_root("go_servers_are_restored_as_they_are") {
        return;
    }
    let node = node().await;
    node.deploy(&server("gopher", go_program("")).setting("prime = [\"/\", \"/\"]\n")).await;
    ready(&node, "gopher").await;
    let (mut random, mut count) = (BTreeSet::new(), 0);
    ask_new_instances(&node, "gopher", |value| {
        assert_eq!(value["requests"], 3, "two were made before the checkpoint, as stratos.toml asks for");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let age = now.as_millis() as i64 - value["now"].as_i64().expect("a time");
        assert!((0..30_000).contains(&age), "the clock is {age} ms old");
        for text in value["random"].as_array().expect("a list") {
            count += 1;
            random.insert(text.as_str().expect("a text").to_owned());
        }
    })
    .await;
    assert_eq!((random.len(), count), (INSTANCES * 15, INSTANCES * 15), "something random came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_whose_random_numbers_would_repeat_start_afresh() {
    if !need_root("programs_whose_random_numbers_would_repeat_start_afresh") {
        return;
    }
    let node = node().await;
    let stripped = server("stripped", go_program("-s -w"));
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("server");
    let source = stratos_tests::repository().join("tests/fixtures/unknown.rs");
    let compiled =
        Command::new("rustc").args(["-O", "-o"]).arg(&program).arg(source).status().expect("rustc");
    assert!(compiled.success());
    let unknown = server("unknown", std::fs::read(program).expect("it was just built"));
    node.deploy(&stripped).await;
    node.deploy(&unknown).await;
    let bootstrap =
        std::fs::read(example_program("hello-native", "bootstrap").expect("it builds")).expect("a file");
    let handler = Package::folder("examples/hello-native").executable("bootstrap", bootstrap);
    node.deploy(&handler).await;
    for (name, reason) in [
        ("stripped", "Go program without debugging information"),
        ("unknown", "is no Go program"),
        ("hello-native", "asks for requests without having waited"),
    ] {
        let info = settled(&node, name).await;
        assert_eq!(info.state, "none", "{name}");
        assert!(info.reason.as_deref().is_some_and(|found| found.contains(reason)), "{name}: {info:?}");
    }
    for name in ["stripped", "unknown"] {
        let answer = ask(&node, name).await;
        let found = (answer.status, answer.header("stratos-start"));
        assert_eq!(found, (http::StatusCode::OK, "fresh"), "{}", answer.text());
    }
    let answer = node.invoke("hello-native", "{}").await;
    assert_eq!(
        (answer.status, answer.header("stratos-start")),
        (http::StatusCode::OK, "fresh"),
        "{}",
        answer.text()
    );
}

/// A Rust program that waits for its release by itself and renews what it has drawn from.
#[tokio::test(flavor = "multi_thread")]
async fn programs_that_wait_for_their_release_are_restored() {
    if !need_root("programs_that_wait_for_their_release_are_restored") {
        return;
    }
    let node = node().await;
    let program =
        std::fs::read(example_program("parked-native", "server").expect("it builds")).expect("a file");
    node.deploy(&Package::folder("examples/parked-native").executable("server", program)).await;
    ready(&node, "parked-native").await;
    let mut random = BTreeSet::new();
    ask_new_instances(&node, "parked-native", |value| {
        assert_eq!(value["table"], 100_000, "it was computed before the checkpoint");
        random.extend(["rng", "own"].map(|key| value[key].as_str().expect("a text").to_owned()));
    })
    .await;
    assert_eq!(random.len(), INSTANCES * 2, "something random came twice");
}
