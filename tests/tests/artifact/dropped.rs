//! Checkpoints that are not used, and why.

use super::*;

/// Whoever sends it: without an enrolled key's signature the code is taken, and the checkpoint is not.
#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_without_a_believed_signature_are_dropped_and_made_anew() {
    if !need_root("checkpoints_without_a_believed_signature_are_dropped_and_made_anew") {
        return;
    }
    let pair = pair().await;
    let id = pair.key().public().id();
    for (name, arguments, reason, hint) in [
        ("js", &[][..], "the artifact is not signed".to_owned(), "stratos build --sign"),
        (
            "py",
            &["--sign", "release.key"][..],
            format!("it is signed by the unknown key {id}"),
            "stratos key enroll",
        ),
    ] {
        let version = deploy(&pair.node, &pair.build(name, arguments)).await;
        let outcome = version.artifact.expect("it came from an artifact");
        assert_eq!((outcome.checkpoint.as_str(), outcome.signed_by), ("dropped", None));
        assert_eq!(outcome.reason, Some(reason));
        assert!(outcome.hint.is_some_and(|text| text.contains(hint)));
        let info = settled(&pair.node, name).await;
        assert_eq!((info.state.as_str(), info.signed_by), ("ready", None), "its own");
        assert!(log_of(&pair.node, name).await.contains("made in"));
        let answer = restored(&pair.node, name).await;
        assert_eq!(answer["seen"], "1", "it was initialised here");
    }
    only_checkpoints(&pair.node, &["default.js.1".into(), "default.py.1".into()]).await;
    nothing_on_the_way(&pair.node);
}

/// With a right signature it is still only used where it was made for.
#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_of_another_machine_or_function_are_dropped() {
    if !need_root("checkpoints_of_another_machine_or_function_are_dropped") {
        return;
    }
    let pair = pair().await;
    let (id, key) = (pair.enroll(), pair.key());
    let artifact = pair.build_signed("js");
    type Change = fn(&mut Manifest, &mut Checkpoint);
    let cases: &[(Change, &str)] = &[
        (
            |manifest, checkpoint| {
                manifest.checkpoint.as_mut().expect("one").kernel = "5.4.0 #1 SMP".into();
                checkpoint.machine.kernel = "5.4.0 #1 SMP".into();
            },
            "it was made on the kernel `5.4.0 #1 SMP`, and this node runs `",
        ),
        // Who leaves the manifest as it was is found out by the checkpoint itself.
        (
            |_, checkpoint| checkpoint.machine.kernel = "5.4.0 #1 SMP".into(),
            "it is of the kernel `5.4.0 #1 SMP`",
        ),
        (
            |manifest, checkpoint| {
                let part = manifest.checkpoint.as_mut().expect("one");
                part.processor = "GenuineIntel 6/999 0".into();
                part.cpu_flags.push("amx-fp99".into());
                checkpoint.machine.processor = "GenuineIntel 6/999 0".into();
            },
            "this node's processor lacks what the one it was made on can do: amx-fp99",
        ),
        (
            |manifest, _| manifest.runtime.image_digest = Digest::of(b"other"),
            "it was made on the layer node24 sha256:",
        ),
        (|manifest, _| manifest.code.image = Digest::of(b"other"), "it was made for the image sha256:"),
        (|_, checkpoint| checkpoint.subject.push('x'), "it is of another function, or of other settings"),
        (
            |manifest, _| manifest.spec = manifest.spec.replace("memory = \"128MB\"", "memory = \"256MB\""),
            "it is of another function, or of other settings",
        ),
        (|_, checkpoint| checkpoint.threads.clear(), "the metadata of "),
    ];
    for (change, reason) in cases {
        let version = deploy(&pair.node, &rewritten(&artifact, &key, *change)).await;
        let outcome = version.artifact.expect("it came from an artifact");
        assert_eq!(
            (outcome.checkpoint.as_str(), outcome.signed_by.as_ref()),
            ("dropped", Some(&id)),
            "{reason}"
        );
        let found = outcome.reason.expect("a reason");
        assert!(found.starts_with(reason), "{found}");
    }
    // The same way with nothing changed: it is the change that is noticed.
    let version = deploy(&pair.node, &rewritten(&artifact, &key, |_, _| {})).await;
    assert_eq!(version.artifact.expect("it came from an artifact").checkpoint, "taken");
    restored(&pair.node, "js").await;
    only_checkpoints(&pair.node, &[format!("default.js.{}.{id}", cases.len() + 1)]).await;
    nothing_on_the_way(&pair.node);
}
