//! What is kept, for how long, and what it may take.

use std::os::unix::fs::FileExt as _;

use http::Method;
use stratos_api::client::Call;
use stratos_tests::{Node, need_root};

use super::{errors, function, get, moody, telemetry, trace};

#[tokio::test(flavor = "multi_thread")]
async fn summaries_and_traces_survive_a_restart() {
    if !need_root("summaries_and_traces_survive_a_restart") {
        return;
    }
    let mut node = Node::start().await;
    node.deploy(&moody("moody").setting("timeout = \"5s\"\n[slo]\nlatency = \"200ms\"")).await;
    node.deploy(&moody("calm")).await;
    // The first start takes as long as it takes: what follows is warm, and its objective means something.
    for event in ["\"fine\"", "\"fine\"", "\"throw\"", "\"slow\"", "\"exit\"", "\"fine\""] {
        node.invoke("moody", event).await;
    }
    node.invoke_ok("calm", "1").await;
    let slow =
        node.records("moody").await.into_iter().find(|r| r.outcome == "ok" && r.slo_breached && !r.cold);
    let slow = slow.expect("what took 300 ms is slower than 200");
    assert!(slow.phases.handler_us > 300_000, "{slow:?}");

    let before = (function(&node, "moody").await, errors(&node, "moody").await);
    let total = &before.0.total;
    assert_eq!((total.invocations, total.errors, total.timeouts, total.cold), (6, 2, 0, 2));
    assert!(total.duration.expect("there were some").max_us > 300_000 && total.start.is_some());
    // The time of a start that failed is that start's.
    node.deploy(&stratos_tests::Package::node("noinit", "import 'nowhere'; export const handler = 1;")).await;
    assert_eq!(node.invoke("noinit", "0").await.header("stratos-error"), "function_init_failed");
    let phases = node.records("noinit").await.swap_remove(0).phases;
    assert!(phases.init_us > phases.queue_us && phases.init_us * 2 > phases.total_us, "{phases:?}");

    let outcomes: Vec<_> = before.1.iter().map(|record| record.outcome.as_str()).collect();
    assert_eq!(outcomes, ["function_crashed", "function_error"]);

    node.stop();
    node.restart().await;
    assert_eq!(
        (function(&node, "moody").await.total, errors(&node, "moody").await),
        (before.0.total, before.1)
    );
    assert_eq!(function(&node, "calm").await.total.invocations, 1);
    for (record, kept) in errors(&node, "moody").await.iter().map(|r| (r, "error")).chain([(&slow, "slo")]) {
        let trace = trace(&node, &record.id).await;
        assert_eq!((trace.kept.as_str(), trace.record.phases.handler_us), (kept, record.phases.handler_us));
        let names: Vec<_> = trace.spans.iter().map(|span| span.name.as_str()).collect();
        assert!(names.starts_with(&["gateway", "receive"]) && names.contains(&"handler"), "{names:?}");
    }

    // A file that was damaged meanwhile is said and set aside; everything else is there.
    node.stop();
    let folder = node.dir().join("state/telemetry");
    let traces =
        std::fs::OpenOptions::new().write(true).open(folder.join("traces-00000001")).expect("it is there");
    traces.write_all_at(b"!", 30).expect("it is written");
    node.restart().await;
    assert!(node.log().contains("a file of telemetry is damaged"), "{}", node.log());
    assert!(folder.join("traces.damaged").is_file());
    assert_eq!(function(&node, "moody").await.total.invocations, 6);
    assert_eq!(errors(&node, "moody").await, []);
    node.invoke("moody", "\"throw\"").await;
    assert_eq!(errors(&node, "moody").await.len(), 1);
}

/// A function that crashes whenever it is called takes no more than its share.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_crashes_in_a_loop_stays_within_the_limits() {
    if !need_root("a_function_that_crashes_in_a_loop_stays_within_the_limits") {
        return;
    }
    let node = Node::builder().arg("--telemetry-disk").arg("1MB").start().await;
    node.deploy(&moody("crash").setting("max_instances = 2")).await;
    let crashes: u64 = 40;
    for _ in 0..crashes {
        assert_eq!(node.invoke("crash", "\"exit\"").await.header("stratos-error"), "function_crashed");
    }
    let all = telemetry(&node).await;
    let total = &all.functions[0].total;
    assert_eq!((total.invocations, total.errors, total.cold), (crashes, crashes, crashes));
    assert_eq!(all.own.traces + all.own.traces_dropped, crashes);
    assert!(all.own.memory_bytes < 1 << 20 && all.own.disk_bytes <= 1 << 20, "{:?}", all.own);
    assert_eq!(errors(&node, "crash").await.len() as u64, crashes);
}

/// A removed function is forgotten, and one that never was has left nothing.
#[tokio::test(flavor = "multi_thread")]
async fn only_functions_that_are_there_take_room() {
    if !need_root("only_functions_that_are_there_take_room") {
        return;
    }
    let mut node = Node::start().await;
    for name in ["here", "gone"] {
        node.deploy(&moody(name)).await;
        node.invoke_ok(name, "1").await;
    }
    node.stop();
    node.restart().await;
    // It is in a file by now.
    let removed = |name: &str| Call::new(Method::DELETE, format!("/v1/functions/{name}"), "");
    node.call(removed("gone")).await;
    node.stop();
    node.restart().await;
    let names: Vec<_> = telemetry(&node).await.functions.into_iter().map(|f| f.function).collect();
    assert_eq!(names, ["here"]);
    node.invoke_ok("here", "1").await;
    let before = telemetry(&node).await.own.memory_bytes;
    for number in 0..500 {
        assert_eq!(node.invoke(&format!("nobody-{number}"), "1").await.status, 404);
    }
    assert_eq!(telemetry(&node).await.own.memory_bytes, before);
    let path = "/v1/telemetry/functions?minutes=0";
    assert_eq!(node.call(Call::new(Method::GET, path, "")).await.status, 400);
    node.call(removed("here")).await;
    assert_eq!(telemetry(&node).await.functions, []);
    let metrics = node.call(Call::new(Method::GET, "/metrics", "")).await.text();
    assert!(!metrics.contains("faas_name=\"here\""), "{metrics}");
    let health: serde_json::Value = get(&node, "/v1/health").await;
    assert_eq!(health["queued"], 0);
}
