//! Instances that go on from a checkpoint.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use stratos_checkpoint::dump::DumpError;
use stratos_checkpoint::image::Image;
use stratos_checkpoint::working_set::WorkingSet;
use stratos_sandbox::{InstancePlan, checkpoint, template};
use support::{Rig, frame, line, parked, released, restore_many, rig, workload};

fn python(rig: &Rig, id: &str) -> InstancePlan {
    workload(rig, id, "restored.py")
}

/// A restored instance is in the same sandbox as a fresh one, with pipes, a user and random numbers of its own; and the
/// process that was checkpointed goes on as if nothing had happened.
#[test]
fn a_restored_process_finds_what_a_fresh_one_does() {
    let Some(rig) = rig("a_restored_process_finds_what_a_fresh_one_does") else { return };
    let path = rig.dir.path().join("image");
    let mut original = parked(&rig, &python(&rig, "original"), &path);
    let image = Image::open(&path).unwrap();
    let template = template(&image, &python(&rig, "template")).unwrap();
    let outputs = ["one", "two", "three"].map(|id| {
        let mut instance = rig.sandbox.restore(&python(&rig, id), &template, &[]).unwrap();
        eprintln!("restored in {:?}", instance.timings());
        (id, released(&mut instance, id))
    });
    let fresh = released(&mut original, "original");
    eprintln!("{fresh}\n{}", outputs[0].1);
    let mut random = BTreeSet::from([line(&fresh, "random"), line(&fresh, "urandom")]);
    for (id, output) in &outputs {
        assert_eq!(line(output, "released"), *id);
        random.extend([line(output, "random"), line(output, "urandom")]);
        let other = ["released ", "random ", "urandom ", "wall "];
        let same = |text: &str| {
            let lines = text.lines().filter(|line| !other.iter().any(|name| line.starts_with(name)));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(same(output), same(&fresh));
    }
    assert_eq!(random.len(), 8, "no two of them are the same");
}

/// Items of functional.cjs and functional.py.
const FUNCTIONAL: [(&str, &[&str]); 2] = [
    (
        "functional.cjs",
        &[
            "heap",
            "gc",
            "clock",
            "open file",
            "new file",
            "signal",
            "wasm",
            "regexp",
            "import",
            "child process",
            "worker",
            "worker at work",
            "thread pool",
            "interval",
            "timer",
        ],
    ),
    (
        "functional.py",
        &[
            "gc",
            "heap",
            "clock",
            "open file",
            "new file",
            "signal",
            "child process",
            "ctypes",
            "threads",
            "vectors",
            "thread pool",
            "asyncio",
            "timer",
        ],
    ),
];

/// Makes sure that each item of a list went on as it should.
fn all_went_on(file: &str, items: &[&str], output: &str) {
    let told: BTreeMap<String, Value> = serde_json::from_str(output).expect(output);
    assert_eq!(told.keys().map(String::as_str).collect::<BTreeSet<_>>(), items.iter().copied().collect());
    let failed: Vec<_> = told.iter().filter(|(name, told)| !went_on(name, told)).collect();
    assert!(failed.is_empty(), "{file}: {failed:?}");
}

fn went_on(name: &str, told: &Value) -> bool {
    *told == true || (name == "vectors" && told == "not on this processor")
}

/// Everything a program may have under way goes on: garbage collection, timers, threads, the thread pool, Workers,
/// WebAssembly, event loops, open files, values in vector registers; and it starts processes.
#[test]
fn what_a_program_has_under_way_goes_on() {
    let Some(rig) = rig("what_a_program_has_under_way_goes_on") else { return };
    for (file, items) in FUNCTIONAL {
        let path = rig.dir.path().join(format!("{file}.image"));
        let mut original = parked(&rig, &workload(&rig, "original", file), &path);
        let image = Image::open(&path).unwrap();
        let template = template(&image, &workload(&rig, "template", file)).unwrap();
        for id in ["one", "two"] {
            let mut instance = rig.sandbox.restore(&workload(&rig, id, file), &template, &[]).unwrap();
            all_went_on(file, items, &released(&mut instance, frame([2; 32])));
        }
        all_went_on(file, items, &released(&mut original, frame([1; 32])));
    }
}

/// A restored instance can be checkpointed as well, and so on.
#[test]
fn a_restored_instance_is_checkpointed_again() {
    let Some(rig) = rig("a_restored_instance_is_checkpointed_again") else { return };
    let path = |number: usize| rig.dir.path().join(format!("image-{number}"));
    for (file, items) in FUNCTIONAL {
        let plan = |id: &str| workload(&rig, id, file);
        drop(parked(&rig, &plan("original"), &path(0)));
        for generation in 1..4 {
            let image = Image::open(&path(generation - 1)).unwrap();
            let template = template(&image, &plan("template")).unwrap();
            let instance = rig.sandbox.restore(&plan("between"), &template, &[]).unwrap();
            // It may not have come back to its read yet.
            let dumped = (0..1000).find_map(|_| match checkpoint(&instance, "again", &path(generation)) {
                Ok(dumped) => Some(dumped),
                Err(DumpError::NotParked { .. }) => {
                    std::thread::sleep(Duration::from_millis(1));
                    None
                }
                Err(error) => panic!("{file}, generation {generation}: {error}"),
            });
            assert!(dumped.is_some(), "{file}, generation {generation}: it does not park");
        }
        let last = Image::open(&path(3)).unwrap();
        let template = template(&last, &plan("template")).unwrap();
        let mut instance = rig.sandbox.restore(&plan("last"), &template, &[]).unwrap();
        all_went_on(file, items, &released(&mut instance, frame([3; 32])));
    }
}

/// Having learned what an instance touches, a template makes instances that do the same, and have the pages that were
/// learned without having asked for them.
#[test]
fn what_was_learned_changes_no_result() {
    let Some(rig) = rig("what_was_learned_changes_no_result") else { return };
    for (file, release) in [("functional.cjs", frame([4; 32])), ("vectors.py", b"text".to_vec())] {
        let plan = |id: &str| workload(&rig, id, file);
        let path = rig.dir.path().join(format!("{file}.image"));
        drop(parked(&rig, &plan("original"), &path));
        let image = Image::open(&path).unwrap();
        let template = template(&image, &plan("template")).unwrap();
        let mut first = rig.sandbox.restore(&plan("first"), &template, &[]).unwrap();
        // Until it is back at its read: what it has written by then is enough to learn from.
        std::thread::sleep(Duration::from_millis(50));
        let set = WorkingSet::of(first.pid(), image.checkpoint()).unwrap();
        // One that has a single thread has done nothing yet.
        assert!(file.ends_with(".py") || !set.written.is_empty(), "{file}: {set:?}");
        assert!(!template.has_learned());
        template.learn(&set, image.checkpoint()).unwrap();
        assert!(template.has_learned());
        let output = released(&mut first, &release);
        for id in ["second", "third"] {
            let mut instance = rig.sandbox.restore(&plan(id), &template, &[]).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            let now = WorkingSet::of(instance.pid(), image.checkpoint()).unwrap();
            let pages =
                |set: &WorkingSet| set.written.iter().map(|range| range.end - range.start).sum::<u64>();
            assert!(pages(&now) >= pages(&set), "{file}: {now:?} after {set:?}");
            assert_eq!(released(&mut instance, &release), output, "{file}");
        }
    }
}

/// All of the registers come back, those of vectors too.
#[test]
fn vector_registers_are_restored() {
    let Some(rig) = rig("vector_registers_are_restored") else { return };
    if !std::fs::read_to_string("/proc/cpuinfo").unwrap().contains(" avx ") {
        eprintln!("skipped: vector_registers_are_restored: this processor has no AVX");
        return;
    }
    let path = rig.dir.path().join("image");
    let mut original = parked(&rig, &workload(&rig, "original", "vectors.py"), &path);
    let image = Image::open(&path).unwrap();
    let template = template(&image, &workload(&rig, "template", "vectors.py")).unwrap();
    for id in ["one", "two"] {
        let mut instance = rig.sandbox.restore(&workload(&rig, id, "vectors.py"), &template, &[]).unwrap();
        assert_eq!(line(&released(&mut instance, id), "vectors"), "True");
    }
    assert_eq!(line(&released(&mut original, "original"), "vectors"), "True");
}

/// A thousand clones of each runtime draw from every generator: nothing comes twice.
#[test]
fn a_thousand_clones_draw_nothing_twice() {
    let Some(rig) = rig("a_thousand_clones_draw_nothing_twice") else { return };
    for file in ["draw.cjs", "draw.py"] {
        let outputs = restore_many(&rig, file, 1000, 8);
        let drawn: Vec<String> = outputs
            .iter()
            .flat_map(|output| serde_json::from_str::<Vec<String>>(output.trim()).expect("a list of texts"))
            .collect();
        assert_eq!(drawn.len(), 12_000, "{file}");
        let distinct: BTreeSet<_> = drawn.iter().collect();
        assert_eq!(distinct.len(), drawn.len(), "{file}: something was drawn twice");
    }
}
