//! Limits on memory, CPU time and processes, as the kernel enforces them.
//!
//! They need a machine with every cgroup v2 controller. The first test here brings one along, a virtual machine, and
//! runs the others in it; where this machine has the controllers, these run on it as well.

mod cpu;
mod limits;

use stratos_tests::{need_root, vm};
use tokio::sync::Mutex;

/// Boots a machine in which every other test of this file has to pass.
#[test]
fn limits_hold_on_a_machine_with_all_controllers() {
    if vm::is_inside() {
        return;
    }
    if let Some(obstacle) = vm::obstacle() {
        assert!(std::env::var_os("CI").is_none(), "CI is meant to boot a virtual machine: {obstacle}");
        eprintln!("skipped: limits_hold_on_a_machine_with_all_controllers ({obstacle})");
        return;
    }
    let run = vm::Job::tests().and_then(|job| vm::run(&job, || Ok(())));
    let run = run.unwrap_or_else(|error| panic!("{error:#}"));
    assert_eq!(run.exit, Some(0), "a test failed in the machine");
    assert!(!run.console.contains("skipped: "), "a test was skipped in the machine");
}

/// One test at a time: each compares the machine before and after.
static MACHINE: Mutex<()> = Mutex::const_new(());

/// Whether the test can run: on a machine with every controller, as root. In the machine of its own it has to.
fn need_controllers(test: &str) -> bool {
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let all = ["memory", "cpu", "pids"].iter().all(|name| controllers.split_whitespace().any(|c| c == *name));
    assert!(all || !vm::is_inside(), "the machine lacks controllers: it has {controllers}");
    if !all {
        eprintln!("not run here: {test} (no cgroup v2 controllers; it runs in a virtual machine)");
    }
    all && need_root(test)
}
