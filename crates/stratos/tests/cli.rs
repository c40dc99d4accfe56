//! The whole output of commands that need no node: exit code, stdout and stderr.

use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `stratos` in `dir` with a bare environment and an empty stdin; its exit code, stdout and stderr as one text.
fn stratos(dir: &Path, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_stratos"))
        .args(args)
        .current_dir(dir)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("the output is UTF-8");
    let code = output.status.code().expect("it ends by itself");
    let output =
        format!("exit {code}\n--- stdout\n{}--- stderr\n{}", text(output.stdout), text(output.stderr));
    output.replace(&dir.display().to_string(), "[dir]")
}

#[track_caller]
fn check(dir: &Path, args: &[&str], expected: &str) {
    let actual = stratos(dir, args);
    assert_eq!(actual, expected, "\n=== stratos {} gave\n{actual}", args.join(" "));
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

#[test]
fn new_makes_every_kind_of_function() {
    let dir = dir();
    let cases: [(&[&str], &str); 6] = [
        (&["new", "a"], "made a/ with stratos.toml, index.mjs\nnext  stratos deploy a\n"),
        (&["new", "b", "--http"], "made b/ with stratos.toml, server.mjs\nnext  stratos deploy b\n"),
        (
            &["new", "c", "--runtime", "python3.13"],
            "made c/ with stratos.toml, app.py\nnext  stratos deploy c\n",
        ),
        (
            &["new", "d", "--runtime=python3.13", "--http"],
            "made d/ with stratos.toml, server.py\nnext  stratos deploy d\n",
        ),
        (
            &["new", "e", "--runtime", "native"],
            "made e/ with stratos.toml, bootstrap.rs, build.sh, .stratosignore\n\
             next  sh e/build.sh && stratos deploy e\n",
        ),
        (
            &["new", "f", "--runtime", "native", "--http", "--json"],
            "{\"files\":[\"stratos.toml\",\"server.rs\",\"build.sh\",\".stratosignore\"],\"name\":\"f\",\
             \"runtime\":\"native\"}\n",
        ),
    ];
    for (args, stdout) in cases {
        check(dir.path(), args, &format!("exit 0\n--- stdout\n{stdout}--- stderr\n"));
    }
    let toml = std::fs::read_to_string(dir.path().join("d/stratos.toml")).expect("it was made");
    assert_eq!(
        toml,
        "name = \"d\"\nruntime = \"python3.13\"\nstart = \"python3.13 server.py\"\nmemory = \"128MB\"\n\
         timeout = \"30s\"\nconcurrency = 10   # requests at a time per instance\n\
         # egress = [\"api.example.com:443\"]   # without it, the function reaches nothing\n"
    );
    check(
        dir.path(),
        &["new", "a"],
        "exit 1\n--- stdout\n--- stderr\nerror: cannot make the folder a\n  File exists (os error 17)\n\
         hint: choose another name, or deploy what is there\n",
    );
}

/// The native templates are Rust programs: they compile, and the built server listens.
#[test]
fn native_templates_build() {
    let dir = dir();
    for (name, http, built) in [("fn", false, "bootstrap"), ("web", true, "server")] {
        let http: &[&str] = if http { &["--http"] } else { &[] };
        stratos(dir.path(), &[&["new", name, "--runtime", "native"], http].concat());
        let folder = dir.path().join(name);
        let output = Command::new("sh").arg(folder.join("build.sh")).output().expect("sh starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty(), "no warnings: {}", String::from_utf8_lossy(&output.stderr));
        assert!(folder.join(built).is_file());
    }
}

#[test]
fn wrong_command_lines_are_usage_errors() {
    let dir = dir();
    check(
        dir.path(),
        &["new", "Not_A_Name"],
        "exit 2\n--- stdout\n--- stderr\nerror: invalid value 'Not_A_Name' for '<NAME>': `Not_A_Name` is not a function \
         name (1 to 63 of a-z, 0-9 and -, starting and ending with a letter or digit)\n\n\
         For more information, try '--help'.\n",
    );
    check(
        dir.path(),
        &["new", "x", "--runtime", "node18"],
        "exit 2\n--- stdout\n--- stderr\nerror: invalid value 'node18' for '--runtime <RUNTIME>': `node18` is not a \
         runtime (node24, python3.13 or native)\n\nFor more information, try '--help'.\n",
    );
    check(
        dir.path(),
        &["ls", "--node", "localhost:80"],
        "exit 2\n--- stdout\n--- stderr\nerror: invalid value 'localhost:80' for '--node <URL>': `localhost:80` is not \
         a node's address (unix:///PATH, http://HOST:PORT or https://HOST:PORT)\n\n\
         For more information, try '--help'.\n",
    );
    check(
        dir.path(),
        &["rm", "hello"],
        "exit 2\n--- stdout\n--- stderr\nerror: will not remove hello without being told to\nhint: add --yes\n",
    );
    std::fs::write(dir.path().join("file"), "").expect("it is written");
    check(
        dir.path(),
        &["deploy", "file"],
        "exit 2\n--- stdout\n--- stderr\nerror: file is not a folder\n\
         hint: give the function's folder: the one that holds its stratos.toml\n",
    );
}

#[test]
fn files_that_are_not_there_are_named() {
    let dir = dir();
    check(
        dir.path(),
        &["deploy", "nowhere"],
        "exit 1\n--- stdout\n--- stderr\nerror: cannot read the folder nowhere\n  No such file or directory (os error 2)\n",
    );
    check(
        dir.path(),
        &["invoke", "hello", "-f", "nothing.json"],
        "exit 1\n--- stdout\n--- stderr\nerror: cannot read the payload nothing.json\n  \
         No such file or directory (os error 2)\n",
    );
    check(
        dir.path(),
        &["ls", "--token-file", "nothing"],
        "exit 1\n--- stdout\n--- stderr\nerror: cannot read the token file nothing\n  \
         No such file or directory (os error 2)\n",
    );
}

#[test]
fn a_node_that_is_not_there_is_exit_3_with_a_hint() {
    let dir = dir();
    let socket = dir.path().join("api.sock");
    let socket = socket.to_str().expect("the path is UTF-8");
    let message = "error: cannot reach the node at unix://[dir]/api.sock\n  No such file or directory (os error 2)\n\
                   hint: start a node with `make dev`, or name one with --node URL or STRATOS_NODE\n";
    let commands: [&[&str]; 9] = [
        &["ls"],
        &["show", "hello"],
        &["versions", "hello"],
        &["logs", "hello", "-f"],
        &["invoke", "hello", "-d", "{}"],
        &["rollback", "hello"],
        &["rm", "hello", "--yes"],
        &["dead-letters", "hello"],
        &["node", "health"],
    ];
    for command in commands {
        let expected = format!("exit 3\n--- stdout\n--- stderr\n{message}");
        check(dir.path(), &[command, &["--node", socket]].concat(), &expected);
    }
    std::fs::create_dir(dir.path().join("f")).expect("it is made");
    std::fs::write(dir.path().join("f/index.mjs"), "x").expect("it is written");
    check(
        dir.path(),
        &["deploy", "f", "--node", socket],
        &format!(
            "exit 3\n--- stdout\n--- stderr\npacking f ...\nsending 1 files, 1 B (79 B compressed) ...\n{message}"
        ),
    );
    check(
        dir.path(),
        &["ls", "--json", "--node", socket],
        &format!(
            "exit 3\n--- stdout\n{{\"error\":{{\"causes\":[\"No such file or directory (os error 2)\"],\
             \"code\":\"unreachable\",\"hint\":\"start a node with `make dev`, or name one with --node URL or \
             STRATOS_NODE\",\"message\":\"cannot reach the node at unix://[dir]/api.sock\"}}}}\n--- stderr\n{message}"
        ),
    );
}

/// What answers is not a node, or breaks off: said as such, not as a parser's complaint alone.
#[test]
fn strangers_at_the_address_are_recognised() {
    let dir = dir();
    let answers: [(&str, &str); 2] = [
        (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnope",
            "exit 5\n--- stdout\n--- stderr\nerror: the node answered 404 Not Found with what is not of its API: nope\n\
             hint: is this the address of a StratOS node, of a version that fits?\n",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
            "exit 5\n--- stdout\n--- stderr\nerror: the node's answer is not what this version of stratos understands: \
             hi\n  expected value at line 1 column 1\n",
        ),
    ];
    for (answer, expected) in answers {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let server = std::thread::spawn(move || {
            use std::io::{Read, Write};
            let (mut connection, _) = listener.accept().expect("a client comes");
            let mut request = [0; 4096];
            let length = connection.read(&mut request).expect("a request comes");
            connection.write_all(answer.as_bytes()).expect("the client listens");
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        check(dir.path(), &["ls", "--node", &url, "--token", "secret"], expected);
        let request = server.join().expect("the server ended well");
        assert!(request.starts_with("GET /v1/functions HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("authorization: Bearer secret\r\n"), "{request}");
    }
}

#[test]
fn https_needs_a_certificate_to_trust() {
    check(
        dir().path(),
        &["ls", "--node", "https://localhost:1"],
        "exit 1\n--- stdout\n--- stderr\nerror: cannot set up TLS: no certificate to trust; give the node's with --ca \
         FILE\n",
    );
}

#[test]
fn layers_are_found_from_inside_the_tree() {
    let dir = dir();
    check(
        dir.path(),
        &["layer", "ls"],
        "exit 1\n--- stdout\n--- stderr\nerror: there is no folder for the cache\n\
         hint: set STRATOS_CACHE to a folder\n",
    );
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stratos"));
        command.args(args).current_dir(dir.path()).env_clear().env("STRATOS_CACHE", dir.path().join("cache"));
        let output = command.output().expect("the binary starts");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    assert_eq!(
        run(&["layer", "ls"]),
        (Some(0), "no layers yet; build them with `stratos layer build`\n".into())
    );
    assert_eq!(run(&["layer", "ls", "--json"]), (Some(0), "[]\n".into()));
    let outside = "error: neither this folder nor one above it holds distro/layers\n\
                   hint: run it inside the StratOS source tree, or name that with --root DIR\n";
    assert_eq!(run(&["layer", "build"]), (Some(2), outside.into()));
}

#[test]
fn images_are_listed_from_the_cache() {
    let dir = dir();
    let images = dir.path().join("cache/images");
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stratos"));
        command.args(args).current_dir(dir.path()).env_clear().env("STRATOS_CACHE", dir.path().join("cache"));
        let output = command.output().expect("the binary starts");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), text.replace(&dir.path().display().to_string(), "[dir]"))
    };
    let none = "no images yet; build one with `stratos image build`\n";
    assert_eq!(run(&["image", "ls"]), (Some(0), none.into()));
    assert_eq!(run(&["image", "ls", "--json"]), (Some(0), "[]\n".into()));

    std::fs::create_dir_all(&images).expect("it is made");
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let manifest = format!(
        "{{\"version\":\"0.1.0\",\"arch\":\"amd64\",\"kernel\":\"debian\",\"kernel_version\":\"6.12.1-cloud-amd64\",\
         \"inputs_digest\":\"{0}\",\"folder\":\"debian-00\",\"root_hash\":\"{1}\",\"cmdline\":\"roothash=1\",\
         \"files\":[{{\"name\":\"disk.img\",\"size\":1113587712,\"compressed\":104857600,\"digest\":\"{0}\"}}]}}",
        digest("0"),
        digest("1"),
    );
    std::fs::write(images.join("debian.json"), &manifest).expect("it is written");
    let table = format!(
        "KERNEL  KERNEL VERSION      STRATOS  SHIPPED  ROOT HASH\n\
         debian  6.12.1-cloud-amd64  0.1.0    100 MiB  {}\n",
        "1".repeat(64)
    );
    assert_eq!(run(&["image", "ls"]), (Some(0), table));
    assert_eq!(run(&["image", "ls", "--json"]), (Some(0), format!("[{manifest}]\n")));

    std::fs::write(images.join("stratos.json"), "{").expect("it is written");
    let damaged = "error: cannot read [dir]/cache/images/stratos.json\n  EOF while parsing an object at line 1 column 1\n\
                   hint: build it again with `stratos image build --kernel stratos`\n";
    assert_eq!(run(&["image", "ls"]), (Some(1), damaged.into()));
    let (code, text) = run(&["image", "build", "--kernel", "hurd"]);
    assert_eq!(code, Some(2));
    assert!(text.contains("`hurd` is not a kernel (debian or stratos)"), "{text}");
}

#[test]
fn help_shows_commands_examples_and_exit_codes() {
    let dir = dir();
    let short = stratos(dir.path(), &["-h"]);
    let commands = [
        "new",
        "deploy",
        "invoke",
        "ls",
        "show",
        "versions",
        "logs",
        "rollback",
        "rm",
        "dead-letters",
        "dev",
        "layer",
        "image",
        "node",
        "completions",
        "help",
    ];
    for command in commands {
        assert!(short.contains(&format!("\n  {command} ")), "{command}: {short}");
    }
    assert!(stratos(dir.path(), &["--help"]).contains("  3  no node answered\n"));
    assert_eq!(stratos(dir.path(), &["help"]), stratos(dir.path(), &["--help"]));
    let with_examples: [&[&str]; 19] = [
        &["new"],
        &["deploy"],
        &["invoke"],
        &["ls"],
        &["show"],
        &["versions"],
        &["logs"],
        &["rollback"],
        &["rm"],
        &["dead-letters"],
        &["dev"],
        &["layer", "build"],
        &["layer", "lock"],
        &["layer", "ls"],
        &["image", "build"],
        &["image", "ls"],
        &["node", "health"],
        &["completions"],
        &["deploy"],
    ];
    for command in with_examples {
        let help = stratos(dir.path(), &[command, &["--help"]].concat());
        let example = format!("stratos {}", command.join(" "));
        assert!(help.starts_with("exit 0\n") && help.contains("Examples:\n"), "{command:?}: {help}");
        assert!(
            help.split("Examples:\n").nth(1).is_some_and(|e| e.contains(&example)),
            "{command:?}: {help}"
        );
    }
    check(
        dir.path(),
        &["rollback", "-h"],
        "exit 0\n--- stdout\nMake an earlier version the current one

Usage: stratos rollback [OPTIONS] <NAME>

Arguments:
  <NAME>  Name of the function

Options:
      --to <N>  The version to go back to
      --json    Print JSON to stdout: one document, or one a line for streams
  -h, --help    Print help

Node:
      --node <URL>         Address of the node: unix:///PATH, http://HOST:PORT or https://HOST:PORT
                           [default: unix:///run/stratos/api.sock] [env: STRATOS_NODE]
      --token <TOKEN>      Token that the node asks for on TCP [env: STRATOS_TOKEN]
      --token-file <FILE>  File that holds the token
      --ca <FILE>          PEM file with the certificates to trust for https

Examples:
  stratos rollback hello           to the version before the current one
  stratos rollback hello --to 3
--- stderr
",
    );
}

#[test]
fn completions_exist_for_every_shell() {
    let dir = dir();
    for (shell, holds) in [
        ("bash", "_stratos()"),
        ("zsh", "#compdef stratos"),
        ("fish", "complete -c stratos"),
        ("elvish", "edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let output = stratos(dir.path(), &["completions", shell]);
        assert!(output.starts_with("exit 0\n") && output.contains(holds), "{shell}: {output}");
        assert!(output.contains("dead-letters"), "{shell} knows the commands");
    }
}

/// A reader that has seen enough, such as `head`, is not an error.
#[test]
fn a_closed_pipe_ends_it_quietly() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_stratos"))
        .args(["completions", "bash"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .expect("the binary starts");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

/// The same for a log that is followed and silent: nothing is written that could fail.
#[test]
fn a_silent_log_ends_with_its_reader() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = Command::new(env!("CARGO_BIN_EXE_stratos"));
    command.args(["logs", "hello", "-f", "--node", &url]).stdout(writer).stderr(Stdio::piped());
    let child = command.spawn().expect("the binary starts");
    drop(command);
    let (mut connection, _) = listener.accept().expect("it connects");
    assert_ne!(connection.read(&mut [0; 4096]).expect("a request comes"), 0);
    connection.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").expect("it listens");
    drop(reader);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn dev_without_the_node_binary_says_so() {
    // A link and not a copy: a file that was just written may be held open by a child of another test (ETXTBSY).
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary folder");
    std::fs::hard_link(env!("CARGO_BIN_EXE_stratos"), dir.path().join("stratos")).expect("it is linked");
    let output =
        Command::new(dir.path().join("stratos")).arg("dev").current_dir(dir.path()).env_clear().output();
    let output = output.expect("the link starts");
    let stderr = String::from_utf8_lossy(&output.stderr).replace(&dir.path().display().to_string(), "[dir]");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr,
        "error: [dir]/stratosd is not there\n\
         hint: `stratos dev` starts the node's binary that lies beside it; or name a running node with --node URL\n"
    );
}
