//! Metrics, as the real Prometheus reads them.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use http::Method;
use serde_json::Value;
use stratos_api::client::{Call, Client, Endpoint};
use stratos_tests::{Node, need_root, tcp};

use super::{moody, until};

/// Whether a program is on this machine. Without it the test is skipped by name, and fails in CI.
fn need(test: &str, program: &str) -> bool {
    if Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{test}: CI is meant to have {program}");
    eprintln!("skipped: {test} (needs {program}: Debian's package prometheus)");
    false
}

async fn busy(node: &Node) {
    // A name cannot hold what would have to be escaped, so the formats are tested with that by themselves.
    node.deploy(&moody("hello").setting("[slo]\nlatency = \"1ms\"")).await;
    for event in ["1", "2", "\"throw\"", "\"exit\""] {
        node.invoke("hello", event).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_nothing_to_complain_about() {
    const NAME: &str = "promtool_finds_nothing_to_complain_about";
    if !need_root(NAME) || !need(NAME, "promtool") {
        return;
    }
    let node = Node::start().await;
    for round in 0..2 {
        let answer = node.call(Call::new(Method::GET, "/metrics", "")).await;
        assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        let mut promtool = Command::new("promtool");
        promtool
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = promtool.spawn().expect("it is there");
        child.stdin.take().expect("a pipe").write_all(&answer.body).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{round}: {said}\n{}", answer.text());
        busy(&node).await;
    }
}

/// A Prometheus of this test's own.
struct Prometheus {
    child: Child,
    client: Client,
    _dir: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It has nothing to say any more.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

impl Prometheus {
    fn start(node: SocketAddr, token: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let free =
            TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
        let config = format!(
            "global:\n  scrape_interval: 1s\nscrape_configs:\n- job_name: stratos\n  authorization:\n    \
             credentials_file: {}\n  static_configs:\n  - targets: ['{node}']\n",
            token.display()
        );
        std::fs::write(dir.path().join("prometheus.yml"), config).expect("a file");
        let log = std::fs::File::create(dir.path().join("log")).expect("a file");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={free}"))
            .arg("--enable-feature=exemplar-storage")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("it is there");
        let client = Client::new(Endpoint::Http(free.to_string()), None).expect("a client");
        Self { child, client, _dir: dir }
    }

    /// What it answers, once it answers with something.
    async fn ask(&self, path: &str) -> Value {
        until(path, async || {
            let answer = self.client.json::<Value>(Call::new(Method::GET, path, "")).await.ok()?;
            let result = answer["data"]["result"].as_array().cloned();
            let found = result.map(Value::Array).unwrap_or_else(|| answer["data"].clone());
            found.as_array().is_some_and(|found| !found.is_empty()).then_some(found)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_the_node() {
    const NAME: &str = "prometheus_scrapes_the_node";
    if !need_root(NAME) || !need(NAME, "prometheus") {
        return;
    }
    let node = tcp::start(&[]).await;
    busy(&node).await;
    // A stranger is told nothing.
    let address = tcp::address(&node);
    let stranger = tcp::client(&node, None).send(Call::new(Method::GET, "/metrics", "")).await;
    assert_eq!(stranger.expect("an answer").status(), 401);
    let prometheus = Prometheus::start(address, &node.dir().join("state/token"));
    for (query, want) in [
        ("faas_invocations_total{faas_name=\"hello\"}", "2"),
        ("faas_errors_total{faas_name=\"hello\",blame=\"function\"}", "2"),
        ("sum(faas_coldstarts_total{faas_name=\"hello\",start=\"cold\"})", "1"),
        ("faas_invoke_duration_seconds_count{faas_name=\"hello\"}", "4"),
        ("up{job=\"stratos\"}", "1"),
    ] {
        let query = query.replace('{', "%7B").replace('}', "%7D").replace('"', "%22");
        let found = prometheus.ask(&format!("/api/v1/query?query={query}")).await;
        assert_eq!(found[0]["value"][1], want, "{query}: {found}");
    }
    // What it negotiates is OpenMetrics, which has an example for each bucket.
    let query = "faas_invoke_duration_seconds_bucket%7Bfaas_name=%22hello%22%7D";
    let found =
        prometheus.ask(&format!("/api/v1/query_exemplars?query={query}&start=0&end=9999999999")).await;
    let example = found[0]["exemplars"][0]["labels"]["trace_id"].as_str().expect("a trace's id").to_owned();
    let known = node.records("hello").await.into_iter().any(|record| record.trace_id == example);
    assert!(known, "{found}");
}
