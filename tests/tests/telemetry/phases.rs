//! Where the time of a start goes, against the client's clock.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use stratos_api::Phases;
use stratos_tests::checkpoints::{ready, without_instances};
use stratos_tests::{Node, Package, need_root};

use super::until;

/// Least share of the client's time that lies in named phases.
const LEAST: f64 = 0.98;
/// Starts of each kind. On a machine that others use as well, a client may be kept from its processor by any of them at
/// any time, which no node can know of: the middle one counts.
const STARTS: usize = 9;

/// Sends a request and reads its answer, with nothing but two system calls on the client's side. Gives the time of that.
fn exchange(connection: &mut UnixStream, request: &str) -> (String, Duration) {
    let mut answer = [0; 4096];
    let begun = Instant::now();
    connection.write_all(request.as_bytes()).expect("it is sent");
    let length = connection.read(&mut answer).expect("an answer");
    let took = begun.elapsed();
    (String::from_utf8_lossy(&answer[..length]).into_owned(), took)
}

/// Invokes over a connection that is there already, and gives the client's time.
fn invoke(socket: PathBuf, name: &str) -> Duration {
    let mut connection = UnixStream::connect(socket).expect("a connection");
    let (answer, _) = exchange(&mut connection, "GET /v1/keys HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert!(answer.ends_with("[]"), "{answer}");
    let head = "HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}";
    let (answer, took) = exchange(&mut connection, &format!("POST /v1/functions/{name}/invoke {head}"));
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\"ok\""), "{answer}");
    took
}

async fn started(node: &Node, name: &str, start: &str) -> (Phases, Duration) {
    without_instances(node, name).await;
    let (socket, name_of) = (node.socket(), name.to_owned());
    let took = tokio::task::spawn_blocking(move || invoke(socket, &name_of)).await.expect("no panic");
    // The client may run again before the node has noted that it has written.
    let record = until("the end of the answer", async || {
        let record = node.records(name).await.swap_remove(0);
        (record.phases.respond_us > 0).then_some(record)
    })
    .await;
    assert_eq!(record.start(), start, "{record:?}");
    (record.phases, took)
}

/// The share that is named, of the middle one of some starts; and the phases of that.
async fn share(node: &Node, name: &str, start: &str) -> (f64, Phases, Duration) {
    let mut all = Vec::new();
    for _ in 0..STARTS {
        let (phases, took) = started(node, name, start).await;
        let named: u64 = phases.named().iter().map(|(_, us)| us).sum();
        assert_eq!(named, phases.total_us, "{phases:?}");
        assert!(named <= took.as_micros() as u64, "{phases:?} {took:?}");
        all.push((named as f64 / took.as_micros() as f64, phases, took));
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all[STARTS / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_start_lies_in_named_phases() {
    if !need_root("the_time_of_a_start_lies_in_named_phases") {
        return;
    }
    let node = Node::builder().checkpoints().arg("--idle-timeout").arg("1ms").start().await;
    for (name, mode, start) in [("afresh", "off", "cold"), ("again", "required", "restored")] {
        let code = "export const handler = () => 'ok';";
        node.deploy(&Package::node(name, code).setting(&format!("checkpoint = \"{mode}\""))).await;
        if start == "restored" {
            ready(&node, name).await;
        }
        let (share, phases, took) = share(&node, name, start).await;
        eprintln!("{start}: {:.2} % of {took:?}: {phases:?}", share * 100.0);
        assert!(share >= LEAST, "{start}: {share} of {took:?}: {phases:?}");
        for (phase, us) in phases.named() {
            let runs = !(phase == "runtime" && start == "restored");
            assert!(us > 0 || !runs, "{start}: {phase} took no time: {phases:?}");
        }
    }
}
