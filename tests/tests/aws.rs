//! What was made for AWS Lambda runs and invokes unchanged: the runtime client `awslambdaric`, boto3, the aws CLI.

use std::io::Write as _;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use stratos_api::client::Call;
use stratos_tests::{Node, Package, need_root, python_clients, tcp};

/// AWS's own runtime client, with what it needs, as its authors publish it.
const AWSLAMBDARIC: &str = "awslambdaric==4.2.2\nsimplejson==4.3.0\nsnapshot-restore-py==1.0.0\n";

/// A function that `awslambdaric` runs, not StratOS's bootstrap.
fn ric(name: &str, code: &str) -> Package {
    Package::python(name, code)
        .setting("start = \"python3 -m awslambdaric app.handler\"\nmemory = \"256MB\"\ntimeout = \"4s\"")
        .file("requirements.txt", AWSLAMBDARIC)
}

#[tokio::test(flavor = "multi_thread")]
async fn awslambdaric_runs_unmodified() {
    if !need_root("awslambdaric_runs_unmodified") {
        return;
    }
    let node = Node::start().await;
    let code = r#"
import os, sys, time
working = 0

def handler(event, context):
    global working
    if event == 'modules':
        return sorted(m for m in sys.modules if m in ('awslambdaric', 'stratos_runtime', 'runtime_client'))
    if event == 'context':
        left = context.get_remaining_time_in_millis()
        return [context.aws_request_id, context.function_name, context.function_version,
                context.memory_limit_in_mb, 0 < left <= 4000, os.environ['_HANDLER']]
    if event == 'throw':
        raise KeyError('grün')
    if event == 'hang':
        time.sleep(60)
    if event == 'overlap':
        working += 1
        time.sleep(0.05)
        seen, working = working, working - 1
        return seen
    return event
"#;
    let version = node.deploy(&ric("ric", code).setting("max_instances = 1")).await;
    assert_eq!((version.kind.as_str(), version.runtime.as_str()), ("handler", "python3.13"));
    assert!(version.dependencies.iter().any(|d| d.name == "awslambdaric" && d.version == "4.2.2"));

    let cold = node.invoke("ric", r#""modules""#).await;
    assert_eq!(cold.json(), json!(["awslambdaric", "runtime_client"]), "{}", node.log());
    assert_eq!(cold.header("stratos-start"), "fresh");
    let answer = node.invoke("ric", r#""context""#).await;
    assert_eq!(answer.header("stratos-start"), "warm");
    let id = answer.header("stratos-invocation");
    assert_eq!(answer.json(), json!([id, "ric", "1", "256", true, "app.handler"]));
    let phases = node.records("ric").await.pop().expect("the first record").phases;
    assert!(phases.sandbox_us > 0 && phases.runtime_us > 0 && phases.init_us > 0, "{phases:?}");

    let event = json!({ "ü": ["日本語", "\u{1f980}", null, 1.5, "\u{0}"] });
    assert_eq!(node.invoke_ok("ric", event.to_string()).await, event);
    let large = format!("\"{}\"", "x".repeat(5 << 20));
    let answer = node.invoke("ric", large.clone()).await;
    assert!(answer.status == 200 && answer.body == large, "{:.300}", answer.text());

    let answer = node.invoke("ric", r#""throw""#).await;
    assert_eq!((answer.status.as_u16(), answer.header("stratos-error")), (502, "function_error"));
    let detail = answer.error().detail.expect("what the function said");
    assert_eq!((&detail["errorType"], &detail["errorMessage"]), (&json!("KeyError"), &json!("'grün'")));
    assert!(detail["stackTrace"][0].as_str().is_some_and(|t| t.contains("app.py")), "{detail}");
    assert_eq!(node.invoke_ok("ric", "1").await, 1, "it goes on after an error");

    let callers = (0..4).map(|_| node.invoke_ok("ric", r#""overlap""#));
    assert_eq!(futures_util::future::join_all(callers).await, [1, 1, 1, 1], "one request at a time");

    let answer = node.invoke("ric", r#""hang""#).await;
    assert_eq!((answer.status.as_u16(), answer.header("stratos-error")), (504, "function_timeout"));
    let answer = node.invoke("ric", "2").await;
    assert_eq!(
        (answer.text().as_str(), answer.header("stratos-start")),
        ("2", "fresh"),
        "the hung one is gone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_cannot_begin_say_why() {
    if !need_root("clients_that_cannot_begin_say_why") {
        return;
    }
    let node = Node::start().await;
    let code = "def handler(event, context):\n    return 1\n\nraise ValueError('no luck')\n";
    node.deploy(&ric("broken", code)).await;
    let answer = node.invoke("broken", "0").await;
    assert_eq!((answer.status.as_u16(), answer.header("stratos-error")), (502, "function_init_failed"));
    let detail = answer.error().detail.expect("what the client reported");
    assert_eq!((&detail["errorType"], &detail["errorMessage"]), (&json!("ValueError"), &json!("no luck")));

    // The likely mistake: a server that never asks for requests, with a handler beside its command.
    let server =
        "import http from 'node:http'; http.createServer((_, r) => r.end('x')).listen(process.env.PORT);";
    let mistaken =
        Package::node_server("mistaken", server).setting("handler = \"server.handler\"\ntimeout = \"500ms\"");
    assert_eq!(node.deploy(&mistaken).await.kind, "handler");
    let answer = node.invoke("mistaken", "0").await;
    assert_eq!((answer.status.as_u16(), answer.header("stratos-error")), (504, "function_timeout"));
    let hint = answer.error().hint.expect("what to do");
    assert!(hint.contains("leave `handler` out for a server on $PORT"), "{hint}");

    // A command that is not in the package is found at deploy.
    let missing = Package::python("missing", "").setting("start = \"python3 runtime.py\"");
    let answer = node.try_deploy(&missing).await;
    let error = answer.error();
    assert_eq!((answer.status.as_u16(), error.key.as_deref()), (422, Some("start")), "{}", answer.text());
}

/// What boto3 makes of each call, in one run of Python.
fn boto3(endpoint: &str, secret: &str, calls: &[Value]) -> Vec<Value> {
    let script = stratos_tests::repository().join("tests/clients/invoke.py");
    let mut command = python_clients::python(&[script.to_str().expect("a UTF-8 path"), endpoint, secret]);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("python3 starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(json!(calls).to_string().as_bytes()).expect("python3 reads its calls");
    drop(stdin);
    let output = child.wait_with_output().expect("python3 ends");
    assert!(output.status.success(), "boto3 failed");
    serde_json::from_slice(&output.stdout).expect("the outcomes are JSON")
}

/// A node with a function `f` of two versions, reachable over TCP.
async fn node_for_clients() -> (Node, String, String) {
    let node = tcp::start(&[]).await;
    let code = |version: u8| {
        format!(
            r#"
export const handler = async (event, context) => {{
    if (event.fail) throw new RangeError('too far');
    if (event.hang) await new Promise(() => setTimeout(() => {{}}, 1e6));
    console.log('saw', JSON.stringify(event));
    return {{ version: {version}, event, custom: context.clientContext?.custom ?? null }};
}};
"#
        )
    };
    for version in [1, 2] {
        node.deploy(&Package::node("f", &code(version)).setting("timeout = \"1s\"")).await;
    }
    let endpoint = format!("http://{}", tcp::address(&node));
    let token = tcp::token(&node);
    (node, endpoint, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn boto3_invokes() {
    if !need_root("boto3_invokes") {
        return;
    }
    let (node, endpoint, token) = node_for_clients().await;
    let call = |more: Value| {
        let mut call = json!({ "FunctionName": "f", "Payload": "{\"a\":\"ü\"}" });
        call.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        call
    };
    let too_large = format!("\"{}\"", "x".repeat(6 << 20));
    let answered =
        |version: u8, custom: Value| json!({ "version": version, "event": { "a": "ü" }, "custom": custom });
    let context = "eyJjdXN0b20iOnsiYSI6MX19";
    let cases = [
        (
            call(json!({})),
            json!({ "StatusCode": 200, "ExecutedVersion": "2", "Payload": answered(2, json!(null)) }),
        ),
        (
            call(json!({ "Qualifier": "1", "ClientContext": context })),
            json!({ "StatusCode": 200, "ExecutedVersion": "1", "Payload": answered(1, json!({ "a": 1 })) }),
        ),
        (
            call(json!({ "FunctionName": "arn:aws:lambda:local:000000000000:function:f:1" })),
            json!({ "StatusCode": 200, "ExecutedVersion": "1", "Payload": answered(1, json!(null)) }),
        ),
        (call(json!({ "InvocationType": "Event" })), json!({ "StatusCode": 202, "Payload": null })),
        (call(json!({ "InvocationType": "DryRun" })), json!({ "StatusCode": 204, "Payload": null })),
        (
            call(json!({ "Payload": "{\"hang\":1}" })),
            json!({
                "StatusCode": 200,
                "FunctionError": "Unhandled",
                "ExecutedVersion": "2",
                "Payload": { "errorType": "Sandbox.Timedout", "errorMessage": "RequestId: [id] Error: Task timed out after 1.00 seconds" },
            }),
        ),
        (
            call(json!({ "FunctionName": "nobody" })),
            json!({ "exception": "ResourceNotFoundException", "code": "ResourceNotFoundException", "status": 404 }),
        ),
        (
            call(json!({ "Qualifier": "9" })),
            json!({ "exception": "ResourceNotFoundException", "code": "ResourceNotFoundException", "status": 404 }),
        ),
        (
            call(json!({ "Payload": "not JSON" })),
            json!({ "exception": "InvalidRequestContentException", "code": "InvalidRequestContentException", "status": 400 }),
        ),
        (
            call(json!({ "Payload": too_large })),
            json!({ "exception": "RequestTooLargeException", "code": "RequestTooLargeException", "status": 413 }),
        ),
    ];
    let calls: Vec<Value> = cases.iter().map(|(call, _)| call.clone()).collect();
    for ((call, want), mut got) in cases.iter().zip(boto3(&endpoint, &token, &calls)) {
        if let Some(message) = got["Payload"]["errorMessage"].as_str() {
            let id = message.split(' ').nth(1).unwrap_or_default().to_owned();
            got["Payload"]["errorMessage"] = message.replace(&id, "[id]").into();
        }
        assert_eq!(&got, want, "{:.300}", call.to_string());
    }

    let [mut failed, tail] = boto3(
        &endpoint,
        &token,
        &[call(json!({ "Payload": "{\"fail\":1}" })), call(json!({ "LogType": "Tail" }))],
    )
    .try_into()
    .expect("two outcomes");
    let trace = failed["Payload"].as_object_mut().and_then(|p| p.remove("trace")).expect("a stack trace");
    assert!(trace.to_string().contains("index.mjs"), "{trace}");
    let payload = json!({ "errorType": "RangeError", "errorMessage": "too far" });
    let want = json!({ "StatusCode": 200, "FunctionError": "Unhandled", "ExecutedVersion": "2", "Payload": payload });
    assert_eq!(failed, want);
    let log = tail["LogResult"].as_str().expect("the log's tail");
    assert!(log.contains("saw {\"a\":\"ü\"}\n") && log.contains("REPORT ok warm"), "{log}");

    let refused = boto3(&endpoint, "not-the-token", &[call(json!({}))]);
    let code = "InvalidSignatureException";
    assert_eq!(refused, [json!({ "exception": "ClientError", "code": code, "status": 403 })]);

    // The Event above was stored, and runs.
    let deadline = Instant::now() + Duration::from_secs(20);
    while node.records("f").await.iter().filter(|r| r.outcome == "ok").count() < 5 {
        assert!(Instant::now() < deadline, "{:?}", node.records("f").await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn aws(endpoint: &str, secret: &str, arguments: &[&str], dir: &std::path::Path) -> Output {
    let mut command =
        python_clients::python(&["-m", "awscli", "--endpoint-url", endpoint, "lambda", "invoke"]);
    command
        .args(arguments)
        .arg("answer.json")
        .current_dir(dir)
        .env("AWS_ACCESS_KEY_ID", "stratos")
        .env("AWS_SECRET_ACCESS_KEY", secret)
        .env("AWS_MAX_ATTEMPTS", "1")
        .stdin(Stdio::null());
    command.output().expect("python3 starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_aws_cli_invokes() {
    if !need_root("the_aws_cli_invokes") {
        return;
    }
    let (node, endpoint, token) = node_for_clients().await;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let output = aws(&endpoint, &token, &["--function-name", "f", "--payload", "{\"b\":1}"], dir.path());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{}", node.log());
    let printed: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    assert_eq!(printed, json!({ "StatusCode": 200, "ExecutedVersion": "2" }));
    let answer = std::fs::read(dir.path().join("answer.json")).expect("the answer's file");
    let answer: Value = serde_json::from_slice(&answer).expect("the answer is JSON");
    assert_eq!(answer, json!({ "version": 2, "event": { "b": 1 }, "custom": null }));

    let output = aws(&endpoint, &token, &["--function-name", "nobody"], dir.path());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("(ResourceNotFoundException)"), "{said}");
    assert!(said.contains("there is no function `nobody`"), "{said}");
}

/// Over the Unix socket, whose permissions are its guard, nothing needs to be signed.
#[tokio::test(flavor = "multi_thread")]
async fn the_aws_path_answers_on_the_socket() {
    if !need_root("the_aws_path_answers_on_the_socket") {
        return;
    }
    let node = Node::start().await;
    node.deploy(&Package::python("py", "def handler(event, context):\n    return event\n")).await;
    let path = "/2015-03-31/functions/py/invocations";
    let answer = node.call(Call::new(Method::POST, path, "[1]")).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "[1]"));
    assert_eq!(answer.header("x-amz-executed-version"), "1");
    assert_eq!(answer.header("x-amzn-requestid"), answer.header("stratos-invocation"));
}
