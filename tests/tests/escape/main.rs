//! Escape attempts from inside an instance. Each fails with all defences on, in a known way; then the same attempt is
//! shown to succeed with the defences of its row left out, and to fail with any one of them on. So every failure has
//! the reason that the row gives, and every defence in it is shown to hold alone.
//!
//! `cargo test -p stratos-tests --features weaken --test escape`, as root. `ESCAPE_ONLY=text` runs the rows whose name
//! holds the text.

mod run;
mod table;
mod world;

use std::fs;

use run::{Outcome, attempt, attempt_restored, processes_of, uid};
use stratos_checkpoint::dump::DumpError;
use stratos_checkpoint::image::Image;
use table::{Defence, Fails, Need, ROWS, Row};
use world::World;

#[test]
fn no_attempt_gets_out_and_each_defence_holds_alone() {
    if !stratos_tests::need_root("no_attempt_gets_out_and_each_defence_holds_alone") {
        return;
    }
    let world = World::new();
    let only = std::env::var("ESCAPE_ONLY").unwrap_or_default();
    let mut problems = Vec::new();
    let (mut passed, mut skipped, mut started) = (0, 0, 0);
    for (index, row) in ROWS.iter().enumerate().filter(|(_, row)| row.name.contains(&only)) {
        match check(&world, row, index, &mut started) {
            Ok(line) => {
                passed += 1;
                println!("ok       {}: {line}", row.name);
            }
            Err(Verdict::Skipped(reason)) => {
                skipped += 1;
                println!("skipped  {}: {reason}", row.name);
            }
            Err(Verdict::Wrong(what)) => {
                println!("WRONG    {}: {what}", row.name);
                problems.push(format!("{}: {what}", row.name));
            }
        }
    }
    println!("{passed} attempts stopped, {skipped} skipped, {} wrong; {started} instances", problems.len());
    users_differ(&world);
    clean_up(world);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The same attempts fail in the same way in instances that are restored from a checkpoint.
#[test]
fn no_attempt_gets_out_of_a_restored_instance() {
    if !stratos_tests::need_root("no_attempt_gets_out_of_a_restored_instance") {
        return;
    }
    let world = World::new();
    let path = world.dir().join("checkpoint");
    checkpoint_of(&world, &path);
    let image = Image::open(&path).expect("the image that was just written");
    let template = stratos_sandbox::template(&image, &world.plan("template")).expect("a template");
    let only = std::env::var("ESCAPE_ONLY").unwrap_or_default();
    let mut problems = Vec::new();
    let mut stopped = 0;
    for (index, row) in ROWS.iter().enumerate().filter(|(_, row)| row.name.contains(&only)) {
        let unmet = row.needs.iter().find_map(|need| unmet(&world, *need));
        let task = match unmet.map_or_else(|| (row.arguments)(&world), Err) {
            Ok(task) => task,
            Err(reason) => {
                println!("skipped  {}: {reason}", row.name);
                continue;
            }
        };
        let outcome = attempt_restored(&world, row, task, &template, &format!("restored-{index}"));
        if outcome.is(row.fails) {
            stopped += 1;
        } else {
            problems.push(format!("{}: {outcome}, not {}", row.name, row.fails));
        }
    }
    println!("{stopped} attempts stopped in restored instances, {} wrong", problems.len());
    drop(template);
    clean_up(world);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(stopped > 50 || !only.is_empty(), "only {stopped} attempts were made");
}

/// Writes an image of a probe that waits for its task.
fn checkpoint_of(world: &World, path: &std::path::Path) {
    let instance = world.sandbox.start(&world.plan("original")).expect("a probe");
    for _ in 0..1000 {
        match stratos_sandbox::checkpoint(&instance, "probe", path) {
            Ok(_) => return,
            Err(DumpError::NotParked { .. }) => std::thread::sleep(std::time::Duration::from_millis(5)),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the probe never waits for its task");
}

/// The table in docs/security.md is this one, and each defence is explained there.
#[test]
fn the_documented_attempts_are_these() {
    let path = stratos_tests::repository().join("docs/security.md");
    let text = fs::read_to_string(path).expect("docs/security.md is there");
    let documented: Vec<_> = text.lines().skip_while(|line| !line.starts_with("| attempt")).skip(2).collect();
    let documented = documented.into_iter().take_while(|line| line.starts_with('|'));
    let line = |row: &Row| {
        let defences: Vec<_> = row.stopped_by.iter().map(|defence| defence.name()).collect();
        format!("| {} | {} | {} |", row.name, row.fails, defences.join("; "))
    };
    assert_eq!(documented.collect::<Vec<_>>(), ROWS.iter().map(line).collect::<Vec<_>>());
    for defence in ROWS.iter().flat_map(|row| row.stopped_by) {
        assert!(text.contains(&format!("\n| {} | ", defence.name())), "{} is not explained", defence.name());
    }
}

enum Verdict {
    Skipped(String),
    Wrong(String),
}

/// Runs one row; the line to print when all is as it says.
fn check(world: &World, row: &Row, index: usize, started: &mut u32) -> Result<String, Verdict> {
    let skip = |need: &Need| unmet(world, *need);
    if let Some(reason) = row.needs.iter().find_map(skip) {
        return Err(Verdict::Skipped(reason));
    }
    let task = (row.arguments)(world).map_err(Verdict::Skipped)?;
    let mut run = |without: &[Defence]| {
        *started += 1;
        attempt(world, row, task.clone(), without, &format!("attempt-{index}-{started}"))
    };
    let hardened = run(&[]);
    if !hardened.is(row.fails) {
        return Err(Verdict::Wrong(format!("with all defences: {hardened}, not {}", row.fails)));
    }
    let open = run(row.stopped_by);
    let names: Vec<_> = row.stopped_by.iter().map(|defence| defence.name()).collect();
    let Outcome::Through(detail) = open else {
        // A kernel without 32-bit calls answers them with SIGSEGV.
        if open.is(Fails::With("ENOSYS")) || open.is(Fails::Killed(11)) {
            return Err(Verdict::Skipped("this kernel does not have it".into()));
        }
        return Err(Verdict::Wrong(format!("without {names:?} still: {open}")));
    };
    let landlock = world.sandbox.features().landlock_abi > 0;
    let here = |defence: Defence| landlock || defence != Defence::Landlock;
    for (kept, defence) in row.stopped_by.iter().enumerate().filter(|(_, d)| names.len() > 1 && here(**d)) {
        let mut without = row.stopped_by.to_vec();
        without.remove(kept);
        if run(&without).is_through() {
            return Err(Verdict::Wrong(format!("{} does not stop it alone", defence.name())));
        }
    }
    Ok(format!("{}; open without {}{}", row.fails, names.join(" + "), in_brackets(&detail)))
}

fn in_brackets(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({})", detail.escape_debug()) }
}

/// Why the machine cannot run a row.
fn unmet(world: &World, need: Need) -> Option<String> {
    let features = world.sandbox.features();
    let (met, reason) = match need {
        Need::Capability(bit, name) => (own_capabilities() >> bit & 1 == 1, format!("no {name} here")),
        Need::File(path) => (fs::exists(path).is_ok_and(|found| found), format!("no {path} here")),
        Need::Setting(name, low, high) => {
            let value = fs::read_to_string(format!("/proc/sys/{name}")).ok();
            let number: Option<u64> = value.as_deref().and_then(|text| text.trim().parse().ok());
            (number.is_none_or(|n| (low..=high).contains(&n)), format!("{name} is {value:?} here"))
        }
        Need::X86 => (cfg!(target_arch = "x86_64"), "x86_64 only".to_owned()),
        Need::LandlockScopes => {
            let reason = format!("Landlock ABI {} has no scopes", features.landlock_abi);
            (features.landlock_abi >= 6, reason)
        }
        Need::CgroupKill => (features.cgroup_kill, "no cgroup.kill here".to_owned()),
    };
    (!met).then_some(reason)
}

fn own_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).expect("a CapEff line");
    u64::from_str_radix(bits, 16).expect("capabilities are hexadecimal")
}

/// Two instances never share a user: files, signals and limits go by it.
fn users_differ(world: &World) {
    let one = world.sandbox.start(&world.plan("one")).unwrap();
    let two = world.sandbox.start(&world.plan("two")).unwrap();
    let users = [uid(&one), uid(&two)];
    assert_ne!(users[0], users[1]);
    assert!(users.iter().all(|user| *user >= 0x7000_0000), "{users:?}");
}

/// Nothing may be left: no process, no cgroup. What the attempts with "kill at the end" left out have left behind is
/// swept by the next sandbox, as after a killed agent.
fn clean_up(world: World) {
    let user = world.neighbour.as_ref().map(|(instance, _)| uid(instance)).expect("the neighbour runs");
    let dir = world.close();
    drop(world::sandbox(dir.path()));
    assert!(processes_of(user).is_empty(), "a process of the neighbour is left");
}
