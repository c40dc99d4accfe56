//! What the README tells a newcomer to do works.

use std::process::Command;

use stratos_tests::{Node, need_root, program, repository};

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
