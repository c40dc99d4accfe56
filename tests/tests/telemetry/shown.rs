//! What the command line shows of it.

use stratos_tests::{Node, Session, need_root};

use super::{errors, moody};

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_functions_errors_and_traces() {
    if !need_root("the_command_line_shows_functions_errors_and_traces") {
        return;
    }
    let node = Node::start().await;
    let session = Session::new(&node);
    node.deploy(&moody("hello")).await;
    session.check(
        r#"
$ stratos invocations hello
! no invocations of hello are remembered
$ stratos invocations hello --errors
! no failed invocations of hello are remembered
$ stratos top
0 functions, 0.0 invocations/s, 0 errors in 5 min; 0 traces kept, 0 dropped

FUNCTION  RATE/s  P50 ms  P95 ms  P99 ms  COLD  MEMORY  ERRORS  INSTANCES
$ stratos top --minutes 0
! error: invalid value '0' for '--minutes <N>': 0 is not in 1..=1440
!
! For more information, try '--help'.
[exit 2]
"#,
    );
    for event in ["1", "2", "3", "\"throw\""] {
        node.invoke("hello", event).await;
    }
    let top = session.command("stratos").args(["top", "--once", "--sort", "p99"]).output().expect("it runs");
    let shown = String::from_utf8_lossy(&top.stdout).into_owned();
    let row: Vec<&str> = shown.lines().nth(3).unwrap_or_default().split_whitespace().collect();
    assert_eq!(
        (row[0], row[5], row[row.len() - 3], row[row.len() - 1]),
        ("hello", "25.0", "25.0", "1"),
        "{shown}"
    );
    assert!(shown.contains("1 traces kept, 0 dropped"), "{shown}");
    let json = session.json(&["top", "--once"]);
    assert_eq!(json["functions"][0]["total"]["invocations"], 4);
    assert_eq!(session.json(&["invocations", "hello"]).as_array().map(Vec::len), Some(4));
    assert_eq!(session.json(&["invocations", "hello", "--limit", "2"]).as_array().map(Vec::len), Some(2));
    let failed = session.json(&["invocations", "hello", "--errors"]);
    assert_eq!(failed[0]["outcome"], "function_error");

    let id = errors(&node, "hello").await.swap_remove(0).id;
    let drawn =
        session.command("stratos").args(["invocations", "hello", "--trace", &id]).output().expect("it runs");
    let drawn = String::from_utf8_lossy(&drawn.stdout).into_owned();
    for line in [
        "outcome     function_error (function)",
        "error       the function returned an error: TypeError: boom",
        "gateway",
        "handler",
    ] {
        assert!(drawn.lines().any(|l| l.starts_with(line)), "{line}\n{drawn}");
    }
    assert_eq!(session.json(&["invocations", "hello", "--trace", &id])["kept"], "error");
    session.check_with(
        &[("ID", "00000000-0000-4000-8000-000000000000")],
        r#"
$ stratos invocations other --trace ID
! error: the trace of invocation ID is not kept
! hint: kept are the last 100 of each function, and those that failed or took longer than its [slo]
[exit 6]
"#,
    );
}
