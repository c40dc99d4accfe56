//! The shutdown: its phases in their order. Every one has deadlines, and all together have one.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::{Signal, WaitOptions, wait};

use crate::boot::Node;
use crate::error::InitError;
use crate::patience::Guard;
use crate::phase::{self, Outcome, Phase};
use crate::service::State;
use crate::supervisor::{self, Wish};
use crate::{cgroups, clock, files, mounts, patience, power, zram};

/// The shutdown, in the order in which every shutdown goes.
pub const SHUTDOWN: &[Phase] = &[
    Phase {
        name: "services",
        what: "stops the services, the last started first, each with its deadline",
        needed: false,
        run: stop_services,
    },
    Phase { name: "functions", what: "kills what is left of functions", needed: false, run: kill_functions },
    Phase { name: "processes", what: "ends every other process", needed: false, run: end_processes },
    Phase { name: "log", what: "brings the log to the disk", needed: false, run: close_log },
    Phase { name: "zram", what: "takes compressed swap away", needed: false, run: |_| take_swap_away() },
    Phase {
        name: "unmount",
        what: "unmounts everything but the root, the state at least read-only",
        needed: false,
        run: |_| unmount_all(),
    },
    Phase { name: "sync", what: "brings what is left to the disks", needed: false, run: |_| sync() },
    Phase {
        name: "devices",
        what: "removes the devices of the runtime layers",
        needed: false,
        run: |_| remove_devices(),
    },
];

/// However the phases go, the machine ends after this.
const DEADLINE: Duration = Duration::from_secs(150);
/// How long killed processes may take to be gone.
const KILLED: Duration = Duration::from_secs(5);
/// How long other processes have to end by themselves.
const GRACE: Duration = Duration::from_secs(2);
const LOG: Duration = Duration::from_secs(10);
const SWAP: Duration = Duration::from_secs(20);
const UNMOUNT: Duration = Duration::from_secs(30);
const SYNC: Duration = Duration::from_secs(20);
/// What needs no unmounting: it is the root, or the kernel made it up.
const KEPT: [&str; 5] = ["/", "/proc", "/sys", "/dev", "/run"];

/// Shuts down and ends the machine.
pub fn run(wish: Wish, node: &mut Node) -> ! {
    node.journal.say(match wish {
        Wish::Reboot => "shutting down to start again",
        Wish::PowerOff => "shutting down to switch off",
    });
    let cmdline = node.cmdline.clone();
    let guard = Guard::arm(DEADLINE, "shutdown", move || power::end(wish, &cmdline));
    if let Err(error) = &guard {
        node.journal.say(&format!("no guard over the shutdown: {error}"));
    }
    // No phase is needed, so this comes back without an error; the record is that of the boot.
    drop(phase::run(SHUTDOWN, node, |_, _| {}));
    power::end(wish, &node.cmdline)
}

fn stop_services(node: &mut Node) -> Result<Outcome, InitError> {
    node.supervisor.stopping = true;
    let count = node.supervisor.services.len();
    for index in (0..count).rev() {
        let deadline = match node.supervisor.services.get_mut(index) {
            Some(service) => {
                service.stop();
                clock::now() + service.unit.stop.within() + KILLED
            }
            None => continue,
        };
        let stopped =
            |node: &Node| node.supervisor.services.get(index).is_none_or(|s| s.state == State::Stopped);
        while !stopped(node) && clock::now() < deadline {
            supervisor::turn(node, deadline);
        }
    }
    let alive = node.supervisor.services.iter().filter(|service| service.state != State::Stopped);
    let alive: Vec<_> = alive.map(|service| service.unit.name.as_str()).collect();
    match alive.is_empty() {
        true => Outcome::done(format!("{count} services")),
        false => Err(InitError::Late { what: format!("the end of {}", alive.join(", ")), after: KILLED }),
    }
}

fn kill_functions(_: &mut Node) -> Result<Outcome, InitError> {
    let groups = ["functions", "reserved"].map(|name| Path::new(cgroups::ROOT).join(name));
    let populated: Vec<_> = groups.iter().filter(|group| cgroups::is_populated(group)).collect();
    if populated.is_empty() {
        return Outcome::skipped("none is left");
    }
    for group in &populated {
        cgroups::kill(group)?;
    }
    let gone = patience::until(KILLED, || {
        collect();
        (!populated.iter().any(|group| cgroups::is_populated(group))).then_some(())
    });
    match gone {
        Some(()) => Outcome::done("killed"),
        None => Err(InitError::Late { what: "the end of functions".to_owned(), after: KILLED }),
    }
}

/// Collects what ended. True when PID 1 has no children any more.
fn collect() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

fn end_processes(_: &mut Node) -> Result<Outcome, InitError> {
    for (signal, patience) in [(Signal::TERM, GRACE), (Signal::KILL, KILLED)] {
        if collect() {
            return Outcome::done("none is left");
        }
        stratos_sys::process::signal_everyone(signal)
            .map_err(|source| InitError::system("signal every process", source))?;
        patience::until(patience, || collect().then_some(()));
    }
    match collect() {
        true => Outcome::done("killed"),
        false => Err(InitError::Late { what: "the end of every process".to_owned(), after: KILLED }),
    }
}

fn close_log(node: &mut Node) -> Result<Outcome, InitError> {
    match node.journal.close(LOG) {
        true => Outcome::done("on the disk"),
        false => Err(InitError::Late { what: "the log's way to the disk".to_owned(), after: LOG }),
    }
}

fn take_swap_away() -> Result<Outcome, InitError> {
    if files::read_value("/proc/swaps")?.lines().count() < 2 {
        return Outcome::skipped("there is none");
    }
    match patience::within(SWAP, "swapoff", zram::take_down) {
        Some(result) => result.and_then(|()| Outcome::done("gone")),
        None => Err(InitError::Late { what: "the end of swapping".to_owned(), after: SWAP }),
    }
}

/// Unmounts the newest first, several times: what is mounted in another mount goes first, and what is stacked shows
/// what is below it.
fn unmount_all() -> Result<Outcome, InitError> {
    let left = patience::within(UNMOUNT, "unmount", || {
        for _ in 0..8 {
            let places = to_unmount(mounts::places()?);
            let mut moved = false;
            for place in places.iter().rev() {
                moved |= unmount(place.as_str(), UnmountFlags::NOFOLLOW).is_ok();
            }
            if !moved {
                break;
            }
        }
        let left: BTreeSet<_> = to_unmount(mounts::places()?).into_iter().collect();
        for place in &left {
            // In use to the end: at least nothing is written any more.
            let _ = mount_remount(place.as_str(), MountFlags::RDONLY, c"");
        }
        Ok::<_, InitError>(left)
    });
    let left = left.ok_or_else(|| InitError::Late { what: "unmounting".to_owned(), after: UNMOUNT })??;
    match left.is_empty() {
        true => Outcome::done("everything"),
        false => Err(InitError::invalid("still mounted", left.into_iter().collect::<Vec<_>>().join(" "))),
    }
}

fn to_unmount(places: Vec<String>) -> Vec<String> {
    places.into_iter().filter(|place| !KEPT.contains(&place.as_str())).collect()
}

fn sync() -> Result<Outcome, InitError> {
    match patience::within(SYNC, "sync", rustix::fs::sync) {
        Some(()) => Outcome::done("done"),
        None => Err(InitError::Late { what: "a disk".to_owned(), after: SYNC }),
    }
}

fn remove_devices() -> Result<Outcome, InitError> {
    let names = files::names("/dev/mapper", 1024)?;
    let mut layers: Vec<_> = names.iter().filter_map(|name| name.strip_prefix("layer-")).collect();
    layers.retain(|name| !name.ends_with("-data"));
    for layer in &layers {
        crate::layers::remove(layer);
    }
    Outcome::done(format!("{} layers", layers.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_and_what_the_kernel_makes_up_stay() {
        let places =
            ["/", "/proc", "/sys", "/sys/fs/cgroup", "/var", "/run/stratos/layers/a"].map(str::to_owned);
        assert_eq!(to_unmount(places.to_vec()), ["/sys/fs/cgroup", "/var", "/run/stratos/layers/a"]);
    }
}
