//! The debug layer: a shell and tools, only when the kernel's command line names it by its root hash, verified like
//! everything else, and until a given time at most.

use std::ffi::CString;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};

use crate::boot::Node;
use crate::disk;
use crate::error::InitError;
use crate::patience;
use crate::phase::Outcome;
use crate::root::{self, ids};
use crate::service::Service;
use crate::unit::{Ready, Restart, Stop, StopSignal, Unit};
use crate::{clock, files, verity};

const PLACE: &str = "/run/debug";
const NAME: &str = "debug";
/// How long its disk may take to appear.
const DEADLINE: Duration = Duration::from_secs(10);
/// Its shell, in the layer, which becomes the shell's root; the node's own root is at /host in it.
const SHELL: &str = "/usr/bin/sh";

/// Verifies and mounts the layer and has a shell started on the console, until the time that the command line says.
///
/// # Errors
/// When its time is not said, is over, or it cannot be found or verified.
pub fn set_up(node: &mut Node) -> Result<Outcome, InitError> {
    let Some((hash, until)) = node.cmdline.debug_layer()? else {
        return Outcome::skipped("none is named");
    };
    let left = until.saturating_mul(1000).saturating_sub(clock::wall_ms());
    if left == 0 {
        return Err(InitError::invalid("the debug layer", "its time is over"));
    }
    let (id, _) = ids(&hash).ok_or_else(|| InitError::missing("a root hash"))?;
    let device = patience::within(2 * DEADLINE, "debug", move || {
        patience::until(DEADLINE, || {
            let disks = disk::with_tables(&mut |_| {}).ok()?;
            let (disk, partition) = disk::find(&disks, &id)?;
            disk.device(partition)
        })
    });
    let device = device.flatten().ok_or_else(|| InitError::missing("the disk of the debug layer"))?;
    let bytes = verity::erofs_bytes(&device.read(0, 2048)?)
        .ok_or_else(|| InitError::missing("an image on the debug layer's disk"))?;
    let at = bytes.next_multiple_of(verity::BLOCK);
    let superblock = root::superblock(&device, at)?;
    if superblock.data_bytes() > at {
        return Err(InitError::invalid("the debug layer's verity superblock", "it is of a longer layer"));
    }
    let table = superblock.table(&device.numbers, &device.numbers, at, &hash);
    let verified = root::make(NAME, "verity", superblock.data_bytes(), &table)?;
    root::check_first_block(&verified)?;
    files::folder(PLACE)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    mount(verified.path(), PLACE, "erofs", flags, c"")
        .map_err(|errno| InitError::system("mount the debug layer", errno))?;
    let left = Duration::from_millis(left);
    start_shell(node, left)?;
    let detail = format!("a shell on the console for {} s", left.as_secs());
    node.ability("debug layer", true, detail.clone());
    Outcome::done(detail)
}

fn start_shell(node: &mut Node, left: Duration) -> Result<(), InitError> {
    if !Path::new(PLACE).join(SHELL.trim_start_matches('/')).exists() {
        return Err(InitError::missing("a shell in the debug layer"));
    }
    let environment = [
        ("PATH", "/usr/sbin:/usr/bin:/host/usr/bin"),
        ("HOME", "/tmp"),
        ("TERM", "vt100"),
        ("PS1", "debug# "),
    ];
    let mut service = Service::new(Unit {
        name: NAME.to_owned(),
        description: "the debug layer's shell".to_owned(),
        order: u32::MAX,
        exec: vec![SHELL.to_owned()],
        environment: environment.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        node_environment: false,
        essential: false,
        after_ready: false,
        restart: Restart { first_ms: 1000, most_ms: 1000, reset_after_s: 60 },
        ready: Ready { notify: false, within_s: 10 },
        stop: Stop { signal: StopSignal::Term, within_s: 1 },
        memory_min_mib: 0,
        oom_score_adj: 0,
        open_files: 1024,
    });
    service.on_console = true;
    service.root = CString::new(PLACE).ok();
    service.until = Some(clock::now() + left);
    node.supervisor.services.push(service);
    Ok(())
}
