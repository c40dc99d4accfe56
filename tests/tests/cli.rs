//! The real command line against a real node: what a person types and sees, compared whole.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use stratos_api::client::Call;
use stratos_tests::{Node, Session, need_root};

/// Longest wait for something that is on its way, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const GREETER: &str = "export const handler = async (event) => {\n    console.log('greeting', event.name);\n    \
                       return { hello: event.name ?? 'nobody' };\n};\n";
const GREETER_TOML: &str = "name = \"greet\"\nruntime = \"node24\"\nhandler = \"index.handler\"\n";

fn write_greeter(session: &Session) {
    session.write("greet/stratos.toml", GREETER_TOML);
    session.write("greet/index.mjs", GREETER);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomers_session() {
    if !need_root("a_newcomers_session") {
        return;
    }
    let node = Node::start().await;
    let session = Session::new(&node);
    session.check(
        r#"
$ stratos ls
! no functions yet; make one with `stratos new NAME`, deploy it with `stratos deploy NAME`
$ stratos new hello --runtime python3.13
made hello/ with stratos.toml, app.py
next  stratos deploy hello
$ stratos deploy hello
deployed hello version 1 ([n] KiB, [n] s)
url  curl --unix-socket [node]/api.sock http://stratos/f/hello/
next  stratos invoke hello -d '{}'
! packing hello ...
! sending 2 files, [n] B ([n] B compressed) ...
! unpacking ...
! compiling bytecode ...
! making the image ...
! storing the version ...
$ stratos invoke hello -d '{"name":"you"}' | cut -c 1-27
{"message":"Hello, you!","s
! cold  [n] ms  ([phases])  version 1  [id]
$ stratos ls
NAME  RUNTIME  VERSION  DEPLOYED  INSTANCES  INVOCATIONS  ERRORS
hello  python3.13  1  [time]  1  1  0
$ stratos versions hello
VERSION  DEPLOYED  RUNTIME  SIZE  DIGEST
      1  current  [time]  python3.13 [version]  [n] KiB  [digest]
$ stratos show hello
name  hello
version  1, deployed [time]
runtime  python3.13 (handler [version])
image  [digest] ([n] KiB)
layer  python3.13 [digest]
url  curl --unix-socket [node]/api.sock http://stratos/f/hello/
invocations  1 (0 errors, 1 cold starts), 0 waiting

SPECIFICATION
  concurrency = 1
  egress = []
  handler = "app.handler"
  max_instances = 10
  memory = "128MB"
  name = "hello"
  public = false
  runtime = "python3.13"
  timeout = "30s"

  [env]

INSTANCE  VERSION  STATE  IN FLIGHT  SERVED  AGE s  MEMORY
[instance]  1  idle  0  1  [age]  [memory]

INVOCATION  STARTED  START  QUEUE  SANDBOX  RUNTIME  INIT  HANDLER  TOTAL ms  OUTCOME
[id]  [time]  cold  [phases]  ok
$ sed -i 's/Hello/Good day/' hello/app.py
$ cd hello && stratos deploy
deployed hello version 2 ([n] KiB, [n] s)
url  curl --unix-socket [node]/api.sock http://stratos/f/hello/
next  stratos invoke hello -d '{}'
! packing . ...
! sending 2 files, [n] B ([n] B compressed) ...
! unpacking ...
! compiling bytecode ...
! making the image ...
! storing the version ...
$ stratos invoke hello -d '{"name":"you"}' | cut -c 1-30
{"message":"Good day, you!","s
! cold  [n] ms  ([phases])  version 2  [id]
$ stratos rollback hello
hello is back at version 1, deployed [time]
$ stratos invoke hello -d '{"name":"you"}' | cut -c 1-27
{"message":"Hello, you!","s
! cold  [n] ms  ([phases])  version 1  [id]
$ stratos invoke hello --version 2 -d '{"name":"you"}' | cut -c 1-30
{"message":"Good day, you!","s
! cold  [n] ms  ([phases])  version 2  [id]
$ stratos rollback hello
! error: version 1 of `hello` is the oldest there is
! hint: its versions: 1, 2
[exit 6]
$ stratos rollback hello --to 7
! error: function `hello` has no version 7
! hint: its versions: 1, 2
[exit 6]
$ stratos rollback hello --to 2
hello is back at version 2, deployed [time]
$ stratos versions hello
VERSION  DEPLOYED  RUNTIME  SIZE  DIGEST
      2  current  [time]  python3.13 [version]  [n] KiB  [digest]
      1  [time]  python3.13 [version]  [n] KiB  [digest]
$ stratos rm hello
! error: will not remove hello without being told to
! hint: add --yes
[exit 2]
$ stratos rm hello --yes
removed hello
$ stratos ls
! no functions yet; make one with `stratos new NAME`, deploy it with `stratos deploy NAME`
$ stratos show hello
! error: there is no function `hello`
! hint: `stratos ls` lists the functions of this node; `stratos deploy` adds one
[exit 6]
"#,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_come_from_anywhere() {
    if !need_root("payloads_come_from_anywhere") {
        return;
    }
    let node = Node::start().await;
    let session = Session::new(&node);
    write_greeter(&session);
    session.write("event.json", "{\"name\": \"file\"}");
    session.check(
        r#"
$ stratos deploy greet 2> /dev/null
deployed greet version 1 ([n] KiB, [n] s)
url  curl --unix-socket [node]/api.sock http://stratos/f/greet/
next  stratos invoke greet -d '{}'
$ stratos invoke greet -d '{"name":"data"}'
{"hello":"data"}
! cold  [n] ms  ([phases])  version 1  [id]
$ stratos invoke greet -f event.json
{"hello":"file"}
! warm  [n] ms  ([phases])  version 1  [id]
$ stratos invoke greet -f - < event.json
{"hello":"file"}
! warm  [n] ms  ([phases])  version 1  [id]
$ echo '{"name":"stdin"}' | stratos invoke greet
{"hello":"stdin"}
! warm  [n] ms  ([phases])  version 1  [id]
$ stratos invoke greet
{"hello":"nobody"}
! warm  [n] ms  ([phases])  version 1  [id]
$ stratos invoke greet -d '{"name":"log"}' --log 2>&1 > /dev/null | sort -k 3
warm  [n] ms  ([phases])  version 1  [id]
[time] [instance] platform REPORT ok warm [phases]
[time] [instance] stdout  greeting log
$ stratos invoke greet -d '{'
! error: the payload is not JSON: EOF while parsing an object at line 1 column 1
! hint: handlers take JSON; a text is "in quotes"
[exit 6]
$ stratos invoke greet -f nowhere.json
! error: cannot read the payload nowhere.json
!  No such file or directory (os error 2)
[exit 1]
$ stratos invoke greet -d '{}' -f event.json 2>&1 | head -1
error: the argument '--data <DATA>' cannot be used with '--file <FILE>'
$ stratos invoke nobody -d '{}'
! error: there is no function `nobody`
! hint: `stratos ls` lists the functions of this node; `stratos deploy` adds one
[exit 6]
$ stratos invoke greet --version 3 -d '{}'
! error: function `greet` has no version 3
! hint: `stratos versions greet` lists its versions
[exit 6]
$ stratos invoke greet -d '{}' --async
[id]
"#,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_have_exit_codes_causes_and_hints() {
    if !need_root("failures_have_exit_codes_causes_and_hints") {
        return;
    }
    let node = Node::start().await;
    let session = Session::new(&node);
    let code = "import os, time\n\ndef handler(event, context):\n    if event == 'hang':\n        time.sleep(60)\n    \
                if event == 'exit':\n        os._exit(3)\n    return {}[event]\n";
    session.write("bad/app.py", code);
    session.write("bad/stratos.toml", "name = \"bad\"\ntimeout = \"1s\"\nhandler = \"app.handler\"\n");
    session.write("web/stratos.toml", "name = \"web\"\nruntime = \"node24\"\nstart = \"node server.mjs\"\n");
    let server = "import http from 'node:http';\nhttp.createServer((req, res) => {\n    res.statusCode = 503;\n    \
                  res.end('closed on Mondays\\n');\n}).listen(process.env.PORT);\n";
    session.write("web/server.mjs", server);
    session.check(
        r#"
$ stratos deploy bad > /dev/null 2>&1
$ stratos deploy web > /dev/null 2>&1
$ stratos invoke bad -d '"name"'
! cold  [n] ms  ([phases])  version 1  [id]
! error: the function returned an error: KeyError: 'name'
!  File "/var/task/app.py", line 8, in handler
!  return {}[event]
!  ~~^^^^^^^
[exit 4]
$ stratos invoke bad -d '"hang"'
! warm  [n] ms  ([phases])  version 1  [id]
! error: the function did not answer within its timeout of 1s
! hint: raise `timeout` in stratos.toml, or do less in one request; the instance was ended
[exit 4]
$ stratos invoke bad -d '"exit"'
! cold  [n] ms  ([phases])  version 1  [id]
! error: the function's process exited with status 3 while it had this request
! hint: `stratos logs` shows what it printed; the request was not tried again
[exit 4]
$ stratos invoke web -d 'x'
closed on Mondays
! cold  [n] ms  ([phases])  version 1  [id]
! error: the function answered 503 Service Unavailable
[exit 4]
$ stratos invoke bad -d '"name"' --json 2> /dev/null
{"error":{"blame":"function","code":"function_error","detail":{"errorMessage":"'name'","errorType":"KeyError","requestId":"[id]","stackTrace":["  File \"/var/task/app.py\", line 8, in handler\n  return {}[event]\n  ~~^^^^^^^\n"]},"invocation":"[id]","message":"the function returned an error: KeyError: 'name'"}}
[exit 4]
"#,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_folders_are_refused_with_file_key_and_hint() {
    if !need_root("wrong_folders_are_refused_with_file_key_and_hint") {
        return;
    }
    let node = Node::start().await;
    let session = Session::new(&node);
    write_greeter(&session);
    session.write("typo/stratos.toml", &format!("{GREETER_TOML}memroy = \"1GB\"\n"));
    session.write("typo/index.mjs", GREETER);
    session.write("size/stratos.toml", &format!("{GREETER_TOML}memory = \"1TB\"\n"));
    session.write("toml/stratos.toml", "name = \"x\"\nruntime = \n");
    session.write("lost/stratos.toml", &GREETER_TOML.replace("index", "main"));
    session.write("lost/index.mjs", GREETER);
    session.write("what/notes.txt", "nothing to run here");
    session.check(
        r#"
$ stratos deploy typo
! packing typo ...
! sending 2 files, [n] B ([n] B compressed) ...
! unpacking ...
! error: stratos.toml: memroy: unknown key
! hint: did you mean `memory`?
[exit 6]
$ stratos deploy size 2>&1 | tail -2
error: stratos.toml: memory: `1TB` is not an amount of memory from 32MB to 64GB, such as "128MB"
hint: write an amount such as "128MB"
$ stratos deploy toml 2>&1 | tail -2
error: stratos.toml: line 2: string values must be quoted, expected literal string
hint: the file is TOML: `key = "value"`, one a line
$ stratos deploy lost 2>&1 | tail -2
error: stratos.toml: handler: `main.handler` names the module `main`, which is not in the package
hint: add main.mjs, main.js or main.cjs, or correct the handler
$ stratos deploy what 2>&1 | tail -2
error: stratos.toml: runtime: missing, and the folder's files do not tell it
hint: write runtime = "node24", "python3.13" or "native"
$ stratos deploy nowhere
! error: cannot read the folder nowhere
!  No such file or directory (os error 2)
[exit 1]
$ stratos deploy size --json 2> /dev/null
{"event":"step","step":"unpacking"}
{"event":"failed","error":{"code":"invalid_function","blame":"client","message":"`1TB` is not an amount of memory from 32MB to 64GB, such as \"128MB\"","hint":"write an amount such as \"128MB\"","file":"stratos.toml","key":"memory"}}
[exit 6]
$ stratos ls
! no functions yet; make one with `stratos new NAME`, deploy it with `stratos deploy NAME`
"#,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_retried_and_forgotten() {
    if !need_root("dead_letters_are_listed_retried_and_forgotten") {
        return;
    }
    let node = Node::start().await;
    let session = Session::new(&node);
    write_greeter(&session);
    session
        .write("greet/index.mjs", "export const handler = async () => { throw new Error('not today'); };\n");
    session.check(
        r#"
$ stratos deploy greet > /dev/null 2>&1
$ stratos dead-letters greet
! greet has no dead letters
$ stratos invoke greet -d '{"name":"one"}' --async | tee one
[id]
$ stratos invoke greet -d '{"name":"two"}' --async | tee two
[id]
"#,
    );
    let id = |file: &str| std::fs::read_to_string(session.dir().join(file)).expect("tee wrote it");
    for file in ["one", "two"] {
        wait_for_state(&node, id(file).trim(), "dead").await;
    }
    let letters = session.json(&["dead-letters", "greet"]);
    assert_eq!(letters.as_array().map(Vec::len), Some(2));
    session.check(
        r#"
$ stratos dead-letters greet
INVOCATION  ACCEPTED  ATTEMPTS  ERROR
[id]  [time]  3  function_error: the function returned an error: Error: not today
[id]  [time]  3  function_error: the function returned an error: Error: not today
$ stratos dead-letters greet --forget "$(cat two)"
forgotten [id]
$ stratos dead-letters greet --forget "$(cat two)"
! error: no asynchronous invocation [id] is known
! hint: the node remembers the last 10,000 that succeeded, and all others
[exit 6]
$ stratos dead-letters greet --retry not-an-id
! error: invalid value 'not-an-id' for '--retry <ID>': not an invocation id (a lower-case UUID)
!
! For more information, try '--help'.
[exit 2]
$ echo 'export const handler = async () => 1;' > greet/index.mjs
$ stratos deploy greet > /dev/null 2>&1
$ stratos dead-letters greet --retry "$(cat one)"
queued [id]
"#,
    );
    wait_for_state(&node, id("one").trim(), "succeeded").await;
    session.check(
        r#"
$ stratos dead-letters greet
! greet has no dead letters
$ stratos dead-letters greet --retry "$(cat one)"
! error: invocation [id] is not dead but succeeded
! hint: only invocations that failed for good can be queued again
[exit 6]
$ stratos dead-letters greet --all
! there was nothing to do
"#,
    );
}

async fn wait_for_state(node: &Node, id: &str, state: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = node.call(Call::new(Method::GET, format!("/v1/invocations/{id}"), "")).await;
        if answer.json()["state"] == state {
            return;
        }
        assert!(Instant::now() < deadline, "{}", answer.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_and_tokens_are_asked_for() {
    if !need_root("addresses_and_tokens_are_asked_for") {
        return;
    }
    let node = stratos_tests::tcp::start(&[]).await;
    let session = Session::new(&node);
    session.write("wrong", "not-the-token");
    let address = stratos_tests::tcp::address(&node).to_string();
    let token = node.dir().join("state/token").display().to_string();
    let transcript = r#"
$ stratos ls --node http://[address]
! error: this needs the node's token
! hint: give the node's token with --token, --token-file or STRATOS_TOKEN
[exit 6]
$ stratos ls --node http://[address] --token-file wrong
! error: this needs the node's token
! hint: give the node's token with --token, --token-file or STRATOS_TOKEN
[exit 6]
$ stratos ls --node http://[address] --token-file [token]
! no functions yet; make one with `stratos new NAME`, deploy it with `stratos deploy NAME`
$ stratos node health --node http://[address]
status  ok
version  [version]
! note: a node tells the rest to callers with its token (--token, --token-file or STRATOS_TOKEN)
$ stratos ls --node /nowhere/api.sock
! error: cannot reach the node at unix:///nowhere/api.sock
!  No such file or directory (os error 2)
! hint: start a node with `make dev`, or name one with --node URL or STRATOS_NODE
[exit 3]
$ stratos ls --node /nowhere/api.sock --json 2> /dev/null
{"error":{"causes":["No such file or directory (os error 2)"],"code":"unreachable","hint":"start a node with `make dev`, or name one with --node URL or STRATOS_NODE","message":"cannot reach the node at unix:///nowhere/api.sock"}}
[exit 3]
$ stratos completions bash | head -1
_stratos() {
$ stratos completions fish | head -1
# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
"#;
    session.check_with(&[("[address]", &address), ("[token]", &token)], transcript);
}

/// Two old lines, then a new one as it comes; an ended reader ends the command.
#[tokio::test(flavor = "multi_thread")]
async fn logs_are_shown_and_followed() {
    if !need_root("logs_are_shown_and_followed") {
        return;
    }
    let node = Node::start().await;
    let session = Session::new(&node);
    write_greeter(&session);
    session.check(
        r#"
$ stratos deploy greet > /dev/null 2>&1
$ stratos logs nobody
! error: there is no function `nobody`
! hint: `stratos ls` lists the functions of this node; `stratos deploy` adds one
[exit 6]
$ stratos invoke greet -d '{"name":"one"}' --log > /dev/null 2>&1
$ stratos invoke greet -d '{"name":"two"}' --log > /dev/null 2>&1
$ stratos logs greet | grep -c REPORT
2
$ stratos logs greet --json | grep -c '"invocation":"[0-9a-f-]*","message":"greeting '
2
"#,
    );
    let mut follow = Lines::of(session.command("stratos").args(["logs", "greet", "-f", "--tail", "4"]));
    let old: Vec<String> = (0..4).map(|_| follow.next()).collect();
    assert_eq!(old.iter().filter(|line| line.contains("stdout   greeting ")).count(), 2, "{old:?}");
    node.invoke_ok("greet", r#"{"name":"three"}"#).await;
    let mut new: Vec<String> = (0..2).map(|_| session.redact(&follow.next())).collect();
    new.sort();
    let want =
        ["[time] [instance] platform REPORT ok warm [phases]", "[time] [instance] stdout  greeting three"];
    assert_eq!(new, want);
    let removed = session.command("stratos").args(["rm", "greet", "--yes"]).output().expect("stratos starts");
    assert!(removed.status.success());
    assert_eq!(follow.end(), Some(0), "a log ends with its function");
}

/// A running command's stdout, line by line.
struct Lines {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Lines {
    fn of(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program is built");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, stdout }
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("lines are UTF-8");
        assert!(line.ends_with('\n'), "it ended: {line}");
        line.trim_end().to_owned()
    }

    /// Reads on to a line that holds `text`.
    fn until(&mut self, text: &str) -> String {
        loop {
            let line = self.next();
            if line.contains(text) {
                return line;
            }
        }
    }

    /// The exit code, once it has ended.
    fn end(mut self) -> Option<i32> {
        self.child.wait().expect("a child to wait for").code()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_result_is_also_a_json_document() {
    if !need_root("every_result_is_also_a_json_document") {
        return;
    }
    let node = Node::start().await;
    let session = Session::new(&node);
    write_greeter(&session);
    const VERSION: &[&str] = &[
        "current",
        "dependencies",
        "deployed_at",
        "digest",
        "kind",
        "layer",
        "runtime",
        "size",
        "spec",
        "version",
    ];
    for _ in 0..2 {
        let events =
            session.command("stratos").args(["deploy", "greet", "--json"]).output().expect("it starts");
        let events = String::from_utf8(events.stdout).expect("JSON is UTF-8");
        let events: Vec<Value> =
            events.lines().map(|line| serde_json::from_str(line).expect("a document a line")).collect();
        let kinds: Vec<_> = events.iter().filter_map(|event| event["event"].as_str()).collect();
        assert_eq!(kinds, ["step", "step", "step", "done"]);
        assert_eq!(keys(&events[3]), ["event", "name", "took_ms", "version"]);
        assert_eq!(keys(&events[3]["version"]), VERSION);
    }
    let answer = session.json(&["invoke", "greet", "-d", "{\"name\":\"x\"}"]);
    assert_eq!(keys(&answer), ["answer", "invocation", "phases_ms", "start", "status", "version"]);
    assert_eq!(keys(&answer["phases_ms"]), ["handler", "init", "queue", "runtime", "sandbox", "total"]);
    assert_eq!(answer["answer"], json!({ "hello": "x" }));
    assert_eq!(
        (&answer["start"], &answer["status"], &answer["version"]),
        (&json!("cold"), &json!(200), &json!(2))
    );
    assert_eq!(keys(&session.json(&["invoke", "greet", "-d", "{}", "--async"])), ["invocation"]);
    let list = session.json(&["ls"]);
    let summary = ["deployed_at", "errors", "instances", "invocations", "name", "runtime", "version"];
    assert_eq!(keys(&list[0]), summary);
    let detail = session.json(&["show", "greet"]);
    assert_eq!(
        keys(&detail),
        [
            "cold_starts",
            "current",
            "errors",
            "instances",
            "invocations",
            "name",
            "queued",
            "recent",
            "url_path"
        ]
    );
    assert_eq!(keys(&detail["current"]), VERSION);
    assert_eq!((&detail["name"], &detail["url_path"]), (&json!("greet"), &json!("/f/greet/")));
    let versions = session.json(&["versions", "greet"]);
    assert_eq!(versions.as_array().map(Vec::len), Some(2));
    assert_eq!(keys(&versions[1]), VERSION);
    assert_eq!(session.json(&["dead-letters", "greet"]), json!([]));
    assert_eq!(session.json(&["rollback", "greet"])["version"], 1);
    let health = session.json(&["node", "health"]);
    assert_eq!(
        keys(&health),
        ["agent_rss_kb", "instances", "layers", "missing", "queued", "status", "uptime_s", "version"]
    );
    assert_eq!(session.json(&["rm", "greet", "--yes"]), json!({ "removed": "greet" }));
    assert_eq!(session.json(&["ls"]), json!([]));
    assert_eq!(keys(&session.json(&["new", "other"])), ["files", "name", "runtime"]);
}

fn keys(document: &Value) -> Vec<&str> {
    let object = document.as_object().unwrap_or_else(|| panic!("not an object: {document}"));
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn health_names_layers_and_what_is_missing() {
    if !need_root("health_names_layers_and_what_is_missing") {
        return;
    }
    let node = Node::start().await;
    let session = Session::new(&node);
    session.check(
        r#"
$ stratos node health | head -6
node  unix://[node]/api.sock
status  degraded
version  [version]
uptime  [n] s
instances  0 (0 requests waiting)
memory  [n] MiB (the agent)
"#,
    );
    let output = session.command("stratos").args(["node", "health"]).output().expect("stratos starts");
    let text = String::from_utf8(output.stdout).expect("the output is UTF-8");
    for layer in ["native", "node24", "python3.13"] {
        assert!(text.contains(&format!("\nlayer      {layer} ")), "{text}");
    }
    // Which limits a machine lacks differs; that each is told with its consequence does not.
    let health = session.json(&["node", "health"]);
    for missing in health["missing"].as_array().expect("a list") {
        let [what, consequence] = ["what", "consequence"].map(|key| missing[key].as_str().expect("a text"));
        assert!(text.contains(&format!("\nmissing    {what}: {consequence}\n")), "{text}");
    }
    let status = if health["missing"] == json!([]) { "ok" } else { "degraded" };
    assert_eq!(health["status"], status);
}

/// `stratos dev`: a node of its own, a new version on each change, nothing left when it ends.
#[tokio::test(flavor = "multi_thread")]
async fn dev_follows_changes_and_leaves_nothing() {
    if !need_root("dev_follows_changes_and_leaves_nothing") {
        return;
    }
    let session = Session::without_node();
    write_greeter(&session);
    let temporary = session.dir().join("tmp");
    std::fs::create_dir(&temporary).expect("a folder");
    let log = std::fs::File::create(session.dir().join("stderr")).expect("a file");
    let mut command = session.command("stratos");
    command.args(["dev", "greet"]).env("TMPDIR", &temporary).stderr(log);
    let mut dev = Lines::of(&mut command);
    let first: Vec<String> = (0..3).map(|_| dev.next()).collect();
    let socket = "[dir]/tmp/stratos-dev-[random]/api.sock";
    let want = format!(
        "deployed greet version 1 ([n] KiB)\nurl  curl --unix-socket {socket} http://stratos/f/greet/\n\
         next  stratos --node unix://{socket} invoke greet -d '{{}}'"
    );
    assert_eq!(session.redact(&first.join("\n")), want);
    let endpoint = first[2].split(' ').find(|word| word.starts_with("unix://")).expect("where the node is");
    let invoke = || {
        let arguments = ["--node", endpoint, "invoke", "greet", "-d", "{\"name\":\"dev\"}"];
        let output = session.command("stratos").args(arguments).output().expect("stratos starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(invoke(), "{\"hello\":\"dev\"}");
    assert!(dev.until("greeting").ends_with(" stdout   greeting dev"));

    session.write("greet/index.mjs", &GREETER.replace("hello:", "goodbye:"));
    assert_eq!(session.redact(&dev.until("deployed")), "deployed greet version 2 ([n] KiB)");
    assert_eq!(invoke(), "{\"goodbye\":\"dev\"}");

    // A mistake is told and does not end it; the next change mends it.
    session.write("greet/stratos.toml", &format!("{GREETER_TOML}memory = 1\n"));
    let stderr = || std::fs::read_to_string(session.dir().join("stderr")).expect("it is written");
    wait_until(|| stderr().contains("error: stratos.toml: memory: is an integer"));
    session.write("greet/stratos.toml", &format!("{GREETER_TOML}memory = \"64MB\"\n"));
    assert_eq!(session.redact(&dev.until("deployed")), "deployed greet version 3 ([n] KiB)");
    assert_eq!(invoke(), "{\"goodbye\":\"dev\"}");

    let left = processes_with(&temporary);
    assert!(!left.is_empty(), "the node runs");
    let pid = Pid::from_child(&dev.child);
    kill_process(pid, Signal::INT).expect("it runs");
    assert_eq!(dev.end(), Some(0), "{}", stderr());
    assert_eq!(processes_with(&temporary), Vec::<u32>::new(), "the node has ended");
    let entries: Vec<_> = std::fs::read_dir(&temporary).expect("a folder").collect();
    assert!(entries.is_empty(), "{entries:?}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    assert!(!mounts.contains(temporary.to_str().expect("a UTF-8 path")), "{mounts}");
}

/// Processes that have `path` in their command line.
fn processes_with(path: &Path) -> Vec<u32> {
    let path = path.to_str().expect("a UTF-8 path");
    let entries = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mentions = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(path)
    };
    pids.filter(mentions).collect()
}

/// Asks again and again, for what has no event to wait for.
fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}
