//! Functions and clients that mean harm, or behave as if they did: the others do not notice.

use std::time::Duration;

use http::Method;
use stratos_api::client::Call;
use stratos_tests::{Node, Package, need_root};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

/// Sends a request as it stands and gives the connection back, nothing read.
async fn send(node: &Node, request: &str) -> UnixStream {
    let mut stream = UnixStream::connect(node.socket()).await.expect("the node listens");
    stream.write_all(request.as_bytes()).await.expect("the node reads");
    stream
}

/// A caller that goes away in the middle of a stream does not free the place: the handler still works there.
#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_stream_keeps_its_place_to_its_end() {
    if !need_root("an_abandoned_stream_keeps_its_place_to_its_end") {
        return;
    }
    let node = Node::start().await;
    let code = r#"
        export const handler = awslambda.streamifyResponse(async (event, stream) => {
            stream.write('first');
            await new Promise((done) => setTimeout(done, event.rawPath === '/slow' ? 1000 : 0));
            stream.end('last');
        });
    "#;
    node.deploy(&Package::node("stream", code).setting("max_instances = 1")).await;
    let mut stream = send(&node, "GET /f/stream/slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut head = [0; 256];
    assert!(stream.read(&mut head).await.expect("an answer begins") > 0);
    drop(stream);
    let next = node.call(Call::new(Method::GET, "/f/stream/", "")).await;
    assert_eq!((next.status.as_u16(), next.text().as_str()), (200, "firstlast"));
    let records = node.records("stream").await;
    assert_eq!(records.iter().map(|r| r.outcome.as_str()).collect::<Vec<_>>(), ["ok", "bad_request"]);
    assert_eq!(records[0].instance, records[1].instance);
}

/// A client that stops reading holds its instance until the deadline, not longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_loses_its_instance_at_the_deadline() {
    if !need_root("a_client_that_does_not_read_loses_its_instance_at_the_deadline") {
        return;
    }
    let node = Node::start().await;
    let server = r#"
        import http from 'node:http';
        http.createServer((req, res) => {
            if (req.url !== '/big') return res.end('small');
            const send = () => { while (res.write(Buffer.alloc(65536))); res.once('drain', send); };
            send();
        }).listen(process.env.PORT);
    "#;
    node.deploy(&Package::node_server("big", server).setting("max_instances = 1\ntimeout = \"3s\"")).await;
    let stalled = send(&node, "GET /f/big/big HTTP/1.1\r\nhost: x\r\n\r\n").await;
    loop {
        let answer = node.call(Call::new(Method::GET, "/f/big/", "")).await;
        if answer.status.is_success() {
            assert_eq!(answer.text(), "small");
            break;
        }
        assert_eq!(answer.header("stratos-error"), "queue_timeout", "{}", answer.text());
    }
    drop(stalled);
}

/// A client that does not send its body is told so; the function and its other requests stay.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_harms_only_itself() {
    if !need_root("a_slow_upload_harms_only_itself") {
        return;
    }
    let node = Node::start().await;
    let server = r#"
        import http from 'node:http';
        http.createServer((req, res) => req.on('data', () => {}).on('end', () => res.end('got it')))
            .listen(process.env.PORT);
    "#;
    node.deploy(&Package::node_server("up", server).setting("timeout = \"2s\"")).await;
    assert_eq!(node.invoke("up", "x").await.text(), "got it");
    let mut slow = send(&node, "POST /f/up/ HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nx").await;
    let mut answer = vec![0; 4096];
    let length = slow.read(&mut answer).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("request_timeout"), "{answer}");
    assert_eq!(node.invoke("up", "x").await.header("stratos-start"), "warm", "its instance lives");
}

/// A function that prints without end fills its own log, not the node's time or disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_output_is_held_back() {
    if !need_root("a_flood_of_output_is_held_back") {
        return;
    }
    let node = Node::start().await;
    let code = r#"
import os, threading
def flood(fd):
    while True:
        os.write(fd, b'\n' * 4096)
flooding = False
def handler(event, context):
    global flooding
    for fd in () if flooding else (1, 2, 4):
        threading.Thread(target=flood, args=(fd,), daemon=True).start()
    flooding = True
    return 'still here'
"#;
    node.deploy(&Package::python("flood", code)).await;
    node.deploy(&Package::python("calm", "def handler(event, context):\n    return 'calm'\n")).await;
    for _ in 0..50 {
        assert_eq!(node.invoke_ok("flood", "0").await, "still here");
        assert_eq!(node.invoke_ok("calm", "0").await, "calm");
    }
    let logs = std::fs::read_dir(node.dir().join("state/logs")).expect("a folder").flatten();
    let bytes: u64 = logs.map(|entry| entry.metadata().map_or(0, |m| m.len())).sum();
    assert!(bytes <= 20 << 20, "{bytes} bytes of log");
}

/// A function that asks its Runtime API without reading the answers, on many connections, costs the agent little.
#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_client_that_never_reads_is_made_to_wait() {
    if !need_root("a_runtime_client_that_never_reads_is_made_to_wait") {
        return;
    }
    let node = Node::start().await;
    let code = r#"
import socket, time
held = []
def handler(event, context):
    for _ in range(200):
        s = socket.socket()
        s.settimeout(0.05)
        try:
            s.connect(('127.0.0.1', 9001))
        except OSError:
            break
        held.append(s)
    one = held[0]
    request = b'GET /x HTTP/1.1\r\nhost: x\r\n\r\n'
    sent, end = 0, time.monotonic() + 3
    while time.monotonic() < end:
        at = sent % len(request)
        try:
            # Always half a request at the end.
            sent += one.send((request * 402)[at:at + 400 * len(request) + 5])
        except TimeoutError:
            return {'sent': sent, 'waited': True}
    return {'sent': sent, 'waited': False}
"#;
    node.deploy(&Package::python("rude", code)).await;
    let answer = node.invoke_ok("rude", "0").await;
    assert_eq!(answer["waited"], true, "{answer}");
    let rss = node.call(Call::new(Method::GET, "/v1/health", "")).await.json()["agent_rss_kb"].as_u64();
    assert!(rss.expect("a figure") < 100 << 10, "{rss:?} KiB");
}

/// When all of the node's memory is promised, the instance that has been idle longest makes room; what can never fit is
/// said at once.
#[tokio::test(flavor = "multi_thread")]
async fn idle_instances_make_room() {
    if !need_root("idle_instances_make_room") {
        return;
    }
    let node = Node::builder().arg("--memory=256MB").start().await;
    let code = "def handler(event, context):\n    return 'here'\n";
    for name in ["one", "two", "three", "huge"] {
        let memory = if name == "huge" { "512MB" } else { "128MB" };
        node.deploy(&Package::python(name, code).setting(&format!("memory = \"{memory}\""))).await;
    }
    for name in ["one", "two", "three", "one"] {
        assert_eq!(node.invoke_ok(name, "0").await, "here");
    }
    assert_eq!(node.invoke("three", "0").await.header("stratos-start"), "warm", "used last but one");
    let answer = node.invoke("huge", "0").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("stratos-blame")),
        (503, "platform"),
        "{}",
        answer.text()
    );
}

/// An instance without requests ends after the time the operator gives it.
#[tokio::test(flavor = "multi_thread")]
async fn idle_instances_end() {
    if !need_root("idle_instances_end") {
        return;
    }
    let node = Node::builder().arg("--idle-timeout=200ms").start().await;
    node.deploy(&Package::python("brief", "def handler(event, context):\n    return 'here'\n")).await;
    assert_eq!(node.invoke_ok("brief", "0").await, "here");
    let shown = || async { node.call(Call::new(Method::GET, "/v1/functions/brief", "")).await.json() };
    while !shown().await["instances"].as_array().expect("a list").is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(node.invoke("brief", "0").await.header("stratos-start"), "fresh");
}
