//! The node's API as its clients meet it: who may call, what is documented, what limits hold.

mod asynchronous;
mod contract;
mod door;
mod machine;
mod trouble;

use http::{Method, StatusCode};
use serde_json::Value;
use stratos_api::client::{Call, Client, ClientError};
use stratos_tests::{Answer, Node};

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
