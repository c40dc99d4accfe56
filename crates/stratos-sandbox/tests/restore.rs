//! Instances that go on from a checkpoint.

mod support;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use stratos_checkpoint::dump::DumpError;
use stratos_checkpoint::image::Image;
use stratos_sandbox::{Instance, InstancePlan, SeccompFilter, checkpoint, template};
use support::{Rig, layer, line, read_all, rig, status_byte, strings};

/// A plan to run the Python workload.
fn python(rig: &Rig, id: &str) -> InstancePlan {
    let layer = rig.sandbox.mount_image(&layer("python3.13").expect("built before the tests")).unwrap();
    InstancePlan {
        layer,
        argv: strings(&["/usr/bin/python3.13", "-S", "-B", "/var/task/restored.py"]),
        seccomp: Arc::new(SeccompFilter::for_runtime("python3.13").unwrap()),
        memory_bytes: 256 << 20,
        ..rig.plan(id, "")
    }
}

/// Waits until it has said that it is about to park, and a moment more until it does.
fn parked(rig: &Rig, plan: &InstancePlan, image: &std::path::Path) -> Instance {
    let mut instance = rig.sandbox.start(plan).unwrap();
    let status = instance.take_status();
    assert_eq!((status_byte(&status), status_byte(&status)), (b'R', b'P'));
    for _ in 0..1000 {
        match checkpoint(&instance, "test", image) {
            Ok(_) => return instance,
            Err(DumpError::NotParked { .. }) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it never parks")
}

/// Releases an instance and gives what it says.
fn released(instance: &mut Instance, text: &str) -> String {
    let mut park = std::fs::File::from(instance.take_park());
    park.write_all(text.as_bytes()).unwrap();
    drop(park);
    let output = read_all(instance.take_stdout());
    let errors = read_all(instance.take_stderr());
    let exit = instance.wait().unwrap();
    assert_eq!((exit.code, exit.signal, errors.as_str()), (Some(0), None, ""), "{output}");
    output
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
        let mut instance = rig.sandbox.restore(&python(&rig, id), &template).unwrap();
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
