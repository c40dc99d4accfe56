//! A share of the CPU time (`cpu` in stratos.toml): the sandbox is asked itself, which can be measured more closely.

use std::ffi::CString;
use std::io::{BufRead as _, BufReader};
use std::sync::Arc;
use std::time::Instant;

use stratos_sandbox::{InstancePlan, Sandbox, SandboxConfig, SeccompFilter};
use stratos_tests::layers_dir;

use crate::{MACHINE, need_controllers};

/// Burns on two processors, and says so once a second of wall time has passed, and again after three.
const BURN: &str = "
import os, time
begun = time.monotonic()
child = os.fork()
if child == 0:
    while True: pass
for until in (1, 4):
    while time.monotonic() < begun + until: pass
    print(until, flush=True)
while True: pass
";

#[test]
fn cpu_time_is_shared_out_as_planned() {
    if !need_controllers("cpu_time_is_shared_out_as_planned") {
        return;
    }
    let _alone = MACHINE.blocking_lock();
    let dir = tempfile::tempdir().expect("a folder");
    let sandbox = Sandbox::open(SandboxConfig {
        state_dir: dir.path().to_owned(),
        run_dir: dir.path().join("run"),
        require_limits: true,
        netns_pool: 1,
        cgroup: None,
        swap_percent: 0,
    })
    .expect("every controller is there");
    let image = |name: &str| {
        let text = std::fs::read(layers_dir().join(format!("{name}.json"))).expect("the layer is built");
        let manifest: stratos_types::LayerManifest = serde_json::from_slice(&text).expect("a manifest");
        sandbox.mount_image(&layers_dir().join(manifest.image)).expect("it mounts")
    };
    let text = |text: &str| CString::new(text).expect("no zero byte");
    let plan = InstancePlan {
        id: "burner".into(),
        layer: image("python3.13"),
        // Any image will do: the program is on the command line.
        function: image("native"),
        argv: ["/usr/bin/python3.13", "-c", BURN].map(text).into(),
        env: vec![text("HOME=/tmp")],
        memory_bytes: 128 << 20,
        cpu_millis: Some(400),
        reserved_cpus: false,
        pids_max: 16,
        tmp_bytes: 1 << 20,
        seccomp: Arc::new(SeccompFilter::for_runtime("python3.13").expect("its profile")),
        egress: None,
        hostname: "burner".into(),
    };
    let mut instance = sandbox.start(&plan).expect("it starts");
    let stdout = std::fs::File::from(instance.take_stdout());
    rustix::io::ioctl_fionbio(&stdout, false).expect("a pipe");
    let mut lines = BufReader::new(stdout).lines();
    let mut sample = || {
        lines.next().expect("a line").expect("text");
        (Instant::now(), instance.cpu_time().expect("the kernel counts"))
    };
    let ((began, first), (ended, last)) = (sample(), sample());
    let share = (last - first).as_secs_f64() / (ended - began).as_secs_f64();
    // It may use up one period's share at once, before and after.
    assert!((0.2..0.5).contains(&share), "{share:.2} of a CPU instead of 0.40");
    let weight = std::fs::read_dir("/sys/fs/cgroup").expect("cgroup v2").flatten();
    let weight = weight.map(|base| base.path().join("burner/cpu.weight")).find(|file| file.exists());
    assert_eq!(std::fs::read_to_string(weight.expect("its cgroup")).expect("readable").trim(), "40");
}
