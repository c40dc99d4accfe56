//! AWS's own runtime client, unmodified, is checkpointed and restored by the SnapStart protocol.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stratos_api::ErrorCode;
use stratos_tests::checkpoints::{detail, ready, settled, without_instances};
use stratos_tests::{Answer, Node, Package, need_root};

/// AWS's own runtime client, with what it needs, as its authors publish it.
const AWSLAMBDARIC: &str = "awslambdaric==4.2.2\nsimplejson==4.3.0\nsnapshot-restore-py==1.0.0\n";

/// A function that `awslambdaric` runs.
fn ric(name: &str, code: &str) -> Package {
    ric_with(name, code, "")
}

/// The same with more packages.
fn ric_with(name: &str, code: &str, more: &str) -> Package {
    Package::python(name, code)
        .setting("start = \"python3 -m awslambdaric app.handler\"\nmemory = \"256MB\"\ntimeout = \"20s\"")
        .file("requirements.txt", format!("{AWSLAMBDARIC}{more}"))
}

/// A function with a client of its own in Python.
fn client(name: &str, code: &str) -> Package {
    Package::python(name, "def handler(event, context):\n    return event\n")
        .setting("start = \"python3 client.py\"\ntimeout = \"20s\"")
        .file("client.py", format!("{CLIENT}\n{code}"))
        .file("requirements.txt", "snapshot-restore-py==1.0.0\n")
}

/// What such clients are made of.
const CLIENT: &str = r#"
import http.client, os, select, socket, sys
import snapshot_restore_py as hooks

HOST, PORT = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
PATH = "/2018-06-01/runtime/"
snap_start = os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"] == "snap-start"

def run_before():
    registered = hooks.get_before_snapshot()
    while registered:
        hook, args, named = registered.pop()
        hook(*args, **named)

def run_after():
    for hook, args, named in hooks.get_after_restore():
        hook(*args, **named)

def connect():
    connection = socket.create_connection((HOST, int(PORT)))
    return connection

def ask(connection, path):
    connection.sendall(f"GET {PATH}{path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())

def read_answer(connection):
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer, answer.read()

def serve(answer_with):
    connection = http.client.HTTPConnection(HOST, int(PORT))
    while True:
        connection.request("GET", PATH + "invocation/next")
        answer = connection.getresponse()
        event = answer.read()
        id = answer.getheader("Lambda-Runtime-Aws-Request-Id")
        connection.request("POST", f"{PATH}invocation/{id}/response", answer_with(event))
        connection.getresponse().read()
"#;

async fn node(arguments: &[&str]) -> Node {
    // Every instance ends soon after its request, so that the next request needs another.
    let node = Node::builder().checkpoints().arg("--idle-timeout").arg("1s");
    arguments.iter().fold(node, |node, argument| node.arg(*argument)).start().await
}

/// Why a function has no checkpoint, and how it starts then.
async fn refused(node: &Node, name: &str) -> String {
    let info = settled(node, name).await;
    assert_eq!(info.state, "none", "{name}: {}", node.log());
    let answer = node.invoke(name, "1").await;
    let start = answer.header("stratos-start");
    assert_eq!((answer.text().as_str(), start), ("1", "fresh"), "{name}: {}", node.log());
    info.reason.unwrap_or_default()
}

fn restored(answer: &Answer, node: &Node) -> Value {
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), node.log());
    assert_eq!(answer.header("stratos-start"), "restored", "{}", node.log());
    answer.json()
}

const HOOKS: &str = r#"
import os, sys
import snapshot_restore_py as hooks

initialised = os.urandom(8).hex()
events, drawn = [], {}
calls = 0

def note(what):
    events.append([what, os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME")])
    drawn[what] = os.urandom(8).hex()

@hooks.register_before_snapshot
def before_a(): note("before a")

@hooks.register_before_snapshot
def before_b(): note("before b")

@hooks.register_after_restore
def after_a(): note("after a")

hooks.register_after_restore(note, "after b")

def handler(event, context):
    global calls
    calls += 1
    if event == "throw":
        raise KeyError("green")
    if event == "echo":
        return "x" * 5_000_000
    modules = [m for m in ("awslambdaric", "runtime_client", "stratos_runtime") if m in sys.modules]
    return {
        "events": events, "drawn": drawn, "initialised": initialised, "calls": calls, "modules": modules,
        "stream": context.log_stream_name, "type": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"],
        "checkpoint": os.environ.get("STRATOS_CHECKPOINT"), "request": context.aws_request_id,
    }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn awslambdaric_is_restored_and_runs_its_hooks() {
    if !need_root("awslambdaric_is_restored_and_runs_its_hooks") {
        return;
    }
    let node = node(&[]).await;
    node.deploy(&ric("ric", HOOKS)).await;
    ready(&node, "ric").await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let answer = node.invoke("ric", "1").await;
        let value = restored(&answer, &node);
        let stream = node.records("ric").await.swap_remove(0).instance.expect("it had one");
        let events =
            json!([["before b", null], ["before a", null], ["after a", stream], ["after b", stream]]);
        assert_eq!(value["events"], events, "in order, each in its process");
        assert_eq!(value["request"], answer.header("stratos-invocation"));
        let of_it = (&value["stream"], &value["type"], &value["calls"], &value["checkpoint"]);
        assert_eq!(of_it, (&json!(stream), &json!("snap-start"), &json!(1), &Value::Null));
        assert_eq!(value["modules"], json!(["awslambdaric", "runtime_client"]));

        // The client goes on as ever, on connections of its own.
        let again = node.invoke("ric", "1").await;
        assert_eq!((again.json()["calls"].clone(), again.header("stratos-start")), (json!(2), "warm"));
        let error = node.invoke("ric", r#""throw""#).await.error();
        assert_eq!(error.code, ErrorCode::FunctionError, "{error:?}");
        assert_eq!(node.invoke_ok("ric", r#""echo""#).await.as_str().map(str::len), Some(5_000_000));
        seen.push(value);
        without_instances(&node, "ric").await;
    }
    let distinct = |of: &dyn Fn(&Value) -> Value| {
        seen.iter().map(|value| of(value).to_string()).collect::<BTreeSet<_>>().len()
    };
    assert_eq!(distinct(&|value| value["initialised"].clone()), 1, "initialised once");
    assert_eq!(distinct(&|value| value["drawn"]["before a"].clone()), 1, "in the process that was dumped");
    assert_eq!(distinct(&|value| value["drawn"]["after a"].clone()), 3, "in each that was restored");

    // Those that are restored ahead of requests wait for their answer too.
    node.deploy(&ric("held", HOOKS).setting("held = 1")).await;
    ready(&node, "held").await;
    for _ in 0..3 {
        let value = restored(&node.invoke("held", "1").await, &node);
        let stream = node.records("held").await.swap_remove(0).instance.expect("it had one");
        assert_eq!((&value["stream"], &value["events"][2][1]), (&json!(stream), &json!(stream)));
        without_instances(&node, "held").await;
    }

    node.deploy(&ric("off", HOOKS).setting("checkpoint = \"off\"")).await;
    let answer = node.invoke("off", "1").await;
    assert_eq!(answer.header("stratos-start"), "fresh");
    assert_eq!((&answer.json()["type"], &answer.json()["events"]), (&json!("on-demand"), &json!([])));
}

const RANDOM: &str = r#"
import os, random, secrets, ssl, tempfile, time, uuid
import numpy
import snapshot_restore_py as hooks

# All of these have been used before the checkpoint is taken.
used = [random.random(), secrets.token_hex(4), uuid.uuid4(), ssl.RAND_bytes(4), tempfile.mktemp(), numpy.random.random()]

def draw():
    return [str(random.random()), secrets.token_bytes(16).hex(), str(uuid.uuid4()), ssl.RAND_bytes(16).hex(),
            os.urandom(16).hex(), str(numpy.random.random()), tempfile.mktemp()]

drawn = []
# Also by hooks of the function, which know nothing of the platform's.
hooks.register_before_snapshot(draw)
hooks.register_after_restore(lambda: drawn.extend(draw()))
calls = 0

def handler(event, context):
    global calls
    calls += 1
    time.sleep(0.2)
    return {"drawn": drawn + draw(), "calls": calls, "stream": context.log_stream_name}
"#;

/// Many instances at once, and nothing random comes twice: before the function's first hook each has numbers of its own.
#[tokio::test(flavor = "multi_thread")]
async fn instances_of_awslambdaric_draw_nothing_twice() {
    if !need_root("instances_of_awslambdaric_draw_nothing_twice") {
        return;
    }
    const INSTANCES: usize = 200;
    const AT_ONCE: usize = 25;
    let node = node(&["--memory", "32GB"]).await;
    let settings = format!("max_instances = {AT_ONCE}");
    node.deploy(&ric_with("random", RANDOM, "numpy==2.3.5\n").setting(&settings)).await;
    ready(&node, "random").await;
    let (mut instances, mut random, mut count) = (BTreeSet::new(), BTreeSet::new(), 0);
    while instances.len() < INSTANCES {
        // As many at once need as many instances.
        let calls = (0..AT_ONCE).map(|_| node.invoke("random", "{}"));
        for answer in futures_util::future::join_all(calls).await {
            assert_eq!(answer.status, 200, "{}\n{}", answer.text(), node.log());
            if answer.header("stratos-start") == "warm" {
                continue;
            }
            let value = restored(&answer, &node);
            assert_eq!(value["calls"], 1);
            assert!(instances.insert(value["stream"].as_str().expect("its own").to_owned()));
            for text in value["drawn"].as_array().expect("a list") {
                count += 1;
                random.insert(text.as_str().expect("text").to_owned());
            }
        }
        without_instances(&node, "random").await;
    }
    assert_eq!((random.len(), count), (instances.len() * 14, instances.len() * 14), "something came twice");
}

/// What fails before the checkpoint is why there is none; what fails after a restore is told to the caller, and when that
/// goes on, instances are started afresh.
#[tokio::test(flavor = "multi_thread")]
async fn hooks_that_fail_or_hang_are_told() {
    if !need_root("hooks_that_fail_or_hang_are_told") {
        return;
    }
    let node = node(&["--hook-limit", "1s"]).await;
    let hook = |when: &str, code: &str| {
        format!(
            "import os, sys, time\nimport snapshot_restore_py as hooks\n\
             def hook():\n    {code}\n\
             hooks.register_{when}(hook)\n\
             def handler(event, context):\n    return event\n"
        )
    };
    let hang = "time.sleep(3600)";
    for (name, code, reason) in [
        (
            "before-raise",
            "raise RuntimeError('not now')",
            "one of the function's before-snapshot hooks failed: RuntimeError: not now",
        ),
        ("before-exit", "os._exit(64)", "a before-snapshot hook failed (exit status 64)"),
        ("before-hang", hang, "the function's before-snapshot hooks took longer than 1s"),
    ] {
        node.deploy(&ric(name, &hook("before_snapshot", code))).await;
        assert_eq!(refused(&node, name).await, reason);
    }
    for (name, code, message) in [
        (
            "after-raise",
            "raise RuntimeError('lost')",
            "one of the function's after-restore hooks failed: RuntimeError: lost",
        ),
        (
            "after-exit",
            "os._exit(65)",
            "the function's process exited with status 65 before it could take a request",
        ),
        ("after-hang", hang, "the function's after-restore hooks took longer than 1s"),
    ] {
        node.deploy(&ric(name, &hook("after_restore", code))).await;
        ready(&node, name).await;
        for _ in 0..3 {
            let error = node.invoke(name, "1").await.error();
            let said = (error.code, error.message.as_str());
            assert_eq!(said, (ErrorCode::FunctionInitFailed, message), "{name}");
        }
        let reason = refused(&node, name).await;
        let expected =
            format!("3 restored instances in a row gave no answer to their first request: {message}");
        assert_eq!(reason, expected);
    }
}

/// A client that is not in its hooks when it ends was not restored well; nobody is told, the function starts afresh.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_client_that_breaks_off_is_replaced() {
    if !need_root("a_restored_client_that_breaks_off_is_replaced") {
        return;
    }
    let node = node(&[]).await;
    let code = "import os\nimport snapshot_restore_py as hooks\nhooks.register_after_restore(os._exit, 3)\n\
                def handler(event, context):\n    return event\n";
    node.deploy(&ric("broken", code)).await;
    ready(&node, "broken").await;
    let answer = node.invoke("broken", "1").await;
    assert_eq!((answer.text().as_str(), answer.header("stratos-start")), ("1", "fresh"), "{}", node.log());
    let reason = settled(&node, "broken").await.reason.unwrap_or_default();
    assert!(reason.contains("exited with status 3"), "{reason}");
}

/// Other clients in Python that keep to the protocol are checkpointed too, whatever they wait by; those that do not, or
/// cannot be, start afresh at once.
#[tokio::test(flavor = "multi_thread")]
async fn other_clients_are_restored_or_say_why_not() {
    if !need_root("other_clients_are_restored_or_say_why_not") {
        return;
    }
    let node = node(&[]).await;
    // Not blocking, waited for with poll(2), under two numbers, with options of its own.
    let polls = r#"
connection = connect()
connection.settimeout(3600)
connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77)
connection.set_inheritable(True)
copy = os.dup(connection.fileno())
def state():
    options = [connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
               connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
               connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)]
    same = os.fstat(copy).st_ino == os.fstat(connection.fileno()).st_ino
    return [options, connection.getsockname(), connection.getpeername(), os.get_blocking(copy),
            os.get_inheritable(connection.fileno()), os.get_inheritable(copy), same]
before, after = state(), None
if snap_start:
    run_before()
    ask(connection, "restore/next")
    read_answer(connection)
    run_after()
    after = state()
    # It is kept open, and is one like any other.
    ask(connection, "nowhere")
    assert read_answer(connection)[0].status == 404
serve(lambda event: event if after in (None, before) else repr((before, after)))
"#;
    node.deploy(&client("polls", polls)).await;
    ready(&node, "polls").await;
    for _ in 0..2 {
        let answer = node.invoke("polls", "1").await;
        assert_eq!(restored(&answer, &node), 1);
        without_instances(&node, "polls").await;
    }

    let began = Instant::now();
    let watched = r#"
if snap_start:
    run_before()
    connection = connect()
    watch = select.epoll()
    watch.register(connection, select.EPOLLIN)
    ask(connection, "restore/next")
    read_answer(connection)
serve(lambda event: event)
"#;
    let second = r#"
if snap_start:
    run_before()
    other, connection = connect(), connect()
    ask(connection, "restore/next")
    read_answer(connection)
serve(lambda event: event)
"#;
    let without_hooks = r#"
if snap_start:
    connection = connect()
    ask(connection, "restore/next")
    read_answer(connection)
serve(lambda event: event)
"#;
    for (name, package, reason) in [
        (
            "at-once",
            client("at-once", "serve(lambda event: event)"),
            "it does not know the SnapStart protocol",
        ),
        ("no-hooks", client("no-hooks", without_hooks), "without running the hooks of `snapshot_restore_py`"),
        ("watched", client("watched", watched), "watches the connection on which it waits for an answer"),
        ("second", client("second", second), "such as an open connection"),
        (
            "forks",
            ric("forks", "def handler(event, context):\n    return event\n").setting("concurrency = 2"),
            "it has started other processes",
        ),
    ] {
        node.deploy(&package).await;
        let refused = refused(&node, name).await;
        assert!(refused.contains(reason), "{name}: {refused}");
    }
    // Nothing of it waits for the functions' own limits.
    assert!(began.elapsed() < Duration::from_secs(80), "{:?}", began.elapsed());
    assert!(detail(&node, "polls").await.checkpoint.reason.is_none());
}
