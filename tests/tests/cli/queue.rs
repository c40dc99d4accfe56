//! Asynchronous invocations and dead letters.

use std::time::{Duration, Instant};

use http::Method;
use stratos_api::client::Call;
use stratos_tests::{Node, Session, need_root};

use super::{PATIENCE, write_greeter};

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
