//! Build jobs.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stratos_sandbox::{Bind, JobError, JobPlan, SeccompFilter};
use support::{Rig, line, rig, strings};

fn plan(rig: &Rig, id: &str, told: &str) -> JobPlan {
    JobPlan {
        id: id.into(),
        layer: Arc::clone(&rig.layer),
        binds: vec![Bind {
            source: rig.dir.path().join("function"),
            target: "/tmp/tools".into(),
            writable: false,
        }],
        argv: strings(&["/tmp/tools/probe", told]),
        env: Vec::new(),
        cwd: "/tmp".into(),
        memory_bytes: 256 << 20,
        timeout: Duration::from_secs(20),
        seccomp: Arc::new(SeccompFilter::for_runtime("native").unwrap()),
        egress: None,
        output_limit: 4096,
        on_output: None,
    }
}

#[test]
fn a_job_writes_to_what_it_was_given() {
    let Some(rig) = rig("a_job_writes_to_what_it_was_given") else { return };
    let out = rig.dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let mut plan = plan(&rig, "writes", "files");
    plan.binds.push(Bind { source: out.clone(), target: "/var/task".into(), writable: true });
    let seen = Arc::new(Mutex::new(Vec::new()));
    plan.on_output = Some(Box::new({
        let seen = Arc::clone(&seen);
        move |piece| seen.lock().unwrap().extend_from_slice(piece)
    }));
    let result = rig.sandbox.run_job(&plan).unwrap();
    let output = String::from_utf8(result.output).unwrap();
    assert_eq!(result.exit.code, Some(0), "{output}");
    assert_eq!(line(&output, "write /var/task/x"), "Ok(())");
    assert!(line(&output, "write /etc/x").starts_with("Err"));
    assert_eq!(*seen.lock().unwrap(), output.into_bytes());
    assert_eq!(fs::read_to_string(out.join("x")).unwrap(), "x");
    assert!(fs::metadata(out.join("x")).unwrap().uid() >= 0x7000_0000);
}

#[test]
fn only_the_end_of_the_output_is_kept() {
    let Some(rig) = rig("only_the_end_of_the_output_is_kept") else { return };
    let mut plan = plan(&rig, "tail", "files");
    plan.output_limit = 5;
    assert_eq!(rig.sandbox.run_job(&plan).unwrap().output, b"true\n");
}

#[test]
fn a_job_that_takes_too_long_is_killed() {
    let Some(rig) = rig("a_job_that_takes_too_long_is_killed") else { return };
    let mut plan = plan(&rig, "slow", "sleep");
    plan.timeout = Duration::from_millis(200);
    let error = rig.sandbox.run_job(&plan).unwrap_err();
    assert!(matches!(error, JobError::Timeout { .. }), "{error}");
}
