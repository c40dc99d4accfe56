//! The node as a machine: on this host, whose PID 1 is another's, and with one that answers as StratOS's does.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use futures_util::StreamExt as _;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use stratos_api::client::Call;
use stratos_api::node::{
    Ability, BOOTS_FOLDER, BootPhase, BootRecord, InitAnswer, InitRequest, InitStatus, NODE_LOGS_FOLDER,
    NodeLogLine, ServiceStatus,
};
use stratos_api::path;
use stratos_tests::schema::Schemas;
use stratos_tests::{Node, Package, need_root};

use super::{ECHO, get};

fn post(path: &str) -> Call {
    Call::new(Method::POST, path, "")
}

fn boot(number: u64) -> BootRecord {
    let phase = |name: &str, start_us, duration_us| BootPhase {
        name: name.into(),
        start_us,
        duration_us,
        outcome: "ok".into(),
        detail: "<done>".into(),
    };
    BootRecord {
        number,
        boot_id: format!("boot-{number}"),
        began_at: "2026-01-02T03:04:05Z".into(),
        version: "0.1.0".into(),
        kernel: "6.12".into(),
        root_hash: "00".repeat(32),
        kernel_us: 400_000,
        phases: vec![phase("mounts", 400_000, 5000), phase("services", 405_000, 95_000)],
        ready_us: Some(500_000),
    }
}

/// Answers as PID 1 does; gives what it was asked to do to the machine.
fn pid_1(socket: &Path) -> Receiver<InitRequest> {
    let listener = UnixListener::bind(socket).expect("a socket");
    let (told, asked) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).expect("a line");
            let request: InitRequest = serde_json::from_str(&line).expect("a request");
            let answer = match request {
                InitRequest::Status => InitAnswer::Status(Box::new(InitStatus {
                    boot: boot(3),
                    services: vec![ServiceStatus {
                        name: "stratosd".into(),
                        state: "ready".into(),
                        pid: Some(1),
                        started_us: Some(405_000),
                        restarts: 2,
                        last_exit: None,
                    }],
                    abilities: vec![Ability {
                        name: "zram".into(),
                        available: true,
                        detail: "64 MiB".into(),
                    }],
                    init_rss_kb: 1000,
                })),
                InitRequest::Reboot | InitRequest::PowerOff => InitAnswer::ShuttingDown,
            };
            let mut answer = serde_json::to_vec(&answer).expect("JSON");
            answer.push(b'\n');
            stream.write_all(&answer).expect("it listens");
            if request != InitRequest::Status && told.send(request).is_err() {
                return;
            }
        }
    });
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_of_another_pid_1_is_told_and_left_alone() {
    if !need_root("a_machine_of_another_pid_1_is_told_and_left_alone") {
        return;
    }
    let node = Node::builder().arg("--init-socket").arg("/nowhere/init.sock").start().await;
    let schemas = Schemas::new(node.call(get("/v1/openapi.json")).await.json());
    node.deploy(&Package::node("f", ECHO)).await;
    node.invoke_ok("f", "1").await;

    let status = node.call(get(path::NODE)).await.json();
    schemas.check("NodeStatus", &status);
    assert_eq!((&status["managed"], &status["init"]), (&json!(false), &Value::Null));
    let tree = node.call(get(path::NODE_TREE)).await.json();
    let processes = tree.as_array().expect("a list");
    processes.iter().for_each(|process| schemas.check("ProcessInfo", process));
    let own = processes.iter().find(|p| p["pid"] == node.pid()).expect("the agent is a process");
    assert_eq!((&own["role"], &own["name"]), (&json!("service stratosd"), &json!("stratosd")));
    let is_instance = |p: &&Value| p["role"].as_str().is_some_and(|role| role.ends_with(" (f)"));
    let instance = processes.iter().find(is_instance).expect("the instance is one");
    assert_eq!(instance["parent"], node.pid());

    assert_eq!(node.call(get(path::NODE_BOOTS)).await.json(), json!([]));
    let chart = node.call(get(path::NODE_BOOT_SVG)).await;
    assert_eq!(chart.status, StatusCode::NOT_FOUND);
    for path in [path::NODE_REBOOT, path::NODE_POWEROFF] {
        let refused = node.call(post(path)).await;
        let error = refused.error();
        assert_eq!((refused.status.as_u16(), error.code.as_str()), (501, "unsupported"));
        assert!(error.message.contains("not run by StratOS's own PID 1"), "{}", error.message);
    }
    for wrong in ["source=", "tail=-1", "follow=maybe"] {
        let refused = node.call(get(&format!("{}?{wrong}", path::NODE_LOGS))).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pid_1_keeps_is_told() {
    if !need_root("what_pid_1_keeps_is_told") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("init.sock");
    let asked = pid_1(&socket);
    let state = dir.path().join("state");
    let (boots, logs) = (state.join(BOOTS_FOLDER), state.join(NODE_LOGS_FOLDER));
    for folder in [&boots, &logs] {
        std::fs::create_dir_all(folder).expect("a folder");
    }
    for number in [1, 2] {
        let record = serde_json::to_vec(&boot(number)).expect("JSON");
        std::fs::write(boots.join(format!("{number}.json")), record).expect("a file");
    }
    let line = |second: u32, message: &str| {
        let at = format!("2026-01-02T03:04:{second:02}.000Z");
        let line = NodeLogLine { at, source: "init".into(), message: message.into() };
        serde_json::to_string(&line).expect("JSON") + "\n"
    };
    std::fs::write(logs.join("init.log"), line(1, "one") + &line(2, "two")).expect("a file");

    let notify = dir.path().join("notify");
    let notified = UnixDatagram::bind(&notify).expect("a socket");
    notified.set_read_timeout(Some(Duration::from_secs(30))).expect("a time");
    let said = || {
        let mut buffer = [0; 64];
        let length = notified.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let mut node = Node::builder()
        .dir(dir)
        .env("NOTIFY_SOCKET", &notify)
        .arg("--init-socket")
        .arg(&socket)
        .start()
        .await;
    assert_eq!(said(), "READY=1");

    let schemas = Schemas::new(node.call(get("/v1/openapi.json")).await.json());
    let status = node.call(get(path::NODE)).await.json();
    schemas.check("NodeStatus", &status);
    assert_eq!((&status["managed"], &status["init"]["boot"]["number"]), (&json!(true), &json!(3)));
    let list = node.call(get(path::NODE_BOOTS)).await.json();
    let list = list.as_array().expect("a list");
    list.iter().for_each(|record| schemas.check("BootRecord", record));
    let numbers: Vec<_> = list.iter().map(|record| record["number"].as_u64()).collect();
    assert_eq!(numbers, [Some(3), Some(2), Some(1)]);
    let chart = node.call(get("/v1/node/boot.svg?boot=2")).await;
    assert_eq!(chart.header("content-type"), "image/svg+xml");
    assert!(chart.text().contains("boot 2,") && chart.text().contains("&lt;done&gt;"), "{}", chart.text());
    assert_eq!(node.call(get("/v1/node/boot.svg?boot=9")).await.status, StatusCode::NOT_FOUND);

    let told = node.call(get("/v1/node/logs?source=init&tail=1")).await;
    let told: NodeLogLine = serde_json::from_slice(&told.body).expect("one line");
    assert_eq!((told.source.as_str(), told.message.as_str()), ("init", "two"));
    let response =
        node.client().send(get("/v1/node/logs?source=init&tail=1&follow=true")).await.expect("one");
    let mut stream = response.into_body().into_data_stream();
    assert!(stream.next().await.expect("old lines").expect("bytes").ends_with(b"\"two\"}\n"));
    let grown = std::fs::read_to_string(logs.join("init.log")).expect("a file") + &line(3, "three");
    std::fs::write(logs.join("init.log"), grown).expect("a file");
    let next = tokio::time::timeout(Duration::from_secs(30), stream.next()).await.expect("in time");
    assert!(next.expect("a new line").expect("bytes").ends_with(b"\"three\"}\n"));

    let ending = node.call(post(path::NODE_REBOOT)).await;
    assert_eq!(ending.status, StatusCode::ACCEPTED);
    schemas.check("ShuttingDown", &ending.json());
    assert_eq!(ending.json()["action"], "reboot");
    assert_eq!(node.call(post(path::NODE_POWEROFF)).await.json()["action"], "poweroff");
    assert_eq!(asked.try_iter().collect::<Vec<_>>(), [InitRequest::Reboot, InitRequest::PowerOff]);
    // A stream without an end of its own ends with the node.
    node.stop();
    assert_eq!(said(), "STOPPING=1");
    assert!(stream.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn processors_are_given_as_there_are() {
    if !need_root("processors_are_given_as_there_are") {
        return;
    }
    let node = Node::builder().arg("--init-socket").arg("/nowhere/init.sock").start().await;
    let plain = node.deploy(&Package::node("plain", ECHO)).await;
    assert_eq!(plain.notes, [] as [String; 0]);
    assert!(!plain.spec.contains("cpu"), "{}", plain.spec);
    let package = Package::node("f", ECHO).setting("cpu = \"0.5\"").setting("cpu_class = \"reserved\"");
    let version = node.deploy(&package).await;
    assert!(version.spec.contains("cpu = \"0.5\"") && version.spec.contains("cpu_class = \"reserved\""));
    let note = |start: &str| version.notes.iter().any(|note| note.starts_with(start));
    assert!(note("cpu_class: instances run on the CPUs that all functions share: "), "{:?}", version.notes);
    let missing = node.call(get(path::HEALTH)).await.json()["missing"].to_string();
    assert_eq!(note("cpu: not enforced"), missing.contains("controller `cpu`"), "{:?}", version.notes);
    node.invoke_ok("f", "1").await;
    let shown = node.call(get("/v1/functions/f")).await.json();
    assert_eq!(shown["current"]["notes"], json!(version.notes));

    let refused = node.try_deploy(&Package::node("f", ECHO).setting("cpu = \"1000\"")).await.error();
    assert_eq!((refused.code.as_str(), refused.key.as_deref()), ("invalid_function", Some("cpu")));
    assert!(refused.message.contains("this node has"), "{}", refused.message);
}
