//! `stratos secret`, piped, typed and from a file.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use stratos_tests::{Node, Session, need_root};

use super::{PATIENCE, write_greeter};

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_set_listed_and_removed() {
    if !need_root("secrets_are_set_listed_and_removed") {
        return;
    }
    let node = Node::start().await;
    let session = Session::new(&node);
    write_greeter(&session);
    let toml = format!("{}[secrets]\nPASSWORD = \"db-password\"\n", super::GREETER_TOML);
    session.write("greet/stratos.toml", &toml);
    session.write("greet/index.mjs", "export const handler = async () => process.env.PASSWORD;");
    session.write("key.pem", "two\nlines\n");
    session.check(
        r#"
$ stratos secret list
! no secrets yet; set one with `stratos secret set NAME`
$ stratos deploy greet 2>&1 >/dev/null | grep note:
note: secrets.PASSWORD: this node has no secret `db-password`: set it with `stratos secret set db-password`
$ stratos invoke greet -d '{}'
! [n] ms  ([phases])  version 1  [id]
! error: function `greet` needs the secret `db-password`, which this node does not have
! hint: set it with `stratos secret set db-password`, or take it out of [secrets] in stratos.toml
[exit 4]
$ stratos secret set db-password
! error: no value was given for db-password
! hint: nothing was changed
[exit 1]
$ echo hunter2 | stratos secret set db-password
set db-password, for greet
$ stratos invoke greet -d '{}' 2> /dev/null
"hunter2"
$ stratos secret set db-password --from-file key.pem
set db-password, for greet
$ stratos invoke greet -d '{}' 2> /dev/null
"two\nlines\n"
$ echo x | stratos secret set unused
set unused
$ stratos secret list
NAME  UPDATED  USED BY
db-password  [time]  greet
unused  [time]  -
$ stratos secret ls --json
[{"name":"db-password","updated_at":"[time]","used_by":["greet"]},{"name":"unused","updated_at":"[time]","used_by":[]}]
$ stratos secret rm db-password
! error: secret `db-password` is used by greet
! hint: deploy these without it first, or remove it with --force (?force=true): they fail then
[exit 6]
$ stratos secret rm db-password --force
removed db-password
$ stratos secret rm unused --json
{"removed":"unused"}
$ stratos secret rm unused
! error: there is no secret `unused`
! hint: `stratos secret list` lists the secrets of this node
[exit 6]
$ printf 'a\0b' | stratos secret set unused
! error: the value of secret `unused` holds a NUL byte, at which a variable of the environment ends
! hint: what is not text can be kept as base64, and decoded by the function
[exit 6]
$ stratos secret set unused --from-file nowhere
! error: cannot read the value from nowhere
!  No such file or directory (os error 2)
[exit 1]
$ stratos completions bash | grep -c -- --from-file
2
"#,
    );
}

/// What is typed on a terminal is not shown there.
#[tokio::test(flavor = "multi_thread")]
async fn a_typed_secret_is_not_shown() {
    if !need_root("a_typed_secret_is_not_shown") {
        return;
    }
    let node = Node::start().await;
    let session = Session::new(&node);
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("a terminal");
    let name = ptsname(&ours, Vec::new()).expect("its name");
    let theirs =
        || rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("its other end");
    // Open as long as this, so that reading ours is no error once the command has ended.
    let kept = theirs();
    let mut command = session.command("stratos");
    let command = command.args(["secret", "set", "db-password"]).stdin(theirs()).stderr(theirs());
    let mut child = command.stdout(Stdio::piped()).spawn().expect("stratos starts");
    let mut terminal = File::from(ours);
    let mut shown = String::new();
    let begun = Instant::now();
    while !shown.contains("(it is not shown):") {
        assert!(begun.elapsed() < PATIENCE, "{shown}");
        let mut bytes = [0; 1024];
        let count = terminal.read(&mut bytes).expect("a terminal");
        shown += &String::from_utf8_lossy(&bytes[..count]);
    }
    terminal.write_all(b"hunter2\n").expect("a terminal");
    assert!(child.wait().expect("it ends").success());
    let mut said = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert_eq!(said, "set db-password\n");
    let kept_value = std::fs::read_to_string(node.dir().join("state/secrets/default.db-password"));
    assert_eq!(kept_value.expect("the secret"), "hunter2");

    // What follows was typed later: all that came before it is there to be read.
    let modes = rustix::termios::tcgetattr(&kept).expect("a terminal").local_modes;
    assert!(modes.contains(rustix::termios::LocalModes::ECHO), "the terminal shows again what is typed");
    File::from(kept).write_all(b"end").expect("a terminal");
    while !shown.ends_with("end") {
        let mut bytes = [0; 1024];
        let count = terminal.read(&mut bytes).expect("a terminal");
        shown += &String::from_utf8_lossy(&bytes[..count]);
    }
    assert_eq!(shown, "value of db-password (it is not shown):\r\n\r\nend");
}
