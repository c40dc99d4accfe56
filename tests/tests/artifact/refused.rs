//! What is not taken, or not built, at all.

use super::*;

/// What is damaged is refused as a whole, by name, and changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_artifacts_are_refused_and_named() {
    if !need_root("damaged_artifacts_are_refused_and_named") {
        return;
    }
    let pair = pair().await;
    pair.enroll();
    let good = fs::read(pair.build_signed("js")).expect("an artifact");
    let sections_at =
        usize::try_from(u64::from_le_bytes(good[24..32].try_into().expect("eight bytes"))).expect("small");
    let bad = pair.from.dir().join("bad.stratos");
    for (at, message) in [
        (26, "the artifact's header is damaged"),
        (200, "the artifact's manifest is damaged"),
        (sections_at + 10, "the artifact's section `code` is damaged"),
        (good.len() - 128 - 5000, "the artifact's section `checkpoint` is damaged"),
        (good.len() - 60, "the artifact's signature is not one that the key"),
    ] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        fs::write(&bad, bytes).expect("writable");
        let answer = send(&pair.node, &bad).await;
        assert_eq!(
            (answer.status.as_u16(), answer.error().code),
            (422, ErrorCode::InvalidFunction),
            "{}",
            answer.text()
        );
        let found = answer.json()["message"].as_str().expect("a message").to_owned();
        assert!(found.contains(message), "{found}");
    }
    fs::write(&bad, &good[..good.len() / 2]).expect("writable");
    assert!(send(&pair.node, &bad).await.text().contains("header is damaged: it has"));
    let listed = pair.node.call(Call::new(Method::GET, "/v1/functions", "")).await;
    assert_eq!(listed.json(), Value::Array(Vec::new()));
    assert!(checkpoints(&pair.node).is_empty());
    nothing_on_the_way(&pair.node);
    fs::rename(&bad, pair.to.dir().join("bad.stratos")).expect("writable");
    pair.to.check(
        "
$ stratos deploy bad.stratos 2>&1 | grep -o '^error: bad.stratos: the artifact.s header is damaged'
error: bad.stratos: the artifact's header is damaged
",
    );
}

/// What cannot be checkpointed is built without, and says why, or not at all when it requires one.
#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_without_a_checkpoint_says_why() {
    if !need_root("an_artifact_without_a_checkpoint_says_why") {
        return;
    }
    let pair = pair().await;
    let write = |more: &str| {
        let toml = "name = \"off\"\nruntime = \"node24\"\nhandler = \"index.handler\"\n";
        pair.from.write("off/stratos.toml", &format!("{toml}{more}"));
        let open =
            "import fs from 'node:fs'; fs.writeFileSync('/tmp/x', ''); export const handler = async () => 1;";
        pair.from.write("off/index.mjs", open);
    };
    write("");
    let artifact = pair.build_signed("off");
    pair.enroll();
    let outcome = deploy(&pair.node, &artifact).await.artifact.expect("it came from an artifact");
    assert_eq!(outcome.checkpoint, "none");
    assert!(outcome.reason.as_ref().is_some_and(|reason| reason.contains("/tmp")), "{outcome:?}");
    assert_eq!(pair.node.invoke_ok("off", "{}").await, 1);
    write("checkpoint = \"required\"\n");
    let output = pair
        .from
        .command("stratos")
        .args(["build", "off", "-o", "none.stratos"])
        .output()
        .expect("it starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("error: the function requires a checkpoint, and none can be made: "), "{stderr}");
    assert!(!pair.from.dir().join("none.stratos").exists());
    nothing_on_the_way(&pair.builder);
}
