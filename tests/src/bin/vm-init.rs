//! The first process of the virtual machine that the `vm` tests and benchmarks boot: mounts, modules, one
//! program, power off.
//!
//! It prints one line of JSON when the program has ended; everything else on the console is the program's or the
//! kernel's. It never returns: the kernel would panic.

use std::ffi::CStr;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::process::{WaitOptions, wait};
use rustix::system::{RebootCommand, finit_module, reboot};
use serde_json::json;
use stratos_sys::netlink::Netlink;
use stratos_tests::vm::{MODULES, TASK, Task};

/// What an ordinary machine has mounted: the file system's type and its place.
const MOUNTS: &[(&str, &str)] = &[
    ("devtmpfs", "/dev"),
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
];

fn main() {
    let report = match run() {
        Ok(code) => json!({ "exit": code }),
        Err(error) => json!({ "error": format!("{error:#}") }),
    };
    println!("{report}");
    rustix::fs::sync();
    let error = reboot(RebootCommand::PowerOff);
    panic!("the machine does not power off: {error:?}");
}

fn run() -> anyhow::Result<Option<i32>> {
    leave_rootfs().context("cannot leave the initial root")?;
    for (kind, place) in MOUNTS {
        std::fs::create_dir_all(place).with_context(|| format!("cannot make {place}"))?;
        mount(*kind, *place, *kind, MountFlags::empty(), None::<&CStr>)
            .with_context(|| format!("cannot mount {kind} on {place}"))?;
    }
    for module in MODULES {
        load(Path::new(module)).with_context(|| format!("cannot load {module}"))?;
    }
    let mut network = Netlink::open()?;
    let loopback = network.index("lo")?;
    network.link_up(loopback)?;
    let task: Task = serde_json::from_slice(&std::fs::read(TASK)?).context(TASK)?;
    let (program, arguments) = task.command.split_first().context("no program")?;
    let program = Command::new(program)
        .args(arguments)
        .envs(task.environment)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let program = rustix::process::Pid::from_child(&program);
    loop {
        // Orphans end here too.
        if let Some((pid, status)) = wait(WaitOptions::empty())?
            && pid == program
        {
            return Ok(status.exit_status());
        }
    }
}

/// Nothing can pivot away from the root that the kernel unpacks the image into, and sandboxes pivot. A mount of it on
/// top of it is a root like any other.
fn leave_rootfs() -> anyhow::Result<()> {
    std::fs::create_dir_all("/root")?;
    mount_bind("/", "/root")?;
    std::env::set_current_dir("/root")?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

/// Loads a module as the package has it, compressed.
fn load(module: &Path) -> anyhow::Result<()> {
    /// `MODULE_INIT_COMPRESSED_FILE` of finit_module(2).
    const COMPRESSED: i32 = 4;
    let name = module.file_name().context("a module has a name")?;
    let file = File::open(Path::new("/modules").join(name).with_extension("ko.xz"))?;
    Ok(finit_module(file, c"", COMPRESSED)?)
}
