//! The node's API as its clients meet it: who may call, what is documented, what limits hold.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use stratos_api::client::{Call, Client, ClientError, Endpoint};
use stratos_tests::schema::Schemas;
use stratos_tests::{Answer, Node, Package, Session, need_root, tcp};

const ECHO: &str = "export const handler = async (event) => event;";

fn get(path: &str) -> Call {
    Call::new(Method::GET, path, "")
}

/// Sends a request over another client than the node's own.
async fn send(client: &Client, call: Call) -> Result<Answer, ClientError> {
    use http_body_util::BodyExt as _;
    let (head, body) = client.send(call).await?.into_parts();
    let broken = |source| ClientError::Broken { endpoint: client.endpoint().clone(), source };
    let body = body.collect().await.map_err(broken)?.to_bytes();
    Ok(Answer { status: head.status, headers: head.headers, body })
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_answers_strangers_with_one_and_the_same_refusal() {
    if !need_root("tcp_answers_strangers_with_one_and_the_same_refusal") {
        return;
    }
    let node = tcp::start(&[]).await;
    node.deploy(&Package::node("secret", ECHO)).await;
    let stranger = tcp::client(&node, None);
    let guesser = tcp::client(&node, Some("0123456789012345678901234567890123456789012"));
    let mut refusals = BTreeSet::new();
    for path in [
        "/v1/functions",
        "/v1/functions/secret",
        "/v1/functions/nobody",
        "/v1/nowhere",
        "/f/secret/",
        "/f/x/",
    ] {
        for client in [&stranger, &guesser] {
            let answer = send(client, get(path)).await.expect("an answer");
            assert_eq!(
                (answer.status, answer.header("www-authenticate")),
                (StatusCode::UNAUTHORIZED, "Bearer")
            );
            refusals.insert(answer.text());
        }
    }
    assert_eq!(refusals.len(), 1, "nobody learns which functions there are: {refusals:?}");
    let known = tcp::client(&node, Some(&tcp::token(&node)));
    let answer = send(&known, get("/v1/functions/secret")).await.expect("an answer");
    assert_eq!(answer.status, StatusCode::OK);

    // Health is for load balancers too, who are told no more than that it is there.
    let answer = send(&stranger, get("/v1/health")).await.expect("an answer");
    assert_eq!(answer.json(), json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }));
    let answer = send(&known, get("/v1/health")).await.expect("an answer");
    assert!(answer.json()["layers"].is_array());
}

#[tokio::test(flavor = "multi_thread")]
async fn public_functions_answer_strangers() {
    if !need_root("public_functions_answer_strangers") {
        return;
    }
    let node = tcp::start(&[]).await;
    let code = "export const handler = async (event) => event.headers.authorization ?? 'none';";
    node.deploy(&Package::node("open", code).setting("public = true")).await;
    node.deploy(&Package::node("closed", code)).await;
    let (stranger, known) = (tcp::client(&node, None), tcp::client(&node, Some(&tcp::token(&node))));
    for (client, path, status) in [
        (&stranger, "/f/open/", 200),
        (&stranger, "/f/closed/", 401),
        (&stranger, "/v1/functions/open/invoke", 401),
        (&known, "/f/closed/", 200),
    ] {
        let answer = send(client, Call::new(Method::POST, path, "")).await.expect("an answer");
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text());
        // The node's token is not for functions to see.
        assert!(status != 200 || answer.text() == "\"none\"", "{path}: {}", answer.text());
    }
    let own = get("/f/open/").header("authorization", "Bearer of-the-function");
    let answer = send(&stranger, own).await.expect("an answer");
    assert_eq!(answer.text(), "\"Bearer of-the-function\"", "a function may have tokens of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_to_those_who_trust_the_certificate() {
    if !need_root("tls_is_spoken_to_those_who_trust_the_certificate") {
        return;
    }
    let files = tempfile::tempdir().expect("a temporary folder");
    let [certificate, key, other] = ["node.pem", "node.key", "other.pem"].map(|name| files.path().join(name));
    let make = || rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let made = make();
    std::fs::write(&certificate, made.cert.pem()).expect("a writable folder");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a writable folder");
    std::fs::write(&other, make().cert.pem()).expect("a writable folder");
    let [certificate, key, other] = [certificate, key, other].map(|path| path.display().to_string());
    let node = tcp::start(&["--tls-cert", &certificate, "--tls-key", &key]).await;

    let address = tcp::address(&node).to_string();
    let token = tcp::token(&node);
    let client = Client::new(Endpoint::Https(address.clone()), Some(&token)).expect("a client");
    let trusting = client.clone().trust(certificate.as_ref()).expect("a certificate to trust");
    assert_eq!(send(&trusting, get("/v1/functions")).await.expect("an answer").text(), "[]");
    let doubting = client.trust(other.as_ref()).expect("a certificate to trust");
    assert!(matches!(send(&doubting, get("/v1/functions")).await, Err(ClientError::Connect { .. })));
    let plain = tcp::client(&node, Some(&token));
    assert!(send(&plain, get("/v1/functions")).await.is_err(), "what is not TLS is not answered");

    let session = Session::without_node();
    session.write("token", &token);
    let values = [("[address]", address.as_str()), ("[cert]", &certificate), ("[other]", &other)];
    session.check_with(
        &values,
        r#"
$ stratos ls --node https://[address] --token-file token --ca [cert]
! no functions yet; make one with `stratos new NAME`, deploy it with `stratos deploy NAME`
$ stratos ls --node https://[address] --token-file token --ca [other] 2>&1 | head -1
error: cannot reach the node at https://[address]
$ stratos ls --node https://[address] --token-file token
! error: cannot set up TLS: no certificate to trust; give the node's with --ca FILE
[exit 1]
"#,
    );
}

/// The document describes what is answered: every path, and each answer's shape.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_the_document_says() {
    if !need_root("answers_are_as_the_document_says") {
        return;
    }
    let node = tcp::start(&[]).await;
    let schemas = Schemas::new(node.call(get("/v1/openapi.json")).await.json());
    let paths: BTreeSet<&str> =
        schemas.document()["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
    for path in [
        stratos_api::path::HEALTH,
        stratos_api::path::OPENAPI,
        stratos_api::path::FUNCTIONS,
        stratos_api::path::INVOKE,
        stratos_api::path::AWS_INVOKE,
        "/f/{name}/{path}",
    ] {
        assert!(paths.contains(path), "{path} is not among {paths:?}");
    }

    let code = "export const handler = async (event) => { console.log('here'); if (event === 'fail') \
                throw new Error('no'); return event; };";
    for _ in 0..2 {
        schemas.check("VersionInfo", &node.try_deploy(&Package::node("f", code)).await.json());
    }
    let events = Call::new(Method::POST, "/v1/functions?stream=true", Package::node("f", code).archive());
    let events = node.call(events).await;
    assert_eq!(events.header("content-type"), "application/x-ndjson");
    for line in events.text().lines() {
        schemas.check("DeployEvent", &serde_json::from_str(line).expect("JSON a line"));
    }
    node.invoke_ok("f", "1").await;
    let failed = node.invoke("f", "\"fail\"").await;
    schemas.check("ApiError", &failed.json());
    let accepted = node.call(Call::new(Method::POST, "/v1/functions/f/invoke?mode=async", "2")).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED);
    schemas.check("Accepted", &accepted.json());
    let id = accepted.json()["invocation"].as_str().expect("an id").to_owned();

    for (path, schema) in [
        ("/v1/health", "Health"),
        ("/v1/functions/f", "FunctionDetail"),
        (&format!("/v1/invocations/{id}"), "AsyncInvocation"),
        ("/v1/functions/nobody", "ApiError"),
        ("/v1/nowhere", "ApiError"),
    ] {
        schemas.check(schema, &node.call(get(path)).await.json());
    }
    for (path, schema) in [
        ("/v1/functions", "FunctionSummary"),
        ("/v1/functions/f/versions", "VersionInfo"),
        ("/v1/functions/f/invocations", "InvocationRecord"),
    ] {
        let list = node.call(get(path)).await.json();
        let items = list.as_array().expect("a list");
        assert!(!items.is_empty(), "{path}");
        items.iter().for_each(|item| schemas.check(schema, item));
    }
    let log = node.call(get("/v1/functions/f/logs?tail=5")).await;
    assert!(!log.body.is_empty());
    for line in log.text().lines() {
        schemas.check("LogLine", &serde_json::from_str(line).expect("JSON a line"));
    }
    let rollback = Call::new(Method::POST, "/v1/functions/f/rollback", "{\"version\":2}");
    schemas.check("VersionInfo", &node.call(rollback).await.json());
    let liveness = send(&tcp::client(&node, None), get("/v1/health")).await.expect("an answer");
    schemas.check("Liveness", &liveness.json());
    schemas
        .check("ApiError", &send(&tcp::client(&node, None), get("/v1/functions")).await.expect("one").json());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_come_back() {
    if !need_root("a_full_queue_says_when_to_come_back") {
        return;
    }
    let node = Node::builder().arg("--queue").arg("1").start().await;
    let code = "export const handler = async (event) => { await new Promise((r) => setTimeout(r, 1000)); return event; };";
    node.deploy(&Package::node("slow", code).setting("max_instances = 1")).await;
    let answers = futures_util::future::join_all((0..6).map(|_| node.invoke("slow", "1"))).await;
    let (good, full): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert!(!good.is_empty() && !full.is_empty(), "{} answered", good.len());
    for answer in full {
        let got = (answer.status.as_u16(), answer.header("stratos-error"), answer.header("stratos-blame"));
        assert_eq!(got, (429, "queue_full", "client"));
        assert_eq!(answer.header("retry-after"), "1");
    }
    let detail = node.call(get("/v1/functions/slow")).await.json();
    assert_eq!(detail["instances"].as_array().map(Vec::len), Some(1), "one was the limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn async_invocations_pass_their_states_to_the_end() {
    if !need_root("async_invocations_pass_their_states_to_the_end") {
        return;
    }
    let node = Node::start().await;
    let code = "let tries = 0; export const handler = async (event) => { if (event === 'fail') \
                throw new Error(`try ${++tries}`); await new Promise((r) => setTimeout(r, 200)); return event; };";
    node.deploy(&Package::node("later", code).setting("max_instances = 1")).await;
    let ids = [start_async(&node, "\"fail\"").await, start_async(&node, "\"good\"").await];

    let good = states(&node, &ids[1]).await;
    let names: Vec<&str> = good.iter().filter_map(|s| s["state"].as_str()).collect();
    assert_eq!(names.last(), Some(&"succeeded"), "{good:?}");
    assert!(names.contains(&"running"), "200 ms are long enough to be seen: {names:?}");

    let failed = states(&node, &ids[0]).await;
    let steps: Vec<_> =
        failed.iter().map(|s| (s["state"].as_str().unwrap_or_default(), s["attempts"].as_u64())).collect();
    for step in [("queued", Some(1)), ("queued", Some(2)), ("dead", Some(3))] {
        assert!(steps.contains(&step), "{step:?} is not among {steps:?}");
    }
    let waiting = failed.iter().find(|s| s["attempts"] == 2 && s["state"] == "queued").expect("seen above");
    assert!(waiting["next_attempt_at"].is_string(), "{waiting}");
    assert_eq!(waiting["last_error"]["code"], "function_error");
    let letters = node.call(get("/v1/functions/later/dead-letters")).await.json();
    assert_eq!((&letters[0]["id"], &letters[1]), (&json!(ids[0]), &Value::Null));
    let said = letters[0]["last_error"]["message"].as_str().expect("what it failed with");
    assert!(said.contains("try 3"), "{said}");

    // The dead letter of a function that was removed stays, and can be forgotten.
    assert!(node.call(Call::new(Method::DELETE, "/v1/functions/later", "")).await.status.is_success());
    let path = format!("/v1/functions/later/dead-letters/{}", ids[0]);
    assert_eq!(node.call(Call::new(Method::DELETE, path.as_str(), "")).await.status, StatusCode::NO_CONTENT);
    assert_eq!(node.call(Call::new(Method::DELETE, path.as_str(), "")).await.status, StatusCode::NOT_FOUND);
}

async fn start_async(node: &Node, payload: &'static str) -> String {
    let answer = node.call(Call::new(Method::POST, "/v1/functions/later/invoke?mode=async", payload)).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
    answer.json()["invocation"].as_str().expect("an id").to_owned()
}

/// Every state of an asynchronous invocation that was seen, in order, each once.
async fn states(node: &Node, id: &str) -> Vec<Value> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let mut seen: Vec<Value> = Vec::new();
    loop {
        let state = node.call(get(&format!("/v1/invocations/{id}"))).await.json();
        if seen.last() != Some(&state) {
            seen.push(state.clone());
        }
        if state["state"] == "succeeded" || state["state"] == "dead" {
            return seen;
        }
        assert!(std::time::Instant::now() < deadline, "{seen:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_connections_live_on() {
    if !need_root("limits_hold_and_connections_live_on") {
        return;
    }
    let node = Node::start().await;
    node.deploy(&Package::node("f", ECHO)).await;
    let exact = format!("\"{}\"", "x".repeat((6 << 20) - 2));
    // Clients stop sending when they are refused, and then give the connection up: one for each.
    let over = vec![b' '; (6 << 20) + 1];
    for (path, status, error) in [
        ("/v1/functions/f/invoke", 413, "payload_too_large"),
        ("/v1/functions/f/invoke?mode=async", 413, "payload_too_large"),
        ("/f/f/", 413, "payload_too_large"),
        ("/v1/functions/nobody/invoke", 404, "not_found"),
    ] {
        let answer = node.call(Call::new(Method::POST, path, over.clone())).await;
        let got = (answer.status.as_u16(), answer.header("stratos-error"), answer.header("stratos-blame"));
        assert_eq!(got, (status, error, "client"), "{path}: {:.300}", answer.text());
    }
    let mut connection = node.client().connect().await.expect("the node is there");
    for (call, status, error) in [
        (Call::new(Method::POST, "/v1/functions/f/invoke", exact), 200, ""),
        (Call::new(Method::POST, "/v1/functions/f/invoke", "{"), 400, "bad_request"),
        (Call::new(Method::POST, "/v1/functions/f/invoke?mode=maybe", "1"), 400, "bad_request"),
        (Call::new(Method::POST, "/v1/functions/f/rollback", "{\"versoin\":1}"), 400, "bad_request"),
        (Call::new(Method::PUT, "/v1/functions", ""), 405, "method_not_allowed"),
        (get("/v1/functions/Not_A_Name"), 404, "not_found"),
        (get("/v1/invocations/not-an-id"), 404, "not_found"),
        (get("/v1/functions/f"), 200, ""),
    ] {
        let what = format!("{} {}", call.method, call.path);
        let answer = node.call_on(&mut connection, call).await.unwrap_or_else(|e| panic!("{what}: {e:?}"));
        let got = (answer.status.as_u16(), answer.header("stratos-error"));
        assert_eq!(got, (status, error), "{what}: {:.300}", answer.text());
        assert_eq!(answer.header("allow"), if status == 405 { "GET,HEAD,POST" } else { "" }, "{what}");
        assert_eq!(answer.header("stratos-blame"), if status < 400 { "" } else { "client" }, "{what}");
    }
    let long = get("/v1/functions").header("x-long", &"x".repeat(200 << 10));
    match node.try_call(long).await {
        Ok(answer) => assert_eq!(answer.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        // hyper's client tells of the broken write when the refusal comes before all is written.
        Err(error) => assert!(matches!(error, ClientError::Broken { .. }), "{error:?}"),
    }
    assert_eq!(node.invoke_ok("f", "1").await, 1);
}

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
         hint: give --tls-cert FILE and --tls-key FILE, or listen on 127.0.0.1 behind a proxy that does TLS\n"
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
    let node = Node::builder().dir(dir).start().await;
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
    drop(node);
    drop(disk);
}
