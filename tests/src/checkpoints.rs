//! What tests wait for where instances are restored from checkpoints.

use std::time::{Duration, Instant};

use http::Method;
use stratos_api::client::Call;
use stratos_api::{CheckpointInfo, FunctionDetail};

use crate::Node;

/// Longest wait for a checkpoint.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a node says of a function.
///
/// # Panics
/// When it says something else.
pub async fn detail(node: &Node, name: &str) -> FunctionDetail {
    let answer = node.call(Call::new(Method::GET, format!("/v1/functions/{name}"), "")).await;
    serde_json::from_value(answer.json()).expect("a function")
}

/// Waits until the checkpoint of a function is made, or there is a reason for none.
///
/// # Panics
/// When neither comes.
pub async fn settled(node: &Node, name: &str) -> CheckpointInfo {
    let begun = Instant::now();
    loop {
        let info = detail(node, name).await.checkpoint;
        if info.state != "making" {
            return info;
        }
        assert!(begun.elapsed() < PATIENCE, "no checkpoint of {name}: {}", node.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a function has its checkpoint.
///
/// # Panics
/// When there is a reason for none.
pub async fn ready(node: &Node, name: &str) {
    let info = settled(node, name).await;
    assert_eq!((info.state.as_str(), &info.reason), ("ready", &None), "{name}: {}", node.log());
}

/// Waits until a function has no instance any more, so that its next request needs a start.
///
/// # Panics
/// When they do not end.
pub async fn without_instances(node: &Node, name: &str) {
    let begun = Instant::now();
    while !detail(node, name).await.instances.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "instances of {name} do not end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
