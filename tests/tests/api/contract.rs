//! What is documented is what is answered, within the documented limits.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use stratos_api::client::{Call, ClientError};
use stratos_tests::schema::Schemas;
use stratos_tests::{Node, Package, need_root, tcp};

use super::{ECHO, get, send};

/// The document describes what is answered: every path, and each answer's shape.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_the_document_says() {
    if !need_root("answers_are_as_the_document_says") {
        return;
    }
    let node = tcp::start(&[]).await;
    let schemas = Schemas::new(node.call(get("/v1/openapi.json")).await.json());
    let paths: BTreeSet<&str> =
        schemas.document()["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
    for path in [
        stratos_api::path::HEALTH,
        stratos_api::path::OPENAPI,
        stratos_api::path::FUNCTIONS,
        stratos_api::path::INVOKE,
        stratos_api::path::AWS_INVOKE,
        "/f/{name}/{path}",
    ] {
        assert!(paths.contains(path), "{path} is not among {paths:?}");
    }

    let code = "export const handler = async (event) => { console.log('here'); if (event === 'fail') \
                throw new Error('no'); return event; };";
    for _ in 0..2 {
        schemas.check("VersionInfo", &node.try_deploy(&Package::node("f", code)).await.json());
    }
    let events = Call::new(Method::POST, "/v1/functions?stream=true", Package::node("f", code).archive());
    let events = node.call(events).await;
    assert_eq!(events.header("content-type"), "application/x-ndjson");
    for line in events.text().lines() {
        schemas.check("DeployEvent", &serde_json::from_str(line).expect("JSON a line"));
    }
    node.invoke_ok("f", "1").await;
    let failed = node.invoke("f", "\"fail\"").await;
    schemas.check("ApiError", &failed.json());
    let accepted = node.call(Call::new(Method::POST, "/v1/functions/f/invoke?mode=async", "2")).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED);
    schemas.check("Accepted", &accepted.json());
    let id = accepted.json()["invocation"].as_str().expect("an id").to_owned();

    for (path, schema) in [
        ("/v1/health", "Health"),
        ("/v1/functions/f", "FunctionDetail"),
        (&format!("/v1/invocations/{id}"), "AsyncInvocation"),
        ("/v1/functions/nobody", "ApiError"),
        ("/v1/nowhere", "ApiError"),
    ] {
        schemas.check(schema, &node.call(get(path)).await.json());
    }
    let secret = node.call(Call::new(Method::PUT, "/v1/secrets/s", "value")).await;
    schemas.check("SecretInfo", &secret.json());
    for (path, schema) in [
        ("/v1/secrets", "SecretInfo"),
        ("/v1/functions", "FunctionSummary"),
        ("/v1/functions/f/versions", "VersionInfo"),
        ("/v1/functions/f/invocations", "InvocationRecord"),
    ] {
        let list = node.call(get(path)).await.json();
        let items = list.as_array().expect("a list");
        assert!(!items.is_empty(), "{path}");
        items.iter().for_each(|item| schemas.check(schema, item));
    }
    let log = node.call(get("/v1/functions/f/logs?tail=5")).await;
    assert!(!log.body.is_empty());
    for line in log.text().lines() {
        schemas.check("LogLine", &serde_json::from_str(line).expect("JSON a line"));
    }
    let rollback = Call::new(Method::POST, "/v1/functions/f/rollback", "{\"version\":2}");
    schemas.check("VersionInfo", &node.call(rollback).await.json());
    let liveness = send(&tcp::client(&node, None), get("/v1/health")).await.expect("an answer");
    schemas.check("Liveness", &liveness.json());
    schemas
        .check("ApiError", &send(&tcp::client(&node, None), get("/v1/functions")).await.expect("one").json());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_says_when_to_come_back() {
    if !need_root("a_full_queue_says_when_to_come_back") {
        return;
    }
    let node = Node::builder().arg("--queue").arg("1").start().await;
    let code = "export const handler = async (event) => { await new Promise((r) => setTimeout(r, 1000)); return event; };";
    node.deploy(&Package::node("slow", code).setting("max_instances = 1")).await;
    let answers = futures_util::future::join_all((0..6).map(|_| node.invoke("slow", "1"))).await;
    let (good, full): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 200);
    assert!(!good.is_empty() && !full.is_empty(), "{} answered", good.len());
    for answer in full {
        let got = (answer.status.as_u16(), answer.header("stratos-error"), answer.header("stratos-blame"));
        assert_eq!(got, (429, "queue_full", "client"));
        assert_eq!(answer.header("retry-after"), "1");
    }
    let detail = node.call(get("/v1/functions/slow")).await.json();
    assert_eq!(detail["instances"].as_array().map(Vec::len), Some(1), "one was the limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_connections_live_on() {
    if !need_root("limits_hold_and_connections_live_on") {
        return;
    }
    let node = Node::start().await;
    node.deploy(&Package::node("f", ECHO)).await;
    let exact = format!("\"{}\"", "x".repeat((6 << 20) - 2));
    // Clients stop sending when they are refused, and then give the connection up: one for each.
    let over = vec![b' '; (6 << 20) + 1];
    for (path, status, error) in [
        ("/v1/functions/f/invoke", 413, "payload_too_large"),
        ("/v1/functions/f/invoke?mode=async", 413, "payload_too_large"),
        ("/f/f/", 413, "payload_too_large"),
        ("/v1/functions/nobody/invoke", 404, "not_found"),
    ] {
        let answer = node.call(Call::new(Method::POST, path, over.clone())).await;
        let got = (answer.status.as_u16(), answer.header("stratos-error"), answer.header("stratos-blame"));
        assert_eq!(got, (status, error, "client"), "{path}: {:.300}", answer.text());
    }
    let mut connection = node.client().connect().await.expect("the node is there");
    for (call, status, error) in [
        (Call::new(Method::POST, "/v1/functions/f/invoke", exact), 200, ""),
        (Call::new(Method::POST, "/v1/functions/f/invoke", "{"), 400, "bad_request"),
        (Call::new(Method::POST, "/v1/functions/f/invoke?mode=maybe", "1"), 400, "bad_request"),
        (Call::new(Method::POST, "/v1/functions/f/rollback", "{\"versoin\":1}"), 400, "bad_request"),
        (Call::new(Method::PUT, "/v1/functions", ""), 405, "method_not_allowed"),
        (get("/v1/functions/Not_A_Name"), 404, "not_found"),
        (get("/v1/invocations/not-an-id"), 404, "not_found"),
        (get("/v1/functions/f"), 200, ""),
    ] {
        let what = format!("{} {}", call.method, call.path);
        let answer = node.call_on(&mut connection, call).await.unwrap_or_else(|e| panic!("{what}: {e:?}"));
        let got = (answer.status.as_u16(), answer.header("stratos-error"));
        assert_eq!(got, (status, error), "{what}: {:.300}", answer.text());
        assert_eq!(answer.header("allow"), if status == 405 { "GET,HEAD,POST" } else { "" }, "{what}");
        assert_eq!(answer.header("stratos-blame"), if status < 400 { "" } else { "client" }, "{what}");
    }
    let long = get("/v1/functions").header("x-long", &"x".repeat(200 << 10));
    match node.try_call(long).await {
        Ok(answer) => assert_eq!(answer.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        // hyper's client tells of the broken write when the refusal comes before all is written.
        Err(error) => assert!(matches!(error, ClientError::Broken { .. }), "{error:?}"),
    }
    assert_eq!(node.invoke_ok("f", "1").await, 1);
}
