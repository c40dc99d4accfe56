//! What an agent does when it cannot do its work.

use http::{Method, StatusCode};
use serde_json::json;
use stratos_api::client::Call;
use stratos_tests::{Answer, Node, Package, need_root};

use super::{ECHO, get, start_async, states};

/// Runs an agent that must refuse to start; its words.
fn refused(arguments: &[&str], dir: &std::path::Path) -> String {
    let output = std::process::Command::new(stratos_tests::program("stratosd"))
        .args(["--state", "state", "--run", "run", "--socket", "other.sock"])
        .args(arguments)
        .current_dir(dir)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("stratosd starts");
    assert_eq!(output.status.code(), Some(1), "it refuses: {}", String::from_utf8_lossy(&output.stderr));
    // What it logs before it finds out is not what is looked at here.
    let said = String::from_utf8_lossy(&output.stderr);
    let at = said.find("error: ").unwrap_or_else(|| panic!("no error: {said}"));
    said[at..].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_says_why_it_does_not_start() {
    if !need_root("an_agent_says_why_it_does_not_start") {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    assert_eq!(
        refused(&["--dev", "--listen", "0.0.0.0:0"], dir.path()),
        "error: the node cannot listen\n  0.0.0.0:0 can be reached from other machines and has no TLS\n\
         hint: give --tls-cert FILE and --tls-key FILE, or --tls-self-signed, or listen on 127.0.0.1 behind a proxy \
         that does TLS\n"
    );
    std::fs::write(dir.path().join("state/state.redb"), "what is this").expect("a writable folder");
    let said = refused(&["--dev"], dir.path());
    assert!(
        said.starts_with(
            "error: the node's state is not usable\n  state/state.redb is not a readable state file"
        ),
        "{said}"
    );
    assert!(said.contains("restore it from a backup, or move it away to start without functions"), "{said}");

    let mut node = Node::start().await;
    node.deploy(&Package::node("f", ECHO)).await;
    node.stop();
    let path = node.dir().join("state/state.redb");
    let mut state = std::fs::read(&path).expect("the state file");
    let middle = state.len() / 2;
    state.truncate(middle);
    std::fs::write(&path, state).expect("a writable folder");
    let said = refused(&["--dev"], node.dir());
    assert!(said.contains("state/state.redb is not a readable state file"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_on_the_same_state_is_refused_and_harms_nothing() {
    if !need_root("a_second_agent_on_the_same_state_is_refused_and_harms_nothing") {
        return;
    }
    let node = Node::start().await;
    node.deploy(&Package::node("f", ECHO)).await;
    node.invoke_ok("f", "1").await;
    let said = refused(&["--dev"], node.dir());
    assert!(said.contains("in use by another agent"), "{said}");
    assert!(said.contains("hint: stop that agent first"), "{said}");
    let answer = node.invoke("f", "2").await;
    assert_eq!(
        (answer.text().as_str(), answer.header("stratos-start")),
        ("2", "warm"),
        "its instance lives on"
    );
    // And it can still start new ones.
    node.deploy(&Package::node("g", ECHO)).await;
    assert_eq!(node.invoke_ok("g", "3").await, 3);
}

/// Without limits a node would not keep its promises, so it has to be told that this is wanted.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_limits_wants_to_be_told_so() {
    if !need_root("a_node_without_limits_wants_to_be_told_so") {
        return;
    }
    let node = Node::start().await;
    let missing = node.call(get("/v1/health")).await.json()["missing"].clone();
    drop(node);
    if missing == json!([]) {
        eprintln!("skipped: a_node_without_limits_wants_to_be_told_so (this machine has every limit)");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let said = refused(&[], dir.path());
    assert!(said.starts_with("error: this machine cannot run functions\n"), "{said}");
    assert!(
        said.ends_with("hint: to run without limits, for development only, start it with --dev\n"),
        "{said}"
    );
    let what = missing[0]["what"].as_str().expect("what is missing");
    assert!(said.contains(what), "{what} is not named: {said}");
}

/// A small file system, gone with its guard.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(path: std::path::PathBuf) -> Self {
        std::fs::create_dir(&path).expect("a writable folder");
        rustix::mount::mount("tmpfs", &path, "tmpfs", rustix::mount::MountFlags::empty(), c"size=16m")
            .expect("root can mount a tmpfs");
        Self(path)
    }

    /// Takes all space that is left.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.0.join("filler")).expect("room for a name");
        let block = [0; 4096];
        while file.write_all(&block).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).expect("it was made");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        if let Err(error) = unmounted {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

/// A full disk: what needs space is refused with 507, the rest goes on, and all is well once there is space again.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_survived() {
    if !need_root("a_full_disk_is_told_and_survived") {
        return;
    }
    let dir = tempfile::Builder::new().prefix("stratos-test-").tempdir().expect("a temporary folder");
    let disk = SmallDisk::mount(dir.path().join("state"));
    let mut node = Node::builder().dir(dir).start().await;
    node.deploy(&Package::node("later", ECHO)).await;
    assert_eq!(node.invoke_ok("later", "1").await, 1);
    let full = |answer: &Answer, what: &str| {
        let got = (answer.status.as_u16(), answer.header("stratos-error"), answer.header("stratos-blame"));
        assert_eq!(got, (507, "storage_failed", "platform"), "{what}: {}\n{}", answer.text(), node.log());
        let error = answer.error();
        assert_eq!(error.message, "the node's disk is full", "{what}: {}", answer.text());
        assert!(error.hint.is_some(), "{what}: {}", answer.text());
    };
    disk.fill();
    let large = Package::node("large", ECHO).file("data", vec![7; 1 << 20]);
    full(&node.try_deploy(&large).await, "deploy");
    // The state file has pages to spare, so the queue goes on for a while.
    let call = || {
        Call::new(
            Method::POST,
            "/v1/functions/later/invoke?mode=async",
            format!("\"{}\"", "x".repeat(1 << 20)),
        )
    };
    full(&node.call(call()).await, "async");
    assert_eq!(node.invoke_ok("later", "2").await, 2, "what needs no space goes on");
    assert_eq!(node.call(get("/v1/functions/large")).await.status, StatusCode::NOT_FOUND, "all or nothing");
    assert_eq!(node.call(get("/v1/health")).await.status, StatusCode::OK);

    disk.free();
    assert_eq!(node.deploy(&large).await.version, 1);
    assert_eq!(node.invoke_ok("large", "3").await, 3);
    let id = start_async(&node, "4").await;
    assert_eq!(states(&node, &id).await.pop().expect("a state")["state"], "succeeded");
    // The disk goes before the folder that it is mounted in.
    node.stop();
    drop(disk);
}
