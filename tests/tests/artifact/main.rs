//! Artifacts: built on one node, deployed on another, and believed only as far as their signature is.

mod believed;
mod command_line;
mod dropped;
mod refused;
mod removed;

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use stratos_api::client::Call;
use stratos_api::{CheckpointInfo, ErrorCode, VersionInfo};
use stratos_artifact::{Artifact, Manifest, SecretKey, Section, Sources};
use stratos_checkpoint::image::{Checkpoint, Image};
use stratos_tests::checkpoints::{detail, settled, without_instances};
use stratos_tests::{Node, Session, need_root};
use stratos_types::Digest;

const PATIENCE: Duration = Duration::from_secs(60);

/// Handlers that tell whether they go on from a checkpoint, and what they saw while they initialised.
const JS: &str = r#"
    const seen = process.env.AWS_LAMBDA_FUNCTION_VERSION;
    const drawn = Math.random();
    let calls = 0;
    export const handler = async ({ pause }, context) => {
        await new Promise((resolve) => setTimeout(resolve, pause ?? 0));
        const version = process.env.AWS_LAMBDA_FUNCTION_VERSION;
        return { drawn, seen, calls: ++calls, version, told: context.functionVersion };
    };
"#;
const PY: &str = r#"
import os, random
import certificate_of_nothing
seen = os.environ["AWS_LAMBDA_FUNCTION_VERSION"]
drawn = random.random()
calls = 0
def handler(event, context):
    global calls
    calls += 1
    return {"drawn": drawn, "seen": seen, "calls": calls, "version": os.environ["AWS_LAMBDA_FUNCTION_VERSION"],
            "told": context.function_version}
"#;

/// A server that does the same.
const WEB: &str = r#"
    import http from 'node:http';
    const seen = process.env.K_REVISION;
    http.createServer((request, response) => response.end(JSON.stringify({ seen, revision: process.env.K_REVISION })))
        .listen(process.env.PORT);
"#;

/// A node to build on, one to deploy to, and a shell with a key.
struct Pair {
    from: Session,
    to: Session,
    builder: Node,
    node: Node,
}

async fn pair() -> Pair {
    pair_with(&["--idle-timeout", "1s"]).await
}

async fn pair_with(arguments: &[&str]) -> Pair {
    let builder =
        || arguments.iter().fold(Node::builder().checkpoints(), |node, argument| node.arg(argument));
    let start = || builder().start();
    let (builder, node) = tokio::join!(start(), start());
    let from = Session::new(&builder);
    from.write("js/stratos.toml", "name = \"js\"\nruntime = \"node24\"\nhandler = \"index.handler\"\n");
    from.write("js/index.mjs", JS);
    from.write("py/stratos.toml", "name = \"py\"\nruntime = \"python3.13\"\nhandler = \"app.handler\"\n");
    from.write("py/app.py", PY);
    from.write("py/certificate_of_nothing.py", "");
    from.write("web/stratos.toml", "name = \"web\"\nruntime = \"node24\"\nstart = \"node server.mjs\"\n");
    from.write("web/server.mjs", WEB);
    from.json(&["key", "generate", "-o", "release.key"]);
    Pair { from, to: Session::new(&node), builder, node }
}

impl Pair {
    /// Builds an artifact without the runtime layer, which both nodes have.
    fn build(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let file = self.from.dir().join(format!("{name}.stratos"));
        let mut command = self.from.command("stratos");
        command.args(["build", name, "-o"]).arg(&file).arg("--no-runtime").args(arguments);
        let output = command.output().expect("stratos starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        file
    }

    fn build_signed(&self, name: &str) -> PathBuf {
        self.build(name, &["--sign", "release.key"])
    }

    fn key(&self) -> SecretKey {
        SecretKey::from_pem(&fs::read_to_string(self.from.dir().join("release.key")).expect("a key"))
            .expect("a key")
    }

    /// Makes the second node believe the key; its id.
    fn enroll(&self) -> String {
        let public = self.from.dir().join("release.pub");
        let info = self.to.json(&["key", "enroll", public.to_str().expect("UTF-8")]);
        info["id"].as_str().expect("an id").to_owned()
    }
}

async fn send(node: &Node, artifact: &Path) -> stratos_tests::Answer {
    let bytes = fs::read(artifact).expect("an artifact");
    node.call(Call::new(Method::POST, "/v1/functions", bytes)).await
}

async fn deploy(node: &Node, artifact: &Path) -> VersionInfo {
    let answer = send(node, artifact).await;
    assert_eq!(answer.status, 201, "{}\n{}", answer.text(), node.log());
    serde_json::from_value(answer.json()).expect("a version")
}

/// Invokes a function, whose next instance must be restored.
async fn restored(node: &Node, name: &str) -> Value {
    let answer = node.invoke(name, "{}").await;
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), node.log());
    assert_eq!(answer.header("stratos-start"), "restored", "{}", log_of(node, name).await);
    answer.json()
}

/// The function's log, where a node says when it has made a checkpoint.
async fn log_of(node: &Node, name: &str) -> String {
    node.call(Call::new(Method::GET, format!("/v1/functions/{name}/logs?tail=100"), "")).await.text()
}

fn checkpoints(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(node.dir().join("state/checkpoints")).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

/// Waits until there are these checkpoints and no others: some of earlier versions may be on their way still.
async fn only_checkpoints(node: &Node, expected: &[String]) {
    let begun = Instant::now();
    while checkpoints(node) != expected {
        assert!(begun.elapsed() < PATIENCE, "{:?}, and not {expected:?}", checkpoints(node));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Nothing of a build or deploy is left on the way.
fn nothing_on_the_way(node: &Node) {
    for folder in ["state/spool", "state/blobs/tmp"] {
        assert_eq!(fs::read_dir(node.dir().join(folder)).expect("a folder").count(), 0, "{folder}");
    }
}

/// The file with other contents, signed with a key.
fn rewritten(
    artifact: &Path,
    key: &SecretKey,
    change: impl FnOnce(&mut Manifest, &mut Checkpoint),
) -> PathBuf {
    let folder = artifact.parent().expect("a folder");
    let old = Artifact::open(File::open(artifact).expect("an artifact")).expect("an artifact");
    let copy = |section, name: &str| {
        let mut bytes = Vec::new();
        old.section(section).expect("a section").read_to_end(&mut bytes).expect("readable");
        let path = folder.join(name);
        fs::write(&path, bytes).expect("writable");
        path
    };
    let (code, image) = (copy(Section::Code, "code"), copy(Section::Checkpoint, "image"));
    let mut manifest = old.manifest().clone();
    let whole = Image::open(&image).expect("a checkpoint");
    let mut checkpoint = whole.checkpoint().clone();
    change(&mut manifest, &mut checkpoint);
    let mut pages = vec![0; usize::try_from(whole.pages_bytes()).expect("they fit")];
    whole.file().read_exact_at(&mut pages, whole.pages_at()).expect("pages");
    let changed = folder.join("changed");
    stratos_checkpoint::image::write(&changed, &checkpoint, |to| to.write_all(&pages)).expect("writable");
    let to = folder.join("rewritten.stratos");
    let mut file =
        File::options().read(true).write(true).create(true).truncate(true).open(&to).expect("writable");
    let (code, checkpoint) = (File::open(code).expect("code"), File::open(changed).expect("a checkpoint"));
    let sources = Sources { code: &code, runtime: None, checkpoint: Some(&checkpoint) };
    stratos_artifact::write(&mut file, manifest, &sources).expect("an artifact");
    stratos_artifact::sign(file, key).expect("it is signed");
    to
}
