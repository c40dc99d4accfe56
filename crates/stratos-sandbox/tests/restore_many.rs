//! Many restores. In a program of its own: what is left of them is seen in numbers that other tests change too.

mod support;

use std::fs;

use support::{eventually, restore_many, rig};

/// Two thousand restores, eight at a time: none fails, and nothing of them is left.
#[test]
fn two_thousand_restores_leave_nothing() {
    let Some(rig) = rig("two_thousand_restores_leave_nothing") else { return };
    let count = |path: &str| fs::read_dir(path).unwrap().count();
    let mounts = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap().lines().count();
    // The first ones fill pools and caches.
    assert_eq!(restore_many(&rig, "draw.py", 20, 8).len(), 20);
    eventually("the first instances are gone", || children() == 0);
    let before = (count("/proc/self/fd"), mounts());
    assert_eq!(restore_many(&rig, "draw.py", 2000, 8).len(), 2000);
    eventually("all instances are gone", || children() == 0);
    eventually("no descriptor and no mount is left", || {
        let now = (count("/proc/self/fd"), mounts());
        now.0 <= before.0 + 2 && now.1 == before.1
    });
}

/// Children of this process: instances and templates that are still there, also those that nobody has waited for.
fn children() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.map(|list| list.split_whitespace().count()).sum()
}
