//! Traces of callers, on their way through the node.

use http::Method;
use stratos_api::client::Call;
use stratos_tests::{Node, Package, need_root};

use super::{moody, telemetry, trace, until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const AWS: &str = "Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1";

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_trace_goes_on_in_the_function() {
    if !need_root("a_callers_trace_goes_on_in_the_function") {
        return;
    }
    let node = Node::start().await;
    node.deploy(&moody("handler")).await;
    let server = r#"
        import http from 'node:http';
        http.createServer((req, res) => {
            res.end(JSON.stringify([req.headers.traceparent, req.headers['x-amzn-trace-id'], req.headers.tracestate]));
        }).listen(process.env.PORT);
    "#;
    node.deploy(&Package::node_server("server", server)).await;
    let event = format!(r#"{{"specversion":"1.0","id":"1","traceparent":"{PARENT}"}}"#);
    let given: [(&str, &str, &str); 4] = [
        ("traceparent", PARENT, "{}"),
        ("ce-traceparent", PARENT, "{}"),
        ("x-amzn-trace-id", AWS, "{}"),
        ("content-type", "application/cloudevents+json", &event),
    ];
    for (name, value, body) in given {
        let paths =
            ["/v1/functions/handler/invoke", "/2015-03-31/functions/handler/invocations", "/f/handler/"];
        for path in paths {
            let call = Call::new(Method::POST, path, body.to_owned()).header(name, value);
            let answer = node.call(call).await;
            assert_eq!(answer.status, 200, "{path} {}", answer.text());
            let seen = answer.json()[1].as_str().unwrap_or_default().to_owned();
            assert!(
                seen.starts_with("Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent="),
                "{name} {path}: {seen}"
            );
            assert!(!seen.contains("00f067aa0ba902b7"), "{name} {path}: its span is the node's: {seen}");
            let record = node.records("handler").await.swap_remove(0);
            assert_eq!(record.trace_id, TRACE);
            let kept = trace(&node, &record.id).await;
            assert_eq!(kept.spans[0].parent_span_id.as_deref(), Some("00f067aa0ba902b7"), "{name} {path}");
            assert!(seen.contains(&kept.spans[0].span_id), "{seen}");
        }
        if name == "content-type" {
            continue; // The body of a request to a server is passed on as it comes.
        }
        let call = Call::new(Method::POST, "/f/server/", "x").header(name, value).header("tracestate", "a=1");
        let seen = node.call(call).await.json();
        assert!(seen[0].as_str().is_some_and(|seen| seen.contains(TRACE)), "{name}: {seen}");
        assert!(seen[1].as_str().is_some_and(|seen| seen.starts_with("Root=1-4bf92f35-")), "{name}: {seen}");
        assert_eq!(seen[2].as_str(), (name == "traceparent").then_some("a=1"), "{name}: {seen}");
    }

    // Of the queue as well.
    let call =
        Call::new(Method::POST, "/v1/functions/handler/invoke?mode=async", "1").header("traceparent", PARENT);
    let id = node.call(call).await.header("stratos-invocation").to_owned();
    let record = until("the asynchronous invocation", async || {
        node.records("handler").await.into_iter().find(|record| record.id == id)
    })
    .await;
    assert_eq!((record.trace_id.as_str(), record.trigger.as_str()), (TRACE, "pubsub"));
}

/// Anything may stand in these headers: what is no context starts a trace of its own, and is counted.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_context_is_counted() {
    if !need_root("what_is_no_context_is_counted") {
        return;
    }
    let node = Node::start().await;
    node.deploy(&moody("f")).await;
    let long = "x".repeat(30_000);
    let many = format!("{PARENT}{}", ";Parent=1".repeat(3000));
    let wrong = [
        ("traceparent", ""),
        ("traceparent", "00-0"),
        ("traceparent", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("traceparent", "\u{fc}"),
        ("traceparent", &long),
        ("ce-traceparent", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"),
        ("x-amzn-trace-id", &many),
        ("x-amzn-trace-id", "Root=1-4bf92f35-77b34da6a3ce929d0e0e473\u{fc}"),
    ];
    for (name, value) in wrong {
        let answer =
            node.call(Call::new(Method::POST, "/v1/functions/f/invoke", "1").header(name, value)).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        let record = node.records("f").await.swap_remove(0);
        assert!(record.trace_id != TRACE && record.trace_id.len() == 32, "{name}: {record:?}");
    }
    assert_eq!(telemetry(&node).await.own.contexts_invalid, wrong.len() as u64);
    // A trace's state that breaks a limit is dropped alone.
    let call = Call::new(Method::POST, "/v1/functions/f/invoke", "1");
    node.call(call.header("traceparent", PARENT).header("tracestate", &long)).await;
    assert_eq!(node.records("f").await[0].trace_id, TRACE);
    assert_eq!(telemetry(&node).await.own.contexts_invalid, wrong.len() as u64);
}
