//! What a person types and sees.

use super::*;

/// What a person types and sees.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_builds_signs_and_says_what_became_of_it() {
    if !need_root("the_command_line_builds_signs_and_says_what_became_of_it") {
        return;
    }
    let pair = pair().await;
    let id = pair.key().public().id().to_string();
    let values: &[(&str, &str)] = &[("KEY", &id)];
    let copied = |name: &str| fs::copy(pair.from.dir().join(name), pair.to.dir().join(name)).expect("a copy");
    pair.from.check_with(
        values,
        "
$ stratos key generate -o release.key
! error: release.key is there already
! hint: keys are not replaced: choose another name with -o, or move the file away
[exit 1]
$ stratos key show release.pub
KEY  public
$ stratos key show js/index.mjs
! error: js/index.mjs is not a key
!  it is not PEM text
! hint: keys are Ed25519, in PEM: `stratos key generate` makes them
[exit 1]
$ stat -c %a release.key release.pub
600
644
$ stratos build js --no-runtime 2>/dev/null
built js.stratos ([n] MiB, [n] s)
runtime  node24 [version], not included
checkpoint  [n] MiB
signed by  nobody
next  stratos deploy js.stratos
$ stratos build js --sign js/index.mjs
! error: js/index.mjs is not a private key
!  it is not PEM text
! hint: `stratos key generate -o NAME.key` makes one
[exit 1]
",
    );
    copied("js.stratos");
    copied("release.pub");
    pair.to.check_with(
        values,
        "
$ stratos deploy js.stratos 2>&1 | grep -v 'url '
sending js.stratos, [n] MiB ...
verifying the artifact ...
unpacking ...
making the image ...
storing the version ...
deployed js version 1 ([n] KiB, [n] s)
checkpoint  dropped: the artifact is not signed; the node makes its own
hint: sign it with `stratos build --sign`, with a key that this node trusts
next  stratos invoke js -d '{}'
$ stratos show js | grep artifact
artifact  its checkpoint was dropped: the artifact is not signed
$ stratos key list
! the node believes no key; `stratos key enroll NAME.pub` makes it believe one
$ stratos key enroll release.pub
enrolled KEY: the node believes artifacts that it has signed
$ stratos key list
KEY  ENROLLED
KEY  [time]
",
    );
    pair.build_signed("js");
    copied("js.stratos");
    pair.to.check_with(
        values,
        "
$ stratos deploy js.stratos 2>/dev/null | grep checkpoint
checkpoint  taken from the artifact (signed by KEY)
$ stratos show js | grep -E 'checkpoint|artifact'
checkpoint  ready, [n] MiB, from the artifact (signed by KEY)
artifact  signed by KEY; its checkpoint was taken
$ stratos key remove KEY
removed KEY: checkpoints that came with its artifacts are made anew
$ stratos key remove 0123456789abcdef
! error: there is no key 0123456789abcdef
! hint: `stratos key list` lists the keys of this node
[exit 6]
$ stratos key enroll js.stratos
! error: cannot read js.stratos
!  stream did not contain valid UTF-8
[exit 1]
",
    );
    let built =
        pair.from.command("sh").args(["-c", "stratos build js --no-runtime --json | tail -n 1"]).output();
    let built: Value = serde_json::from_slice(&built.expect("sh starts").stdout).expect("a document");
    assert_eq!(
        (&built["event"], &built["file"], &built["signed_by"]),
        (&"written".into(), &"js.stratos".into(), &Value::Null)
    );
    assert_eq!(built["build"]["name"], "js");
}
