//! Asynchronous invocations from 202 to their end.

use http::{Method, StatusCode};
use serde_json::{Value, json};
use stratos_api::client::Call;
use stratos_tests::{Node, Package, need_root};

use super::{get, start_async, states};

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
