//! Many requests at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::Method;
use stratos_api::client::Call;
use stratos_tests::{Node, Package, need_root, package};

/// 500 concurrent requests with the default queue: all answer 200, none is run twice.
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_at_once_run_once_each() {
    if !need_root("five_hundred_at_once_run_once_each") {
        return;
    }
    let node = Arc::new(Node::start().await);
    node.deploy(&Package::node("count", package::COUNTER).setting("timeout = \"120s\"")).await;
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..500 {
        let node = Arc::clone(&node);
        calls.spawn(async move { (i, node.invoke("count", i.to_string()).await) });
    }
    let mut instances = HashSet::new();
    while let Some(done) = calls.join_next().await {
        let (i, answer) = done.expect("no call panics");
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        let said = answer.json();
        assert_eq!((said["event"].as_u64(), said["times"].as_u64()), (Some(i), Some(1)));
        instances.insert(said["id"].to_string());
    }
    assert!(instances.len() <= 10, "max_instances is 10, {} were used", instances.len());
    let shown = node.call(Call::new(Method::GET, "/v1/functions/count", "")).await.json();
    assert_eq!((shown["invocations"].as_u64(), shown["errors"].as_u64()), (Some(500), Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_said() {
    if !need_root("a_full_queue_is_said") {
        return;
    }
    let node = Arc::new(Node::builder().arg("--queue=2").start().await);
    let code = "export const handler = () => new Promise((done) => setTimeout(done, 1000));";
    node.deploy(&Package::node("slow", code).setting("max_instances = 1")).await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let node = Arc::clone(&node);
        calls.spawn(async move { node.invoke("slow", "0").await });
    }
    let mut statuses: HashMap<u16, u32> = HashMap::new();
    while let Some(answer) = calls.join_next().await {
        let answer = answer.expect("no call panics");
        *statuses.entry(answer.status.as_u16()).or_default() += 1;
        if answer.status.as_u16() == 429 {
            assert_eq!(answer.header("stratos-error"), "queue_full");
            assert!(answer.header("retry-after").parse::<u32>().is_ok());
        }
    }
    assert!(statuses[&200] >= 2 && statuses[&429] >= 1, "{statuses:?}");
}
