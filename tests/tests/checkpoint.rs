//! Instances that are restored from checkpoints answer as fresh ones do, and share no randomness.

use std::collections::BTreeSet;

use http::Method;
use serde_json::Value;
use stratos_api::ErrorCode;
use stratos_api::client::Call;
use stratos_tests::checkpoints::{ready, settled, without_instances};
use stratos_tests::{Node, Package, functional, need_root};

async fn node() -> Node {
    // Every instance ends soon after its request, so that the next request needs another.
    Node::builder().checkpoints().arg("--idle-timeout").arg("1s").start().await
}

const RANDOM_JS: &str = r#"
    import crypto from 'node:crypto';
    // All of these have been used before the checkpoint is taken.
    const used = [Math.random(), crypto.randomUUID(), crypto.randomInt(10), crypto.randomBytes(4)];
    const captured = Math.random;
    let calls = 0;
    export const handler = async (event) => (await new Promise((go) => setTimeout(go, 200)), {
        calls: ++calls,
        random: [
            String(Math.random()), String(captured()), crypto.randomUUID(), crypto.randomBytes(16).toString('hex'),
            String(crypto.randomInt(2 ** 40)), Buffer.from(crypto.getRandomValues(new Uint8Array(16))).toString('hex'),
        ],
        now: Date.now(),
        stream: process.env.AWS_LAMBDA_LOG_STREAM_NAME,
        checkpoint: process.env.STRATOS_CHECKPOINT,
        used: used.length,
    });
"#;

const RANDOM_PY: &str = r#"
import os, random, secrets, ssl, tempfile, time, uuid
used = [random.random(), secrets.token_hex(4), uuid.uuid4(), ssl.RAND_bytes(4), tempfile.mktemp()]
calls = 0
def handler(event, context):
    global calls
    calls += 1
    time.sleep(0.2)
    return {
        "calls": calls,
        "random": [str(random.random()), secrets.token_hex(16), str(uuid.uuid4()), ssl.RAND_bytes(16).hex(),
                   os.urandom(16).hex(), tempfile.mktemp()],
        "now": int(time.time() * 1000),
        "stream": os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME"),
        "checkpoint": os.environ.get("STRATOS_CHECKPOINT"),
    }
"#;

/// Handlers of both runtimes go on where they were initialised, each time as if for the first time, and nothing random
/// comes twice.
#[tokio::test(flavor = "multi_thread")]
async fn restored_handlers_answer_and_repeat_nothing_random() {
    if !need_root("restored_handlers_answer_and_repeat_nothing_random") {
        return;
    }
    const ROUNDS: usize = 8;
    let node = Node::builder().checkpoints().start().await;
    for package in [Package::node("js", RANDOM_JS), Package::python("py", RANDOM_PY)] {
        node.deploy(&package).await;
    }
    for name in ["js", "py"] {
        ready(&node, name).await;
        // As many at once need as many instances.
        let calls = (0..ROUNDS).map(|_| node.invoke(name, "{}"));
        let answers = futures_util::future::join_all(calls).await;
        let (mut random, mut streams) = (BTreeSet::new(), BTreeSet::new());
        let mut count = 0;
        for answer in &answers {
            assert_eq!(answer.status, 200, "{}\n{}", answer.text(), node.log());
            let start = answer.header("stratos-start");
            assert!(start == "restored" || start == "warm", "{start}");
            let value = answer.json();
            if start == "restored" {
                assert_eq!(value["calls"], 1, "its first request");
            }
            assert_eq!(value["checkpoint"], Value::Null);
            streams.insert((
                value["stream"].as_str().expect("its own").to_owned(),
                answer.header("stratos-instance").to_owned(),
            ));
            for text in value["random"].as_array().expect("a list") {
                count += 1;
                random.insert(text.as_str().expect("text").to_owned());
            }
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
            let age = now.as_millis() as i64 - value["now"].as_i64().expect("a time");
            assert!((0..30_000).contains(&age), "the clock is {age} ms old");
        }
        assert_eq!(random.len(), count, "something random came twice");
        assert!(streams.len() > 1, "several instances: {streams:?}");
        let records = node.records(name).await;
        assert!(records.iter().any(|record| record.restored), "{records:?}");
    }
}

/// Servers on `$PORT` are checkpointed while they listen.
#[tokio::test(flavor = "multi_thread")]
async fn restored_servers_answer() {
    if !need_root("restored_servers_answer") {
        return;
    }
    let node = node().await;
    let js = "const http = require('http'); let n = 0; \
              http.createServer((q, s) => s.end(`js ${++n} ${q.url}`)).listen(process.env.PORT);";
    let py = "import os, http.server\n\
              class H(http.server.BaseHTTPRequestHandler):\n\
              \x20   def do_GET(self):\n\
              \x20       self.send_response(200); self.end_headers(); self.wfile.write(b'py 1 ' + self.path.encode())\n\
              \x20   def log_message(self, *a): pass\n\
              http.server.HTTPServer(('', int(os.environ['PORT'])), H).serve_forever()\n";
    let settings = "name = \"pyweb\"\nruntime = \"python3.13\"\nstart = \"python3 server.py\"\n";
    let py = Package::new().file("server.py", py).file("stratos.toml", settings);
    let settings = "name = \"jsweb\"\nruntime = \"node24\"\nstart = \"node server.js\"\n";
    let js = Package::new().file("server.js", js).file("stratos.toml", settings);
    for (name, package, text) in [("jsweb", js, "js 1 /a"), ("pyweb", py, "py 1 /a")] {
        node.deploy(&package).await;
        ready(&node, name).await;
        for _ in 0..3 {
            let answer = node.call(Call::new(Method::GET, format!("/f/{name}/a"), "")).await;
            assert_eq!(
                (answer.text().as_str(), answer.header("stratos-start")),
                (text, "restored"),
                "{}",
                node.log()
            );
            without_instances(&node, name).await;
        }
    }
}

/// Whatever a handler's initialisation has under way goes on in its instances.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_has_under_way_goes_on() {
    if !need_root("what_a_handler_has_under_way_goes_on") {
        return;
    }
    let node = node().await;
    for (name, package) in functional::packages() {
        node.deploy(&package).await;
        ready(&node, name).await;
        for _ in 0..2 {
            let answer = node.invoke(name, "{}").await;
            assert_eq!(
                (answer.status.as_u16(), answer.header("stratos-start")),
                (200, "restored"),
                "{}",
                node.log()
            );
            functional::all_went_on(name, answer.json());
            without_instances(&node, name).await;
        }
    }
}

/// What cannot be checkpointed is started afresh, and says why; and `checkpoint` decides.
#[tokio::test(flavor = "multi_thread")]
async fn functions_that_cannot_be_checkpointed_start_afresh_and_say_why() {
    if !need_root("functions_that_cannot_be_checkpointed_start_afresh_and_say_why") {
        return;
    }
    let node = node().await;
    let handler = "export const handler = async () => 1;";
    let cases = [
        (
            "tmp",
            "import fs from 'node:fs'; fs.writeFileSync('/tmp/x', 'x');",
            "its initialisation has left /tmp/x",
        ),
        (
            "child",
            "import cp from 'node:child_process'; cp.spawn('/usr/bin/node', ['-e', 'setInterval(() => {}, 1e6)']);",
            "it has started other processes",
        ),
        (
            "proc",
            "import fs from 'node:fs'; fs.openSync('/proc/self/stat');",
            "is a file that another instance does not have",
        ),
    ];
    for (name, code, reason) in cases {
        node.deploy(&Package::node(name, &format!("{code}\n{handler}"))).await;
        let info = settled(&node, name).await;
        assert_eq!(info.state, "none", "{name}");
        assert!(info.reason.as_deref().unwrap_or_default().contains(reason), "{name}: {info:?}");
        let answer = node.invoke(name, "{}").await;
        assert_eq!((answer.text().as_str(), answer.header("stratos-start")), ("1", "fresh"), "{name}");
    }
    node.deploy(&Package::node("off", handler).setting("checkpoint = \"off\"")).await;
    let info = settled(&node, "off").await;
    assert_eq!(info.reason.as_deref(), Some("stratos.toml says checkpoint = \"off\""));

    let required =
        Package::node("required", &format!("{}\n{handler}", cases[0].1)).setting("checkpoint = \"required\"");
    node.deploy(&required).await;
    let error = node.invoke("required", "{}").await.error();
    assert!(
        error.message.starts_with("the function requires a checkpoint and has none: its initialisation"),
        "{error:?}"
    );
}

/// A checkpoint whose instances do not come back, or all crash at once, is given up: the function answers without.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_does_not_work_is_given_up() {
    if !need_root("a_checkpoint_that_does_not_work_is_given_up") {
        return;
    }
    let node = node().await;
    // Only a start that is checkpointed does not know its log stream yet.
    let head = "const isCopy = process.env.AWS_LAMBDA_LOG_STREAM_NAME === undefined;\n";
    let hook = format!(
        "{head}stratos.onRestore(() => {{ if (isCopy) process.exit(3); }});\nexport const handler = async () => 1;"
    );
    node.deploy(&Package::node("hook", &hook)).await;
    ready(&node, "hook").await;
    let answer = node.invoke("hook", "{}").await;
    assert_eq!((answer.text().as_str(), answer.header("stratos-start")), ("1", "fresh"), "{}", node.log());
    assert_eq!(settled(&node, "hook").await.state, "none");

    let crash =
        format!("{head}export const handler = async () => {{ if (isCopy) process.abort(); return 1; }};");
    node.deploy(&Package::node("crash", &crash)).await;
    ready(&node, "crash").await;
    for _ in 0..3 {
        assert_eq!(node.invoke("crash", "{}").await.error().code, ErrorCode::FunctionCrashed);
    }
    let answer = node.invoke("crash", "{}").await;
    assert_eq!((answer.text().as_str(), answer.header("stratos-start")), ("1", "fresh"));
    let reason = settled(&node, "crash").await.reason.unwrap_or_default();
    assert!(reason.contains("3 restored instances in a row gave no answer"), "{reason}");
}

/// A checkpoint outlives the agent, and one that was damaged meanwhile is made again.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_found_again_or_made_again() {
    if !need_root("a_checkpoint_is_found_again_or_made_again") {
        return;
    }
    let mut node = node().await;
    let code = "const made = process.hrtime.bigint().toString(); export const handler = async () => made;";
    node.deploy(&Package::node("kept", code)).await;
    ready(&node, "kept").await;
    let first = node.invoke("kept", "{}").await.text();
    without_instances(&node, "kept").await;
    assert_eq!(node.invoke("kept", "{}").await.text(), first, "both went on from one initialisation");

    node.kill_9();
    let folder = node.dir().join("state/checkpoints");
    let leftovers =
        ["default.gone.1", "default.kept.7", "default.kept.1.new", "nonsense"].map(|name| folder.join(name));
    leftovers.iter().for_each(|path| std::fs::write(path, "x").expect("a file"));
    node.restart().await;
    assert!(!leftovers.iter().any(|path| path.exists()), "what nobody will use is removed");
    // The first request after a start does not wait for it.
    node.invoke("kept", "{}").await;
    ready(&node, "kept").await;
    without_instances(&node, "kept").await;
    assert_eq!(node.invoke("kept", "{}").await.text(), first);

    let image = node.dir().join("state/checkpoints/default.kept.1");
    let mut last = first;
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change); 3] = [
        ("damaged", |bytes| flip_a_page(bytes)),
        ("cut off", |bytes| bytes.truncate(bytes.len() / 2)),
        ("of another kernel", change_kernel),
    ];
    for (what, change) in changes {
        let mut bytes = std::fs::read(&image).expect("the image");
        change(&mut bytes);
        node.kill_9();
        std::fs::write(&image, bytes).expect("a file");
        node.restart().await;
        assert_eq!(node.invoke("kept", "{}").await.status, 200, "{what}");
        ready(&node, "kept").await;
        without_instances(&node, "kept").await;
        let again = node.invoke("kept", "{}").await;
        assert_eq!(again.header("stratos-start"), "restored", "{what}");
        assert_ne!(again.text(), last, "an image that is {what} is not used");
        last = again.text();
        without_instances(&node, "kept").await;
    }
}

fn flip_a_page(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
}

/// Another release of the kernel, as long as the real one, and the digest of the metadata made right again
/// (docs/formats/checkpoint.md).
fn change_kernel(bytes: &mut Vec<u8>) {
    const METADATA: usize = 128;
    const MARK: &[u8] = b"\"kernel\":\"";
    let length = u64::from_le_bytes(bytes[16..24].try_into().expect("eight bytes")) as usize;
    let metadata = &mut bytes[METADATA..METADATA + length];
    let at = metadata.windows(MARK.len()).position(|text| text == MARK).expect("it names its kernel");
    metadata[at + MARK.len()] ^= 1;
    let digest = stratos_types::Digest::of(&bytes[METADATA..METADATA + length]);
    let hex = digest.hex();
    let digest = hex.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).expect("digits");
        u8::from_str_radix(pair, 16).expect("digits")
    });
    bytes.splice(40..72, digest);
}

/// What instances of one checkpoint have in common is theirs for a time only: another is made meanwhile, and no instance
/// has to wait for that or start afresh.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_renewed_when_it_is_old() {
    if !need_root("a_checkpoint_is_renewed_when_it_is_old") {
        return;
    }
    let node =
        Node::builder().checkpoints().arg("--idle-timeout").arg("1ms").arg("--checkpoint-age").arg("1s");
    let node = node.start().await;
    let code = "const made = crypto.randomUUID(); export const handler = async () => made;";
    node.deploy(&Package::node("ages", code)).await;
    ready(&node, "ages").await;
    let began = std::time::Instant::now();
    let mut seen = BTreeSet::new();
    while seen.len() < 3 {
        assert!(began.elapsed().as_secs() < 60, "one of {seen:?} serves for ever: {}", node.log());
        without_instances(&node, "ages").await;
        let answer = node.invoke("ages", "{}").await;
        assert_eq!((answer.status, answer.header("stratos-start")), (http::StatusCode::OK, "restored"));
        seen.insert(answer.text());
    }
}
