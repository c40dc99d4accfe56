//! Functions of every runtime answer, and every way to fail is told apart.

use std::sync::Arc;

use http::{Method, StatusCode};
use stratos_api::client::Call;
use stratos_tests::{Node, Package, need_root};

const ECHO_JS: &str = "export const handler = async (event) => ({ got: event });";
const ECHO_PY: &str = "def handler(event, context):\n    return {'got': event}\n";

#[tokio::test(flavor = "multi_thread")]
async fn handlers_answer_cold_and_warm() {
    if !need_root("handlers_answer_cold_and_warm") {
        return;
    }
    let node = Node::start().await;
    for package in [Package::node("echo-js", ECHO_JS), Package::python("echo-py", ECHO_PY)] {
        let version = node.deploy(&package).await;
        assert_eq!((version.version, version.current), (1, true));
    }
    for name in ["echo-js", "echo-py"] {
        let cold = node.invoke(name, r#"{"a":[1,"ü"]}"#).await;
        assert_eq!(
            (cold.status, cold.text().as_str()),
            (StatusCode::OK, r#"{"got":{"a":[1,"ü"]}}"#),
            "{name}"
        );
        assert_eq!(cold.header("stratos-start"), "fresh");
        assert_eq!(cold.header("stratos-version"), "1");
        let timing = cold.header("server-timing").to_owned();
        for phase in ["receive", "queue", "sandbox", "runtime", "init", "dispatch", "handler", "total"] {
            assert!(timing.contains(&format!("{phase};dur=")), "{timing}");
        }
        let warm = node.invoke(name, "1").await;
        assert_eq!((warm.text().as_str(), warm.header("stratos-start")), (r#"{"got":1}"#, "warm"));
        assert_ne!(warm.header("stratos-invocation"), cold.header("stratos-invocation"));

        let records = node.records(name).await;
        assert_eq!(records.len(), 2);
        assert!(records[1].cold && !records[0].cold);
        let p = &records[1].phases;
        let sum: u64 = p.named().iter().map(|(_, us)| us).sum();
        assert_eq!(sum, p.total_us, "the phases add up to the total");
        assert!(p.sandbox_us > 0 && p.runtime_us > 0 && p.init_us > 0, "{p:?}");
        assert_eq!((records[0].request_bytes, records[0].response_bytes), (1, 9));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_on_port_are_proxied() {
    if !need_root("servers_on_port_are_proxied") {
        return;
    }
    let node = Node::start().await;
    let server = r#"
        import http from 'node:http';
        http.createServer((req, res) => {
            let body = '';
            req.on('data', (d) => body += d).on('end', () => {
                res.setHeader('x-path', req.url);
                res.setHeader('x-trace', req.headers.traceparent ?? '');
                res.statusCode = req.method === 'PUT' ? 418 : 200;
                res.end(req.method + ' ' + body);
            });
        }).listen(process.env.PORT);
    "#;
    node.deploy(&Package::node_server("web", server)).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let call = Call::new(Method::PUT, "/f/web/a/b?c=d", "hello").header("traceparent", trace);
    let answer = node.call(call).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (418, "PUT hello"));
    assert_eq!(answer.header("x-path"), "/a/b?c=d");
    let seen = answer.header("x-trace").to_owned();
    assert!(seen.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "the trace goes on: {seen}");
    assert_ne!(seen, trace, "with a span of its own");
    assert_eq!(node.invoke("web", "x").await.text(), "POST x");
    let records = node.records("web").await;
    assert_eq!(records.iter().map(|r| r.outcome.as_str()).collect::<Vec<_>>(), ["ok", "ok"]);
    assert_eq!(records[0].response_bytes, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_stream_and_answer_function_urls() {
    if !need_root("handlers_stream_and_answer_function_urls") {
        return;
    }
    let node = Node::start().await;
    let code = r#"
        export const handler = awslambda.streamifyResponse(async (event, stream) => {
            stream = awslambda.HttpResponseStream.from(stream, { statusCode: 201, headers: { 'x-a': 'b' } });
            for (let i = 0; i < 3; i++) stream.write(`${i};`);
            stream.end();
        });
    "#;
    node.deploy(&Package::node("stream", code)).await;
    let answer = node.call(Call::new(Method::GET, "/f/stream/", "")).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str(), answer.header("x-a")), (201, "0;1;2;", "b"));

    let code = r#"
def handler(event, context):
    http = event['requestContext']['http']
    return {'statusCode': 202, 'headers': {'x-method': http['method']}, 'body': event['rawPath'] + event['rawQueryString']}
"#;
    node.deploy(&Package::python("url", code)).await;
    let answer = node.call(Call::new(Method::DELETE, "/f/url/p/q?a=1&a=2", "")).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (202, "/p/qa=1&a=2"));
    assert_eq!(answer.header("x-method"), "DELETE");
}

/// Every failure has its own status and code, and names who is to blame.
#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_apart() {
    if !need_root("failures_are_told_apart") {
        return;
    }
    let node = Node::start().await;
    let code = r#"
        export const handler = async (event) => {
            if (event === 'throw') throw new TypeError('boom');
            if (event === 'exit') process.exit(7);
            if (event === 'kill') process.abort();
            if (event === 'hang') await new Promise((done) => setTimeout(done, 60000));
            if (event === 'big') return 'x'.repeat(7 << 20);
            if (event === 'memory') { const all = []; for (;;) all.push(new Array(1e6).fill(Math.random())); }
            return 'fine';
        };
    "#;
    node.deploy(&Package::node("bad", code).setting("timeout = \"2s\"")).await;
    for (event, status, error, blame, says) in [
        ("throw", 502, "function_error", "function", "TypeError: boom"),
        ("exit", 502, "function_crashed", "function", "status 7"),
        // abort(3) of a PID 1: its SIGABRT is ignored, the trap instruction that follows is not.
        ("kill", 502, "function_crashed", "function", "killed by SIG"),
        ("hang", 504, "function_timeout", "function", "2s"),
        ("big", 502, "function_bad_response", "function", "6 MiB"),
        ("memory", 502, "function_out_of_memory", "function", "128MB"),
    ] {
        let answer = node.invoke("bad", format!("\"{event}\"")).await;
        let said = answer.error();
        let got = (answer.status.as_u16(), answer.header("stratos-error"), answer.header("stratos-blame"));
        assert_eq!(got, (status, error, blame), "{event}: {}", answer.text());
        assert!(said.message.contains(says), "{event}: {}", said.message);
        assert_eq!(node.invoke("bad", "0").await.text(), "\"fine\"", "the next request after {event}");
    }
    let records = node.records("bad").await;
    assert_eq!(records.iter().filter(|r| r.outcome == "function_timeout").count(), 1);

    node.deploy(&Package::node("noinit", "import 'nowhere'; export const handler = 1;")).await;
    let answer = node.invoke("noinit", "0").await;
    assert_eq!((answer.status.as_u16(), answer.header("stratos-error")), (502, "function_init_failed"));
    assert!(answer.text().contains("nowhere"), "{}", answer.text());

    let answer = node.invoke("nobody", "0").await;
    assert_eq!((answer.status.as_u16(), answer.header("stratos-blame")), (404, "client"));
    assert!(answer.error().hint.is_some());

    let answer = node.invoke("bad", vec![b' '; (6 << 20) + 1]).await;
    assert_eq!((answer.status.as_u16(), answer.header("stratos-error")), (413, "payload_too_large"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_packages_are_refused_with_file_key_and_hint() {
    if !need_root("wrong_packages_are_refused_with_file_key_and_hint") {
        return;
    }
    let node = Node::start().await;
    let answer = node.try_deploy(&Package::node("a", ECHO_JS).setting("memory = \"1TB\"")).await;
    let error = answer.error();
    assert_eq!(answer.status.as_u16(), 422, "{}", answer.text());
    assert_eq!((error.file.as_deref(), error.key.as_deref()), (Some("stratos.toml"), Some("memory")));
    assert!(error.hint.is_some());
    let answer =
        node.try_deploy(&Package::new().file("stratos.toml", "name = \"a\"\nruntime = \"native\"")).await;
    assert_eq!(answer.status.as_u16(), 422);
    let answer = node.call(Call::new(Method::POST, "/v1/functions", "not an archive at all")).await;
    assert_eq!(answer.status.as_u16(), 422, "{}", answer.text());
    let answer = node.call(Call::new(Method::GET, "/v1/functions", "")).await;
    assert_eq!(answer.text(), "[]", "nothing was deployed");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_roll_back_and_go_away() {
    if !need_root("versions_roll_back_and_go_away") {
        return;
    }
    let node = Node::start().await;
    for answer in ["one", "two"] {
        node.deploy(&Package::node("v", &format!("export const handler = () => '{answer}';"))).await;
        assert_eq!(node.invoke_ok("v", "0").await, answer);
    }
    let back = node.call(Call::new(Method::POST, "/v1/functions/v/rollback", "{}")).await;
    assert!(back.status.is_success(), "{}", back.text());
    assert_eq!(node.invoke_ok("v", "0").await, "one");
    let answer = node.call(Call::new(Method::POST, "/v1/functions/v/invoke?version=2", "0")).await;
    assert_eq!(answer.text(), "\"two\"");
    let removed = node.call(Call::new(Method::DELETE, "/v1/functions/v", "")).await;
    assert!(removed.status.is_success(), "{}", removed.text());
    assert_eq!(node.invoke("v", "0").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_kept_by_invocation() {
    if !need_root("logs_are_kept_by_invocation") {
        return;
    }
    let node = Node::start().await;
    let code = "def handler(event, context):\n    print('hello', event)\n    return 1\n";
    node.deploy(&Package::python("talk", code)).await;
    let answer = node.invoke("talk", "42").await;
    let id = answer.header("stratos-invocation");
    // The line and the answer take different ways out of the instance.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let log = node.call(Call::new(Method::GET, "/v1/functions/talk/logs?tail=100", "")).await.text();
        if log.contains("hello 42") && log.contains("REPORT ok cold") {
            assert!(log.contains(id), "{log}");
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{log}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// With `concurrency = 4` one instance has four requests at a time: each answers only once all four are there.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_takes_as_many_at_a_time_as_it_says() {
    if !need_root("an_instance_takes_as_many_at_a_time_as_it_says") {
        return;
    }
    let node = Arc::new(Node::start().await);
    let js = r#"
        const waiting = [];
        export const handler = () => new Promise((done) => {
            if (waiting.push(done) === 4) waiting.splice(0).forEach((done) => done('together'));
        });
    "#;
    let py = "import threading\nbarrier = threading.Barrier(4)\ndef handler(event, context):\n    barrier.wait()\n    return 'together'\n";
    for package in [Package::node("four-js", js), Package::python("four-py", py)] {
        let version = node.deploy(&package.setting("concurrency = 4\nmax_instances = 1")).await;
        let name = if version.runtime == "node24" { "four-js" } else { "four-py" };
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let node = Arc::clone(&node);
            calls.spawn(async move { node.invoke_ok(name, "0").await });
        }
        assert_eq!(calls.join_all().await, ["together"; 4]);
    }
}

/// One deadline from arrival: who waits too long for an instance is told so, and the function is not blamed.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_counts_towards_the_deadline() {
    if !need_root("waiting_counts_towards_the_deadline") {
        return;
    }
    let node = Arc::new(Node::start().await);
    let code = "export const handler = (ms) => new Promise((done) => setTimeout(done, ms, 'slept'));";
    node.deploy(&Package::node("slow", code).setting("max_instances = 1\ntimeout = \"3s\"")).await;
    assert_eq!(node.invoke_ok("slow", "0").await, "slept");
    let first = tokio::spawn({
        let node = Arc::clone(&node);
        async move { node.invoke("slow", "2500").await }
    });
    // The instance is busy once its first request is in flight.
    while node.call(Call::new(Method::GET, "/v1/functions/slow", "")).await.json()["instances"][0]["in_flight"]
        != 1
    {
        tokio::task::yield_now().await;
    }
    // It gets the instance with half a second left: the same deadline ends it in the handler.
    let second = node.invoke("slow", "2500").await;
    assert_eq!((second.status.as_u16(), second.header("stratos-error")), (504, "function_timeout"));
    assert!(first.await.expect("no panic").status.is_success());
    // Two in line, and the one instance taken for all of their time.
    let calls = (0..2).map(|_| {
        let node = Arc::clone(&node);
        tokio::spawn(async move { node.invoke("slow", "2900").await })
    });
    let mut outcomes: Vec<_> = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        let answer = call.await.expect("no panic");
        outcomes.push((answer.status.as_u16(), answer.header("stratos-blame").to_owned()));
    }
    outcomes.sort();
    assert!(outcomes[0].0 == 200 && outcomes[1].0 == 504, "{outcomes:?}");
}
