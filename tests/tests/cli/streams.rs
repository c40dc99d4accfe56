//! Commands that go on until they are ended: `logs -f` and `dev`.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use stratos_tests::{Node, Session, need_root};

use super::{GREETER, GREETER_TOML, PATIENCE, write_greeter};

/// Two old lines, then a new one as it comes; an ended reader ends the command.
#[tokio::test(flavor = "multi_thread")]
async fn logs_are_shown_and_followed() {
    if !need_root("logs_are_shown_and_followed") {
        return;
    }
    let node = Node::start().await;
    let session = Session::new(&node);
    write_greeter(&session);
    session.check(
        r#"
$ stratos deploy greet > /dev/null 2>&1
$ stratos logs nobody
! error: there is no function `nobody`
! hint: `stratos ls` lists the functions of this node; `stratos deploy` adds one
[exit 6]
$ stratos invoke greet -d '{"name":"one"}' --log > /dev/null 2>&1
$ stratos invoke greet -d '{"name":"two"}' --log > /dev/null 2>&1
$ stratos logs greet | grep -c REPORT
2
$ stratos logs greet --json | grep -c '"invocation":"[0-9a-f-]*","message":"greeting '
2
"#,
    );
    let mut follow = Lines::of(session.command("stratos").args(["logs", "greet", "-f", "--tail", "4"]));
    let old: Vec<String> = (0..4).map(|_| follow.next()).collect();
    assert_eq!(old.iter().filter(|line| line.contains("stdout   greeting ")).count(), 2, "{old:?}");
    node.invoke_ok("greet", r#"{"name":"three"}"#).await;
    let mut new: Vec<String> = (0..2).map(|_| session.redact(&follow.next())).collect();
    new.sort();
    let want =
        ["[time] [instance] platform REPORT ok warm [phases]", "[time] [instance] stdout  greeting three"];
    assert_eq!(new, want);
    let removed = session.command("stratos").args(["rm", "greet", "--yes"]).output().expect("stratos starts");
    assert!(removed.status.success());
    assert_eq!(follow.end(), Some(0), "a log ends with its function");
}

/// A running command's stdout, line by line.
struct Lines {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Lines {
    fn of(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program is built");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        Self { child, stdout }
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("lines are UTF-8");
        assert!(line.ends_with('\n'), "it ended: {line}");
        line.trim_end().to_owned()
    }

    /// Reads on to a line that holds `text`.
    fn until(&mut self, text: &str) -> String {
        loop {
            let line = self.next();
            if line.contains(text) {
                return line;
            }
        }
    }

    /// The exit code, once it has ended.
    fn end(mut self) -> Option<i32> {
        self.child.wait().expect("a child to wait for").code()
    }
}

/// `stratos dev`: a node of its own, a new version on each change, nothing left when it ends.
#[tokio::test(flavor = "multi_thread")]
async fn dev_follows_changes_and_leaves_nothing() {
    if !need_root("dev_follows_changes_and_leaves_nothing") {
        return;
    }
    let session = Session::without_node();
    write_greeter(&session);
    let temporary = session.dir().join("tmp");
    std::fs::create_dir(&temporary).expect("a folder");
    let log = std::fs::File::create(session.dir().join("stderr")).expect("a file");
    let mut command = session.command("stratos");
    command.args(["dev", "greet"]).env("TMPDIR", &temporary).stderr(log);
    let mut dev = Lines::of(&mut command);
    let first: Vec<String> = (0..3).map(|_| dev.next()).collect();
    let socket = "[dir]/tmp/stratos-dev-[random]/api.sock";
    let want = format!(
        "deployed greet version 1 ([n] KiB)\nurl  curl --unix-socket {socket} http://stratos/f/greet/\n\
         next  stratos --node unix://{socket} invoke greet -d '{{}}'"
    );
    assert_eq!(session.redact(&first.join("\n")), want);
    let endpoint = first[2].split(' ').find(|word| word.starts_with("unix://")).expect("where the node is");
    let invoke = || {
        let arguments = ["--node", endpoint, "invoke", "greet", "-d", "{\"name\":\"dev\"}"];
        let output = session.command("stratos").args(arguments).output().expect("stratos starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(invoke(), "{\"hello\":\"dev\"}");
    assert!(dev.until("greeting").ends_with(" stdout   greeting dev"));

    session.write("greet/index.mjs", &GREETER.replace("hello:", "goodbye:"));
    assert_eq!(session.redact(&dev.until("deployed")), "deployed greet version 2 ([n] KiB)");
    assert_eq!(invoke(), "{\"goodbye\":\"dev\"}");

    // A mistake is told and does not end it; the next change mends it.
    session.write("greet/stratos.toml", &format!("{GREETER_TOML}memory = 1\n"));
    let stderr = || std::fs::read_to_string(session.dir().join("stderr")).expect("it is written");
    wait_until(|| stderr().contains("error: stratos.toml: memory: is an integer"));
    session.write("greet/stratos.toml", &format!("{GREETER_TOML}memory = \"64MB\"\n"));
    assert_eq!(session.redact(&dev.until("deployed")), "deployed greet version 3 ([n] KiB)");
    assert_eq!(invoke(), "{\"goodbye\":\"dev\"}");

    let left = processes_with(&temporary);
    assert!(!left.is_empty(), "the node runs");
    let pid = Pid::from_child(&dev.child);
    kill_process(pid, Signal::INT).expect("it runs");
    assert_eq!(dev.end(), Some(0), "{}", stderr());
    assert_eq!(processes_with(&temporary), Vec::<u32>::new(), "the node has ended");
    let entries: Vec<_> = std::fs::read_dir(&temporary).expect("a folder").collect();
    assert!(entries.is_empty(), "{entries:?}");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    assert!(!mounts.contains(temporary.to_str().expect("a UTF-8 path")), "{mounts}");
}

/// Processes that have `path` in their command line.
fn processes_with(path: &Path) -> Vec<u32> {
    let path = path.to_str().expect("a UTF-8 path");
    let entries = std::fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mentions = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(path)
    };
    pids.filter(mentions).collect()
}

/// Asks again and again, for what has no event to wait for.
fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}
