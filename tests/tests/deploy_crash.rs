//! A node that is killed while it deploys.

use std::time::Duration;

use http::Method;
use stratos_api::client::Call;
use stratos_tests::{Node, Package, need_root};

/// Killed at any moment of a deploy: the old version or the new one, whole, and nothing half-made is left.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_a_deploy_leaves_the_old_version_or_the_new() {
    if !need_root("kill_9_in_a_deploy_leaves_the_old_version_or_the_new") {
        return;
    }
    let mut node = Node::start().await;
    let package = |text: &str| {
        Package::node("kept", &format!("export const handler = () => '{text}';"))
            .file("ballast.bin", vec![7; 8 << 20])
    };
    node.deploy(&package("0")).await;
    let mut current = "0".to_owned();
    let mut seen_both = (false, false);
    for round in 1..=10u64 {
        let next = round.to_string();
        let client = node.client().clone();
        let archive = package(&next).archive();
        let deploying =
            tokio::spawn(async move { client.send(Call::new(Method::POST, "/v1/functions", archive)).await });
        // Every moment of a deploy is hit in some round, on a fast machine (some 20 ms) and on a busy one (some hundreds).
        tokio::time::sleep(Duration::from_millis((round - 1) * (round - 1) * 8)).await;
        node.kill_9();
        drop(deploying.await.expect("no panic"));
        node.restart().await;
        let now = node.invoke_ok("kept", "0").await;
        let now = now.as_str().expect("a text").to_owned();
        assert!(now == current || now == next, "round {round}: {now}");
        if now == next {
            seen_both.1 = true;
        } else {
            seen_both.0 = true;
        }
        current = now;
        let blobs = node.dir().join("state/blobs");
        let temporary = std::fs::read_dir(blobs.join("tmp")).map_or(0, Iterator::count);
        assert_eq!(temporary, 0, "round {round}: a deploy's folder is left");
    }
    assert!(seen_both.0 && seen_both.1, "kills before and after the commit: {seen_both:?}");
}
