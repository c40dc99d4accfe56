//! What the README tells a newcomer to do works.

use std::process::Command;

use stratos_tests::{Node, machine::Machine, need_root, program, repository};

/// The README's shell commands, run in order in an empty folder.
#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_commands_run() {
    if !need_root("the_readmes_commands_run") {
        return;
    }
    let node = Node::start().await;
    let readme = std::fs::read_to_string(repository().join("README.md")).expect("a README");
    let commands: Vec<&str> =
        readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!commands.is_empty(), "the README has commands");
    let folder = tempfile::tempdir().expect("a folder");
    let programs = program("stratos").parent().expect("a folder").to_owned();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("sh")
        .args(["-exc", &commands.concat()])
        .current_dir(folder.path())
        .env("PATH", format!("{}:{path}", programs.display()))
        .env("STRATOS_NODE", format!("unix://{}", node.socket().display()))
        .output()
        .expect("a shell");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(said.contains("you"), "the function greets: {said}");
}

/// The program behind `make run`: three runtimes answer, one table, nothing is left.
#[test]
fn the_demo_prints_its_table() {
    if !need_root("the_demo_prints_its_table") {
        return;
    }
    let before = Machine::look();
    let output = Command::new(program("demo")).output().expect("the demo runs");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    for (function, runtime) in
        [("hello-node", "node24"), ("hello-python", "python3.13"), ("hello-native", "native")]
    {
        let row = table.lines().find(|line| line.starts_with(function)).unwrap_or_else(|| panic!("{table}"));
        assert!(row.contains(runtime) && row.contains("Hello, newcomer!"), "{row}");
    }
    let left = Machine::look().since(&before);
    assert!(left.mounts.is_empty() && left.loop_devices.is_empty() && left.interfaces.is_empty(), "{left:?}");
}
