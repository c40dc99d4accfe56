//! What the command line shows of it.

use std::io::{Read as _, Write as _};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use stratos_tests::{Node, Session, need_root};

use super::{PATIENCE, errors, moody};

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

/// On a terminal it is drawn anew until `q`, and the terminal is as it was before.
#[tokio::test(flavor = "multi_thread")]
async fn top_ends_with_a_key_and_leaves_the_terminal_as_it_was() {
    if !need_root("top_ends_with_a_key_and_leaves_the_terminal_as_it_was") {
        return;
    }
    let node = Node::start().await;
    let session = Session::new(&node);
    node.deploy(&moody("hello")).await;
    node.invoke_ok("hello", "1").await;
    for end in ["q", "SIGTERM"] {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("it is ours");
        let name = ptsname(&master, Vec::new()).expect("it has a name").into_string().expect("of ASCII");
        let open = || std::fs::OpenOptions::new().read(true).write(true).open(&name).expect("it opens");
        let terminal = open();
        let before = tcgetattr(&terminal).expect("a terminal");
        let mut top = session.command("stratos");
        let mut child = top.arg("top").stdin(open()).stdout(open()).spawn().expect("it runs");
        let mut keyboard = std::fs::File::from(master);
        let mut screen = keyboard.try_clone().expect("a descriptor");
        let (tell, told) = tokio::sync::oneshot::channel();
        // A thread that nobody waits for: a terminal may stay silent for ever.
        std::thread::spawn(move || {
            let (mut drawn, mut some) = (String::new(), [0; 4096]);
            // Drawn twice, it goes on by itself.
            while drawn.matches("hello").count() < 2 {
                let length = screen.read(&mut some).expect("something is drawn");
                drawn.push_str(&String::from_utf8_lossy(&some[..length]));
            }
            drop(tell.send((drawn, screen)));
        });
        let told = tokio::time::timeout(PATIENCE, told).await.expect("it is drawn in time");
        let (mut drawn, mut screen) = told.expect("no panic");
        let modes = tcgetattr(&terminal).expect("a terminal").local_modes;
        assert!(!modes.contains(LocalModes::ICANON) && !modes.contains(LocalModes::ECHO), "{modes:?}");
        match end {
            "q" => keyboard.write_all(b"xq").expect("it is typed"),
            _ => kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs"),
        }
        let status =
            tokio::task::spawn_blocking(move || child.wait()).await.expect("no panic").expect("it ends");
        assert!(status.success(), "{end}: {status}");
        let after = tcgetattr(&terminal).expect("a terminal");
        assert_eq!(after.local_modes, before.local_modes, "{end}");
        while !drawn.ends_with("\x1b[?25h\x1b[?1049l") {
            let mut some = [0; 4096];
            let length = screen.read(&mut some).expect("the end is drawn");
            drawn.push_str(&String::from_utf8_lossy(&some[..length]));
        }
        assert!(drawn.starts_with("\x1b[?1049h\x1b[?25l\x1b[H1 functions, "), "{drawn:?}");
    }
}
