//! Each defence can be left out alone, and its absence is what shows. Needs the feature `weaken`.
#![cfg(feature = "weaken")]

mod support;

use stratos_sandbox::Weaken;
use support::{line, rig, run};

#[test]
fn each_defence_can_be_left_out_alone() {
    let Some(rig) = rig("each_defence_can_be_left_out_alone") else { return };
    type Set = fn(&mut Weaken);
    let cases: [(&str, Set, &str, &str, &str); 12] = [
        ("pid_namespace", |w| w.pid_namespace = true, "report", "pid", "!1"),
        ("root_filesystem", |w| w.root_filesystem = true, "report", "mount", "~/tmp/host"),
        ("seccomp", |w| w.seccomp = true, "report", "Seccomp", "0"),
        ("capabilities", |w| w.capabilities = true, "report", "CapEff", "!0000000000000000"),
        ("read_only", |w| w.read_only = true, "files", "write /var/task/x", "Ok(())"),
        ("nproc", |w| w.nproc = true, "forks", "forks", "unlimited"),
        ("no_new_privs", |w| w.no_new_privs = true, "report", "NoNewPrivs", "0"),
        ("uts", |w| w.uts = true, "report", "hostname", "!function"),
        ("cgroup_namespace", |w| w.cgroup_namespace = true, "report", "cgroup", "!0::/"),
        ("ipc", |w| w.ipc = true, "report", "pid", "1"),
        ("network_namespace", |w| w.network_namespace = true, "report", "pid", "1"),
        ("landlock", |w| w.landlock = true, "report", "CapEff", "0000000000000000"),
    ];
    for (index, (name, weaken, told, field, expected)) in cases.into_iter().enumerate() {
        let mut plan = rig.plan(&format!("weak-{index}"), told);
        plan.pids_max = 4;
        let mut weakened = Weaken::default();
        weaken(&mut weakened);
        let mut instance =
            rig.sandbox.start_weakened(&plan, weakened).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let (output, _) = run(&mut instance);
        match expected.split_at(1) {
            ("!", not) => assert_ne!(line(&output, field), not, "{name}"),
            ("~", part) => assert!(output.contains(part), "{name}: {output}"),
            _ => assert_eq!(line(&output, field), expected, "{name}"),
        }
    }
}

#[test]
fn an_end_that_kills_nothing_leaves_the_process() {
    let Some(rig) = rig("an_end_that_kills_nothing_leaves_the_process") else { return };
    let plan = rig.plan("undead", "sleep");
    let weaken = Weaken { end_kill: true, ..Weaken::default() };
    let instance = rig.sandbox.start_weakened(&plan, weaken).unwrap();
    let pid = rustix::process::Pid::from_raw(instance.pid()).unwrap();
    drop(instance);
    let left = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    assert!(!stratos_sys::process::ended_within(&left, std::time::Duration::ZERO).unwrap());
    stratos_sys::process::kill(&left).unwrap();
    stratos_sys::process::wait(&left).unwrap();
    // Its cgroup is left too; the next sandbox sweeps it, as after a killed agent.
    drop((plan, rig.layer, rig.function, rig.sandbox));
    drop(support::open(rig.dir.path()));
}
