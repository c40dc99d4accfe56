//! What an enrolled key has signed is used.

use super::*;

/// The promise: what one node initialised, another goes on from, without starting the function once.
#[tokio::test(flavor = "multi_thread")]
async fn a_signed_artifact_is_restored_on_another_node() {
    if !need_root("a_signed_artifact_is_restored_on_another_node") {
        return;
    }
    let pair = pair().await;
    let key = pair.enroll();
    for name in ["js", "py"] {
        // Versions are counted by each node.
        deploy(&pair.node, &pair.build(name, &["--no-checkpoint"])).await;
        let artifact = pair.build_signed(name);
        settled(&pair.node, name).await;
        let before = log_of(&pair.node, name).await.matches("made in").count();

        let version = deploy(&pair.node, &artifact).await;
        let outcome = version.artifact.expect("it came from an artifact");
        assert_eq!(
            (outcome.checkpoint.as_str(), outcome.signed_by.as_ref()),
            ("taken", Some(&key)),
            "{outcome:?}"
        );
        let info = detail(&pair.node, name).await.checkpoint;
        assert_eq!((info.state.as_str(), info.signed_by.as_ref()), ("ready", Some(&key)), "{info:?}");

        let mut drawn = Vec::new();
        for _ in 0..2 {
            let answer = restored(&pair.node, name).await;
            assert_eq!(answer["calls"], 1, "each instance is another");
            assert_eq!(
                (&answer["version"], &answer["told"]),
                (&"2".into(), &"2".into()),
                "the number is the node's"
            );
            assert_eq!(answer["seen"], "$LATEST", "what it saw where it was built");
            drawn.push(answer["drawn"].clone());
            without_instances(&pair.node, name).await;
        }
        // It is the same initialisation, and it did not happen here.
        assert_eq!(drawn[0], drawn[1]);
        let log = log_of(&pair.node, name).await;
        assert_eq!(log.matches("made in").count(), before, "{log}");
        assert!(log.contains(&format!("taken from the artifact, which the key {key} has signed")), "{log}");
    }
    deploy(&pair.node, &pair.build_signed("web")).await;
    let answer = restored(&pair.node, "web").await;
    assert_eq!((&answer["seen"], &answer["revision"]), (&"web".into(), &"web-00001".into()));
    let expected = ["js.2", "py.2", "web.1"].map(|name| format!("default.{name}.{key}"));
    only_checkpoints(&pair.node, &expected).await;

    // The builder keeps nothing, and knows no such function.
    let listed = pair.builder.call(Call::new(Method::GET, "/v1/functions", "")).await;
    assert_eq!(listed.json(), Value::Array(Vec::new()));
    assert!(checkpoints(&pair.builder).is_empty());
    assert_eq!(fs::read_dir(pair.builder.dir().join("state/logs")).expect("a folder").count(), 0);
    for node in [&pair.builder, &pair.node] {
        nothing_on_the_way(node);
    }
}

/// A node without the runtime takes it from an artifact that it believes, and from no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_layer_comes_with_a_believed_artifact_only() {
    if !need_root("a_missing_layer_comes_with_a_believed_artifact_only") {
        return;
    }
    let dir = tempfile::Builder::new().prefix("stratos-test-").tempdir().expect("a temporary folder");
    let layers = dir.path().join("layers");
    fs::create_dir(&layers).expect("a folder");
    // What makes images is there; runtimes are not.
    for entry in fs::read_dir(stratos_tests::layers_dir()).expect("layers") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_str().expect("UTF-8");
        if name.starts_with("tools") {
            fs::copy(&path, layers.join(name)).expect("a copy");
        }
    }
    let pair = pair().await;
    let bare = Node::builder().checkpoints().layers(layers.clone()).start().await;
    let without = pair.build_signed("py");
    let with = pair.from.dir().join("with.stratos");
    let build = |sign: &[&str]| {
        let mut command = pair.from.command("stratos");
        let output =
            command.args(["build", "py", "-o"]).arg(&with).args(sign).output().expect("stratos starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let refused = async |artifact: &Path, reason: &str| {
        let answer = send(&bare, artifact).await;
        assert_eq!(answer.status, 422, "{}", answer.text());
        let message = answer.json()["message"].as_str().expect("a message").to_owned();
        assert_eq!(message, format!("this node has no runtime layer `python3.13`, and {reason}"));
    };
    build(&[]);
    refused(&with, "takes none from an artifact that is not signed").await;
    build(&["--sign", "release.key"]);
    refused(&with, "takes none from an artifact that an unknown key has signed").await;
    let session = Session::new(&bare);
    session.json(&["key", "enroll", pair.from.dir().join("release.pub").to_str().expect("UTF-8")]);
    refused(&without, "there is none in the artifact").await;
    let names = |folder: &Path| fs::read_dir(folder).expect("a folder").count();
    assert_eq!(names(&layers), 3, "the tools alone");
    let version = deploy(&bare, &with).await;
    assert_eq!(version.artifact.expect("it came from an artifact").checkpoint, "taken");
    restored(&bare, "py").await;
    assert_eq!(names(&layers), 5);
    // From now on the layer is the node's own.
    let version = deploy(&bare, &without).await;
    assert_eq!(version.artifact.expect("it came from an artifact").checkpoint, "taken");
}
