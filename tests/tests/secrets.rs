//! Secrets and the node's variables reach functions at the release of each instance, and are nowhere before it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use stratos_api::client::Call;
use stratos_tests::checkpoints::{detail, ready, settled};
use stratos_tests::package::example_program;
use stratos_tests::{Answer, Node, Package, go, need_root};

/// Longest wait for something that is on its way.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first user of instances (see `stratos-sandbox`).
const FIRST_UID: u32 = 0x7000_0000;

async fn set(node: &Node, name: &str, value: impl Into<bytes::Bytes>) -> Answer {
    node.call(Call::new(Method::PUT, format!("/v1/secrets/{name}"), value)).await
}

async fn set_ok(node: &Node, name: &str, value: &str) {
    let answer = set(node, name, value.to_owned()).await;
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), node.log());
}

async fn get(node: &Node, path: &str) -> Answer {
    node.call(Call::new(Method::GET, path, "")).await
}

/// What a function says of the variable PASSWORD, and how its instance was started.
async fn seen(node: &Node, name: &str) -> (Value, String) {
    let answer = ask(node, name).await;
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), node.log());
    (answer.json(), answer.header("stratos-start").to_owned())
}

async fn ask(node: &Node, name: &str) -> Answer {
    match name.ends_with("web") {
        true => get(node, &format!("/f/{name}/")).await,
        false => node.invoke(name, "{}").await,
    }
}

const JS: &str = "
    const read = () => process.env.PASSWORD ?? null;
    const scope = read();
    let hook = null;
    stratos.onRestore(() => { hook = read(); });
    export const handler = async () => ({ scope, hook, handler: read() });
";

const PY: &str = "
import os
from stratos import on_restore
scope, hook = os.environ.get('PASSWORD'), None
@on_restore
def restored():
    global hook
    hook = os.environ.get('PASSWORD')
def handler(event, context):
    return {'scope': scope, 'hook': hook, 'handler': os.environ.get('PASSWORD')}
";

const JS_WEB: &str = "
    import http from 'node:http';
    const read = () => process.env.PASSWORD ?? null;
    const scope = read();
    let hook = null;
    globalThis.stratos?.onRestore(() => { hook = read(); });
    http.createServer((q, s) => s.end(JSON.stringify({ scope, hook, handler: read() }))).listen(process.env.PORT);
";

const PY_WEB: &str = "
import http.server, json, os
from stratos import on_restore
scope, hook = os.environ.get('PASSWORD'), None
@on_restore
def restored():
    global hook
    hook = os.environ.get('PASSWORD')
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        seen = {'scope': scope, 'hook': hook, 'handler': os.environ.get('PASSWORD')}
        self.wfile.write(json.dumps(seen).encode())
    def log_message(self, *a): pass
http.server.HTTPServer(('', int(os.environ['PORT'])), Handler).serve_forever()
";

const SECRETS: &str = "[secrets]\nPASSWORD = \"password\"";

/// A handler or server of each runtime.
fn packages() -> [(&'static str, Package); 4] {
    let pyweb = "name = \"pyweb\"\nruntime = \"python3.13\"\nstart = \"python3 server.py\"\n";
    [
        ("js", Package::node("js", JS)),
        ("py", Package::python("py", PY)),
        ("jsweb", Package::node_server("jsweb", JS_WEB)),
        ("pyweb", Package::new().file("server.py", PY_WEB).file("stratos.toml", pyweb)),
    ]
}

/// All files below a folder that hold `needle`.
fn files_with(folder: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if path.is_file() {
            let bytes = std::fs::read(&path).expect("a file");
            if bytes.windows(needle.len()).any(|window| window == needle) {
                found.push(path);
            }
        }
    }
    found
}

/// Processes of a node's instances, those that are held included.
fn instance_processes(node: &Node) -> Vec<u32> {
    let parent = format!("PPid:\t{}\n", node.pid());
    let processes = std::fs::read_dir("/proc").expect("/proc is mounted").flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let uid = entry.metadata().ok()?.uid();
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        (uid >= FIRST_UID && status.contains(&parent)).then_some(pid)
    });
    processes.collect()
}

/// Waits for a process of an instance that is not `known`.
async fn another_process(node: &Node, known: Option<u32>) -> u32 {
    let begun = Instant::now();
    loop {
        if let Some(pid) = instance_processes(node).into_iter().find(|pid| Some(*pid) != known) {
            return pid;
        }
        assert!(begun.elapsed() < PATIENCE, "there is no process but {known:?}: {}", node.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Restored instances of both runtimes get a secret after the restore: it is in no file of the node but its own.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_arrive_after_the_restore_and_are_in_no_image() {
    if !need_root("secrets_arrive_after_the_restore_and_are_in_no_image") {
        return;
    }
    const VALUE: &str = "hush-5e3f1c7a90b24d68-hush";
    const MARK: &str = "mark-81d2c6f4a7e35b09-mark";
    let node = Node::builder().checkpoints().start().await;
    set_ok(&node, "password", VALUE).await;
    for (name, package) in packages() {
        // What is in the environment of the instance that is dumped is found in its image: so would be a secret.
        node.deploy(&package.setting(&format!("[env]\nMARK = \"{MARK}\"\n{SECRETS}"))).await;
        ready(&node, name).await;
        // The next one is another instance than any that was started before there was a checkpoint.
        set_ok(&node, "password", VALUE).await;
        let (seen, start) = seen(&node, name).await;
        assert_eq!(seen, json!({ "scope": null, "hook": VALUE, "handler": VALUE }), "{name}");
        assert_eq!(start, "restored", "{name}: {}", node.log());
    }
    let state = node.dir().join("state");
    for name in ["js", "py", "jsweb", "pyweb"] {
        let image = state.join(format!("checkpoints/default.{name}.1"));
        assert!(files_with(&state, MARK.as_bytes()).contains(&image), "{name}");
    }
    let own = state.join("secrets/default.password");
    assert_eq!(files_with(&state, VALUE.as_bytes()), std::slice::from_ref(&own));
    assert!(!node.log().contains(VALUE));
    let mode = |path: &Path| path.metadata().expect("it exists").permissions().mode() & 0o7777;
    assert_eq!((mode(&own), mode(&state.join("secrets"))), (0o600, 0o700));
    for path in
        ["/v1/secrets", "/v1/functions", "/v1/functions/js", "/v1/functions/js/versions", "/v1/node/tree"]
    {
        let answer = get(&node, path).await;
        assert!(answer.status == 200 && !answer.text().contains(VALUE), "{path}: {}", answer.text());
    }
    let listed = get(&node, "/v1/secrets").await.json();
    assert_eq!(
        (&listed[0]["name"], &listed[0]["used_by"]),
        (&json!("password"), &json!(["js", "jsweb", "py", "pyweb"]))
    );
}

/// Without a checkpoint, handlers are loaded as they are for one; other programs, and handlers that will never have one,
/// have secrets from the start.
#[tokio::test(flavor = "multi_thread")]
async fn fresh_instances_get_secrets_as_is_documented() {
    if !need_root("fresh_instances_get_secrets_as_is_documented") {
        return;
    }
    const VALUE: &str = "hush-2b7d40e91f6c8a35-hush";
    let node = Node::start().await;
    set_ok(&node, "password", VALUE).await;
    for (name, package) in packages() {
        node.deploy(&package.setting(SECRETS)).await;
        let scope = if name.ends_with("web") { json!(VALUE) } else { Value::Null };
        let (seen, start) = seen(&node, name).await;
        assert_eq!(seen, json!({ "scope": scope, "hook": VALUE, "handler": VALUE }), "{name}");
        assert_eq!(start, "fresh", "{name}");
    }
    let off = format!("checkpoint = \"off\"\n{SECRETS}");
    // A server that our preload does not run in, and that never reads its frame.
    let own = format!("[env]\nNODE_OPTIONS = \"--no-warnings\"\n{SECRETS}");
    let alone = JS_WEB.replace("hook = null", "hook = read()");
    for (name, package) in [
        ("jsoff", Package::node("jsoff", JS).setting(&off)),
        ("pyoff", Package::python("pyoff", PY).setting(&off)),
        ("ownweb", Package::node_server("ownweb", &alone).setting(&own)),
    ] {
        node.deploy(&package).await;
        let (seen, _) = seen(&node, name).await;
        assert_eq!(seen, json!({ "scope": VALUE, "hook": VALUE, "handler": VALUE }), "{name}");
    }

    // What execve(2) was given can be read by the instance's own user and by root.
    let environ = |pid: &u32| std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let holds = |pid: &u32| environ(pid).windows(VALUE.len()).any(|window| window == VALUE.as_bytes());
    let holders: Vec<u32> = instance_processes(&node).into_iter().filter(holds).collect();
    assert_eq!(holders.len(), 5, "two servers, and three that are given them at the start");
    for pid in holders {
        let read = Command::new("cat").arg(format!("/proc/{pid}/environ")).uid(65534).gid(65534).output();
        let read = read.expect("cat starts");
        assert!(!read.status.success() && read.stdout.is_empty(), "{read:?}");
    }
    assert!(!node.log().contains(VALUE));
}

/// Programs that are no runtime of ours: AWS's client has secrets before its first hook, a native program where it reads its
/// release, and one that does not wait for it has no checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn other_programs_get_secrets_where_they_are_released() {
    if !need_root("other_programs_get_secrets_where_they_are_released") {
        return;
    }
    const VALUE: &str = "hush-9c04be57d1a3826f-hush";
    let node = Node::builder().checkpoints().start().await;
    set_ok(&node, "password", VALUE).await;

    let hooks = PY
        .replace("from stratos import on_restore", "import snapshot_restore_py")
        .replace("@on_restore", "@snapshot_restore_py.register_after_restore");
    let ric = Package::python("ric", &hooks)
        .setting("start = \"python3 -m awslambdaric app.handler\"\nmemory = \"256MB\"")
        .setting(SECRETS)
        .file("requirements.txt", "awslambdaric==4.2.2\nsimplejson==4.3.0\nsnapshot-restore-py==1.0.0\n");
    node.deploy(&ric).await;
    ready(&node, "ric").await;
    let (seen, start) = seen(&node, "ric").await;
    assert_eq!(seen, json!({ "scope": null, "hook": VALUE, "handler": VALUE }));
    assert_eq!(start, "restored", "{}", node.log());

    let server = |name: &str, program: &Path| {
        let toml = format!("name = \"{name}\"\nruntime = \"native\"\nstart = \"./server\"\n{SECRETS}\n");
        let program = std::fs::read(program).expect("it was just built");
        Package::new().file("stratos.toml", toml).executable("server", program)
    };
    node.deploy(&server("parked", &example_program("parked-native", "server").expect("it builds"))).await;
    ready(&node, "parked").await;
    let answer = get(&node, "/f/parked/").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("stratos-start")),
        (200, "restored"),
        "{}",
        answer.text()
    );
    // Its log stream, the version's number in two of them, and the secret.
    let log = get(&node, "/v1/functions/parked/logs").await.text();
    assert!(log.contains("released with 4 variables") && !log.contains(VALUE), "{log}");

    node.deploy(&server("gopher", &go::build("go", ""))).await;
    let info = settled(&node, "gopher").await;
    let reason = "it does not wait for its release, and would not get its secrets and the node's variables";
    assert_eq!((info.state.as_str(), info.reason.as_deref()), ("none", Some(reason)));
    let answer = get(&node, "/f/gopher/").await;
    assert_eq!((answer.status.as_u16(), answer.header("stratos-start")), (200, "fresh"), "{}", answer.text());
    let own = node.dir().join("state/secrets/default.password");
    assert_eq!(files_with(&node.dir().join("state"), VALUE.as_bytes()), [own]);
}

/// Idle instances with an old value end at once, busy ones after their answer; held ones never had one.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_value_is_seen_by_the_next_invocation() {
    if !need_root("a_new_value_is_seen_by_the_next_invocation") {
        return;
    }
    let node = Node::builder().checkpoints().start().await;
    let slow = "export const handler = async (ms) => {
        await new Promise((go) => setTimeout(go, ms)); return process.env.PASSWORD; };";
    let slow = Package::node("slow", slow).setting(&format!("checkpoint = \"off\"\n{SECRETS}"));
    set_ok(&node, "password", "first").await;
    node.deploy(&slow).await;
    assert_eq!(node.invoke_ok("slow", "0").await, "first");
    set_ok(&node, "password", "second").await;
    let after = node.invoke("slow", "0").await;
    assert_eq!((after.json(), after.header("stratos-start")), (json!("second"), "fresh"));

    let busy = node.invoke("slow", "1500");
    let change = async {
        let begun = Instant::now();
        while !detail(&node, "slow").await.instances.iter().any(|instance| instance.state == "busy") {
            assert!(begun.elapsed() < PATIENCE, "it is never busy");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        set_ok(&node, "password", "third").await;
        node.invoke("slow", "0").await
    };
    let (busy, after) = tokio::join!(busy, change);
    assert_eq!((busy.json(), busy.header("stratos-start")), (json!("second"), "warm"));
    assert_eq!((after.json(), after.header("stratos-start")), (json!("third"), "fresh"));
    let after = node.invoke("slow", "0").await;
    assert_eq!((after.json(), after.header("stratos-start")), (json!("third"), "warm"));
    let begun = Instant::now();
    while instance_processes(&node).len() > 1 {
        assert!(begun.elapsed() < PATIENCE, "those with the old values do not end: {}", node.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    set_ok(&node, "other", "x").await;
    assert_eq!(node.invoke("slow", "0").await.header("stratos-start"), "warm", "it does not use that one");

    let held = Node::builder().checkpoints().start().await;
    set_ok(&held, "password", "first").await;
    held.deploy(&Package::node("js", JS).setting(&format!("held = 1\n{SECRETS}"))).await;
    // The first one is that which is dumped; it is no more, or soon, when another one is held.
    let dumped = another_process(&held, None).await;
    ready(&held, "js").await;
    let waiting = another_process(&held, Some(dumped)).await;
    assert!(detail(&held, "js").await.instances.is_empty(), "what is held was not released");
    set_ok(&held, "password", "second").await;
    let (seen, start) = seen(&held, "js").await;
    assert_eq!(seen, json!({ "scope": null, "hook": "second", "handler": "second" }));
    assert_eq!(start, "restored");
    assert!(instance_processes(&held).contains(&waiting), "the one that was held has answered");
}

/// A secret that is not there is no obstacle to a deploy, and is named when an instance needs it.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_is_named_and_a_used_one_stays() {
    if !need_root("a_missing_secret_is_named_and_a_used_one_stays") {
        return;
    }
    let node = Node::start().await;
    let version = node.deploy(&Package::node("js", JS).setting(SECRETS)).await;
    let note =
        "secrets.PASSWORD: this node has no secret `password`: set it with `stratos secret set password`";
    assert_eq!(version.notes, [note]);
    let missing = async || {
        let answer = node.invoke("js", "{}").await;
        let error = answer.error();
        let told = (answer.status.as_u16(), error.code.as_str(), error.blame.to_string());
        assert_eq!(told, (502, "secret_missing", "function".to_owned()), "{error:?}");
        assert_eq!(error.message, "function `js` needs the secret `password`, which this node does not have");
        let hint = error.hint.unwrap_or_default();
        assert!(hint.starts_with("set it with `stratos secret set password`"), "{hint}");
    };
    missing().await;
    set_ok(&node, "password", "here").await;
    assert!(detail(&node, "js").await.current.notes.is_empty());
    assert_eq!(seen(&node, "js").await.0["handler"], "here");

    let remove = async |query: &str| {
        node.call(Call::new(Method::DELETE, format!("/v1/secrets/password{query}"), "")).await
    };
    let refused = remove("").await;
    assert_eq!(refused.status, 409);
    assert_eq!(refused.error().message, "secret `password` is used by js");
    assert_eq!(seen(&node, "js").await.0["handler"], "here");
    assert_eq!(remove("?force=true").await.status, 204);
    assert_eq!(remove("").await.status, 409, "used, though not there");
    assert_eq!(remove("?force=true").await.status, 404);
    missing().await;

    let long = vec![b'x'; (32 << 10) + 1];
    for (name, value, status, says) in [
        ("Not_A_Name", &b"x"[..], 400, "is not a secret name"),
        ("a", b"", 400, "is empty"),
        ("a", b"\xffhush", 400, "is not UTF-8"),
        ("a", b"hush\0", 400, "NUL"),
        ("a", &long, 413, "32 KiB"),
    ] {
        let answer = set(&node, name, value.to_vec()).await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
        let text = answer.text();
        assert!(text.contains(says) && !text.contains("hush"), "{text}");
    }
    assert_eq!(get(&node, "/v1/secrets").await.json(), json!([]));
}

/// Two large secrets fit into a release, three do not, and that is said; restored or fresh.
#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_release_holds_is_refused() {
    if !need_root("more_than_a_release_holds_is_refused") {
        return;
    }
    const LENGTH: usize = 32_600;
    let node = Node::builder().checkpoints().start().await;
    for name in ["a", "b", "c"] {
        set_ok(&node, name, &name.repeat(LENGTH)).await;
    }
    let lengths = "export const handler = async () => ['A', 'B'].map((name) => process.env[name].length);";
    let two = "[secrets]\nA = \"a\"\nB = \"b\"\n";
    for (name, how, start) in [("restored", "", "restored"), ("fresh", "checkpoint = \"off\"\n", "fresh")] {
        node.deploy(&Package::node(name, lengths).setting(&format!("{how}{two}"))).await;
        if start == "restored" {
            ready(&node, name).await;
            set_ok(&node, "a", &"a".repeat(LENGTH)).await;
        }
        let answer = node.invoke(name, "{}").await;
        assert_eq!((answer.json(), answer.header("stratos-start")), (json!([LENGTH, LENGTH]), start));

        node.deploy(&Package::node(name, lengths).setting(&format!("{how}{two}C = \"c\""))).await;
        let answer = node.invoke(name, "{}").await;
        let error = answer.error();
        assert_eq!((answer.status.as_u16(), error.code.as_str()), (502, "environment_too_large"));
        let bytes = 3 * (LENGTH + 3);
        let says =
            format!("the secrets of function `{name}` and the node's variables have {bytes} bytes together");
        assert!(error.message.starts_with(&says), "{}", error.message);
    }
}

/// The node's own variables arrive the same way, and a function's own win.
#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_variables_reach_all_functions() {
    if !need_root("the_nodes_variables_reach_all_functions") {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("functions.toml");
    let variables = "PASSWORD = 'of the node'\nTZ = 'XXX-5'\nAWS_REGION = 'here'\nOWN = 'of the node'\n";
    std::fs::write(&file, variables).expect("a file");
    let js = "const scope = [process.env.PASSWORD ?? null, new Date(0).getHours()];
        export const handler = async () => ({
            scope, now: ['PASSWORD', 'AWS_REGION', 'OWN'].map((name) => process.env[name]), hour: new Date(0).getHours() });";
    let py = "
import os, time
scope = [os.environ.get('PASSWORD'), time.localtime(0).tm_hour]
def handler(event, context):
    now = [os.environ.get(name) for name in ['PASSWORD', 'AWS_REGION', 'OWN']]
    return {'scope': scope, 'now': now, 'hour': time.localtime(0).tm_hour}
";
    for (checkpoints, start) in [(true, "restored"), (false, "fresh")] {
        let node = Node::builder().arg("--function-environment").arg(&file);
        let node = if checkpoints { node.checkpoints() } else { node }.start().await;
        for (name, package) in [("js", Package::node("js", js)), ("py", Package::python("py", py))] {
            node.deploy(&package.setting("[env]\nOWN = \"of the function\"")).await;
            if checkpoints {
                ready(&node, name).await;
            }
            let answer = node.invoke(name, "{}").await;
            let seen =
                json!({ "scope": [null, 0], "now": ["of the node", "here", "of the function"], "hour": 5 });
            assert_eq!((answer.json(), answer.header("stratos-start")), (seen, start), "{name}");
        }
        // A server that starts afresh has them from its start, and a secret of the same name wins.
        if !checkpoints {
            set_ok(&node, "password", "a secret").await;
            node.deploy(&Package::node_server("jsweb", JS_WEB).setting(SECRETS)).await;
            let (seen, _) = seen(&node, "jsweb").await;
            assert_eq!(seen["scope"], "a secret");
        }
    }

    // With other variables the checkpoint is the same.
    let made = "const made = process.hrtime.bigint().toString();
        export const handler = async () => [made, process.env.AWS_REGION];";
    let mut node = Node::builder()
        .checkpoints()
        .arg("--idle-timeout")
        .arg("1s")
        .arg("--function-environment")
        .arg(&file)
        .start()
        .await;
    node.deploy(&Package::node("js", made)).await;
    ready(&node, "js").await;
    let first = node.invoke_ok("js", "{}").await;
    node.stop();
    std::fs::write(&file, variables.replace("here", "there")).expect("a file");
    node.restart().await;
    // The first request after a start does not wait for it.
    node.invoke_ok("js", "{}").await;
    ready(&node, "js").await;
    let begun = Instant::now();
    let again = loop {
        let answer = node.invoke("js", "{}").await;
        if answer.header("stratos-start") == "restored" {
            break answer.json();
        }
        assert!(begun.elapsed() < PATIENCE, "it is never restored: {}", node.log());
        // Instances end after a second without a request.
        tokio::time::sleep(Duration::from_millis(2100)).await;
    };
    assert_eq!((&first[1], &again[1]), (&json!("here"), &json!("there")));
    assert_eq!(first[0], again[0], "both went on from one initialisation");

    for (text, says) in [
        ("A = 'hush'\nPORT = 'hush'", "PORT is set by StratOS itself"),
        ("PATH = 'hush'", "PATH is read when a program starts"),
        ("A = 1", "A has to be a text in quotes"),
        ("A: hush", "line 1 is not of the form"),
    ] {
        std::fs::write(&file, text).expect("a file");
        let node = Command::new(stratos_tests::program("stratosd"))
            .args(["--dev", "--state"])
            .arg(dir.path().join("state"))
            .arg("--run")
            .arg(dir.path().join("run"))
            .arg("--function-environment")
            .arg(&file)
            .output()
            .expect("stratosd starts");
        let said = String::from_utf8_lossy(&node.stderr);
        assert!(!node.status.success(), "{said}");
        let named = said.contains(&file.display().to_string()) && said.contains(says);
        assert!(named && said.contains("hint: ") && !said.contains("hush"), "{said}");
    }
}

/// No instance keeps an old value, also when whoever changes it does not wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_rotated_although_the_client_has_gone() {
    if !need_root("a_secret_is_rotated_although_the_client_has_gone") {
        return;
    }
    let node = Node::start().await;
    set_ok(&node, "password", "0").await;
    node.deploy(&Package::node("js", JS).setting(SECRETS)).await;
    let file = node.dir().join("state/secrets/default.password");
    for value in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        assert_ne!(seen(&node, "js").await.0["handler"], value);
        let request = node.begin("PUT /v1/secrets/password", value);
        let begun = Instant::now();
        while std::fs::read_to_string(&file).expect("the secret's file") != value {
            assert!(begun.elapsed() < PATIENCE, "{value} is not stored");
        }
        drop(request);
        while seen(&node, "js").await.0["handler"] != value {
            assert!(begun.elapsed() < PATIENCE, "{value} does not arrive");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
