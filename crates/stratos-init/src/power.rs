//! The end of the machine, in order or not. Nothing here comes back: PID 1 must not exit.

use std::time::Duration;

use rustix::system::{RebootCommand, reboot};

use crate::cmdline::{CommandLine, LastResort};
use crate::console::Console;
use crate::patience;
use crate::supervisor::Wish;

/// How long the disks have for what is not written yet.
const SYNC_TIME: Duration = Duration::from_secs(5);
/// How long the reason stands on the console.
const READING_TIME: Duration = Duration::from_secs(10);

/// Switches off or starts again.
pub fn end(wish: Wish, cmdline: &CommandLine) -> ! {
    let first = match wish {
        Wish::PowerOff if can_power_off(cmdline) => RebootCommand::PowerOff,
        // Started again, it ends where the machine's owner wants that (QEMU's -no-reboot).
        Wish::PowerOff | Wish::Reboot => RebootCommand::Restart,
    };
    loop {
        for command in [first, RebootCommand::Restart, RebootCommand::Halt] {
            // It comes back only when it has failed, and then the next way is tried.
            let _ = reboot(command);
        }
        patience::pause(READING_TIME);
    }
}

/// Whether the machine has a switch: on x86-64, ACPI.
fn can_power_off(cmdline: &CommandLine) -> bool {
    let acpi = !cfg!(target_arch = "x86_64") || std::fs::exists("/sys/firmware/acpi").unwrap_or(false);
    acpi && !cmdline.no_power_off
}

/// Says why the machine cannot go on, leaves time to read it, and ends it.
pub fn give_up(reason: &str, cmdline: &CommandLine) -> ! {
    let (wish, then) = match cmdline.last_resort {
        LastResort::Reboot => (Wish::Reboot, "starts again"),
        LastResort::PowerOff => (Wish::PowerOff, "switches off"),
    };
    // Whoever is at work may leave a disk as after a power cut, but what was written before is on it.
    let _ = patience::within(SYNC_TIME, "sync", rustix::fs::sync);
    let message = format!("cannot go on: {reason}; the machine {then} in {} s", READING_TIME.as_secs());
    Console::open().print(&message);
    patience::pause(READING_TIME);
    end(wish, cmdline)
}

/// Makes a panic in PID 1, which would end it and with it the kernel, an orderly last resort: the hook runs before the
/// process is aborted, and does not come back.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        // There is no error that this could be handed to, and no allocation that it must not make.
        give_up(&format!("PID 1 has a defect: {panic}"), &CommandLine::early());
    }));
}
