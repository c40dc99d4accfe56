//! Measures how long a start takes, by phase: `start_time LAYER.erofs FUNCTION.erofs PROGRAM [ROUNDS]`, as root.

use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stratos_sandbox::{InstancePlan, Sandbox, SandboxConfig, SeccompFilter};

fn main() {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next();
    let (Some(layer), Some(function), Some(program)) = (next(), next(), next()) else {
        eprintln!("usage: start_time LAYER.erofs FUNCTION.erofs PROGRAM [ROUNDS]");
        std::process::exit(2);
    };
    let rounds: usize = next().map_or(200, |rounds| rounds.parse().expect("ROUNDS is a number"));
    let dir = tempfile::tempdir().expect("a folder for the sandbox");
    let sandbox = Sandbox::open(SandboxConfig {
        state_dir: dir.path().into(),
        run_dir: dir.path().join("run"),
        require_limits: false,
        netns_pool: 8,
        cgroup: None,
        swap_percent: 0,
    })
    .expect("a sandbox");
    let layer = sandbox.mount_image(Path::new(&layer)).expect("the layer");
    let function = sandbox.mount_image(Path::new(&function)).expect("the function");
    let seccomp = Arc::new(SeccompFilter::for_runtime("native").expect("the profile"));
    let mut rows = Vec::new();
    for round in 0..rounds {
        let plan = InstancePlan {
            id: format!("round-{round}"),
            layer: Arc::clone(&layer),
            function: Arc::clone(&function),
            argv: vec![CString::new(program.as_str()).expect("a path"), c"park".into()],
            env: vec![],
            memory_bytes: 128 << 20,
            cpu_millis: Some(1000),
            reserved_cpus: false,
            pids_max: 64,
            tmp_bytes: 64 << 20,
            seccomp: Arc::clone(&seccomp),
            egress: None,
            hostname: "function".into(),
        };
        let started = Instant::now();
        let instance = sandbox.start(&plan).expect("an instance");
        let total = started.elapsed();
        let timings = *instance.timings();
        rows.push([timings.network, timings.cgroup, timings.clone_to_exec, total]);
        drop(instance);
        // As in use: starts come one by one, and the pool has time to refill.
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{rounds} starts        p50        p95        min");
    for (column, name) in ["network", "cgroup", "clone to exec", "total"].into_iter().enumerate() {
        let mut times: Vec<_> = rows.iter().map(|row| row[column]).collect();
        times.sort();
        let at = |part: usize| times[(times.len() - 1) * part / 100];
        println!("{name:13} {:>10.3?} {:>10.3?} {:>10.3?}", at(50), at(95), at(0));
    }
}
