//! A node that is killed under load. Alone in its file: it shows that nothing is left on the machine.

use std::time::{Duration, Instant};

use http::Method;
use stratos_api::client::Call;
use stratos_tests::machine::Machine;
use stratos_tests::{Node, Package, need_root, package};

/// Killed under load: synchronous callers get the right answer or a broken connection; every accepted asynchronous
/// invocation completes; nothing of the old node is left once the new one is up.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_under_load_loses_nothing_that_was_accepted() {
    if !need_root("kill_9_under_load_loses_nothing_that_was_accepted") {
        return;
    }
    let before = Machine::look();
    let mut node = Node::start().await;
    node.deploy(&Package::node("count", package::COUNTER)).await;
    let mut accepted = Vec::new();
    for round in 0..3 {
        let client = node.client().clone();
        let (answered, mut answers) = tokio::sync::mpsc::unbounded_channel();
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..8 {
            let (client, answered) = (client.clone(), answered.clone());
            callers.spawn(async move {
                for i in 0.. {
                    let event = round * 1_000_000 + caller * 10_000 + i;
                    let mode = if i % 2 == 0 { "sync" } else { "async" };
                    let path = format!("/v1/functions/count/invoke?mode={mode}");
                    let Ok(response) = client.send(Call::new(Method::POST, path, event.to_string())).await
                    else {
                        return;
                    };
                    let Ok((status, body)) = client.collect(response).await else { return };
                    let body: serde_json::Value = serde_json::from_slice(&body).expect("an answer is whole");
                    if mode == "sync" {
                        assert_eq!(status, 200);
                        assert_eq!(body["event"].as_u64(), Some(event), "an answer to another request");
                        assert_eq!(body["times"].as_u64(), Some(1));
                    } else {
                        let id = body["invocation"].as_str().expect("an id").to_owned();
                        answered.send(id).expect("the test listens");
                    }
                }
            });
        }
        for _ in 0..40 {
            accepted.push(answers.recv().await.expect("callers run"));
        }
        node.kill_9();
        drop(answered);
        while let Some(id) = answers.recv().await {
            accepted.push(id);
        }
        while let Some(result) = callers.join_next().await {
            result.expect("no caller saw a wrong answer");
        }
        node.restart().await;
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    for id in &accepted {
        loop {
            let state = node.call(Call::new(Method::GET, format!("/v1/invocations/{id}"), "")).await;
            if state.json()["state"] == "succeeded" {
                break;
            }
            assert!(Instant::now() < deadline, "{id}: {}", state.text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    eprintln!("{} asynchronous invocations survived three kills", accepted.len());
    node.stop();
    drop(node);
    assert_eq!(Machine::look().since(&before), Machine::default(), "the machine is as it was");
}
