//! What a key has signed that is not believed any more.

use super::*;

/// What a removed key has signed is not used any more: at once, and when it was removed while the node was down.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_on_from_what_a_removed_key_signed() {
    if !need_root("nothing_goes_on_from_what_a_removed_key_signed") {
        return;
    }
    let mut pair = pair().await;
    let artifact = pair.build_signed("js");
    let id = pair.enroll();
    deploy(&pair.node, &artifact).await;
    assert_eq!(restored(&pair.node, "js").await["seen"], "$LATEST");
    let answer = pair.node.call(Call::new(Method::DELETE, format!("/v1/keys/{id}"), Bytes::new())).await;
    assert_eq!(answer.status, 204);
    assert_eq!(pair.node.call(Call::new(Method::DELETE, format!("/v1/keys/{id}"), "")).await.status, 404);
    let info = settled(&pair.node, "js").await;
    assert_eq!((info.state.as_str(), info.signed_by), ("ready", None));
    // Also not by an instance that was restored before.
    assert_eq!(pair.node.invoke_ok("js", "{}").await["seen"], "1");
    only_checkpoints(&pair.node, &["default.js.1".into()]).await;

    pair.enroll();
    deploy(&pair.node, &artifact).await;
    only_checkpoints(&pair.node, &[format!("default.js.2.{id}")]).await;
    pair.node.stop();
    pair.node.restart().await;
    assert_eq!(settled_after_start(&pair.node).await.signed_by.as_ref(), Some(&id), "it outlives the agent");
    pair.node.stop();
    fs::remove_file(pair.node.dir().join(format!("state/trusted-keys/{id}.pub"))).expect("the key is there");
    pair.node.restart().await;
    assert!(checkpoints(&pair.node).iter().all(|name| !name.contains(&id)), "{:?}", checkpoints(&pair.node));
    assert_eq!(pair.node.invoke_ok("js", "{}").await["seen"], "2");
    let info = settled(&pair.node, "js").await;
    assert_eq!((info.state.as_str(), info.signed_by), ("ready", None));
}

/// Waits until the node has looked at what its predecessor left.
async fn settled_after_start(node: &Node) -> CheckpointInfo {
    let begun = Instant::now();
    loop {
        let info = settled(node, "js").await;
        if info.state == "ready" {
            return info;
        }
        assert!(begun.elapsed() < PATIENCE, "{info:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The removal is complete, also when whoever asked for it does not wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_removed_although_the_client_has_gone() {
    if !need_root("a_key_is_removed_although_the_client_has_gone") {
        return;
    }
    let pair = pair().await;
    let artifact = pair.build_signed("js");
    let id = pair.enroll();
    let file = pair.node.dir().join(format!("state/trusted-keys/{id}.pub"));
    for version in 1..=8 {
        deploy(&pair.node, &artifact).await;
        only_checkpoints(&pair.node, &[format!("default.js.{version}.{id}")]).await;
        let request = pair.node.begin(&format!("DELETE /v1/keys/{id}"), "");
        let begun = Instant::now();
        while file.exists() {
            assert!(begun.elapsed() < PATIENCE, "the key is not removed");
        }
        drop(request);
        only_checkpoints(&pair.node, &[format!("default.js.{version}")]).await;
        pair.enroll();
    }
}

/// Nobody tells the node when a key's file is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_is_noticed_at_the_next_start_of_an_instance() {
    if !need_root("a_deleted_key_is_noticed_at_the_next_start_of_an_instance") {
        return;
    }
    let pair = pair().await;
    let artifact = pair.build_signed("js");
    let id = pair.enroll();
    deploy(&pair.node, &artifact).await;
    assert_eq!(restored(&pair.node, "js").await["seen"], "$LATEST");
    without_instances(&pair.node, "js").await;
    fs::remove_file(pair.node.dir().join(format!("state/trusted-keys/{id}.pub"))).expect("the key is there");
    assert_eq!(pair.node.invoke_ok("js", "{}").await["seen"], "1", "it is initialised here");
    let info = settled(&pair.node, "js").await;
    assert_eq!((info.state.as_str(), info.signed_by), ("ready", None));
    only_checkpoints(&pair.node, &["default.js.1".into()]).await;

    // One that must have a checkpoint waits for its own.
    let spec =
        "name = \"js\"\nruntime = \"node24\"\nhandler = \"index.handler\"\ncheckpoint = \"required\"\n";
    pair.from.write("js/stratos.toml", spec);
    pair.enroll();
    deploy(&pair.node, &pair.build_signed("js")).await;
    assert_eq!(restored(&pair.node, "js").await["seen"], "$LATEST");
    without_instances(&pair.node, "js").await;
    fs::remove_file(pair.node.dir().join(format!("state/trusted-keys/{id}.pub"))).expect("the key is there");
    assert_eq!(restored(&pair.node, "js").await["seen"], "2");
}

/// A checkpoint that is made anew is the node's own; instances of the one before are not.
#[tokio::test(flavor = "multi_thread")]
async fn instances_of_a_renewed_checkpoint_end_with_the_key_of_the_one_before() {
    if !need_root("instances_of_a_renewed_checkpoint_end_with_the_key_of_the_one_before") {
        return;
    }
    let pair = pair_with(&["--idle-timeout", "60s", "--checkpoint-age", "1s"]).await;
    let artifact = pair.build_signed("js");
    let id = pair.enroll();
    deploy(&pair.node, &artifact).await;
    assert_eq!(restored(&pair.node, "js").await["seen"], "$LATEST");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // Two at once: another instance, at whose start the checkpoint is old.
    let pause = || pair.node.invoke_ok("js", r#"{"pause": 500}"#);
    let answers = tokio::join!(pause(), pause());
    assert_eq!((&answers.0["seen"], &answers.1["seen"]), (&"$LATEST".into(), &"$LATEST".into()));
    only_checkpoints(&pair.node, &["default.js.1".into()]).await;
    assert_eq!(pair.node.invoke_ok("js", "{}").await["seen"], "$LATEST", "instances stay");
    let answer = pair.node.call(Call::new(Method::DELETE, format!("/v1/keys/{id}"), Bytes::new())).await;
    assert_eq!(answer.status, 204);
    assert_eq!(pair.node.invoke_ok("js", "{}").await["seen"], "1");
}
