//! `--json` of every command.

use serde_json::{Value, json};
use stratos_tests::{Node, Session, need_root};

use super::write_greeter;

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
    assert_eq!(
        keys(&answer["phases_ms"]),
        ["dispatch", "handler", "init", "queue", "receive", "runtime", "sandbox", "total"]
    );
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
            "checkpoint",
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
