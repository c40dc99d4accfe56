//! Which of its programs this process is: PID 1, or one of the services that PID 1 starts from the same file.

use std::process::exit;
use std::time::Duration;

use stratos_sys::signals::SignalQueue;

use crate::boot::{self, BOOT, Node};
use crate::cmdline::CommandLine;
use crate::error::InitError;
use crate::patience::Guard;
use crate::supervisor::{SIGNALS, stay};
use crate::{clock, network, phase, power, record, shutdown, timekeeper};

/// How long all phases together may take. Each wait in them has its own deadline; this is for a disk that hangs where
/// none is expected to.
const BOOT_DEADLINE: Duration = Duration::from_secs(900);
const USAGE: &str = "stratos-init is the first process of a StratOS node (PID 1), and its services `stratos-init \
                     network` and `stratos-init time`, which PID 1 starts.";

/// Runs the program. Ends the process, unless it is the first.
pub fn run() {
    let kernel_us = clock::boot_us();
    if stratos_sys::first::is_first() {
        first(kernel_us);
    }
    let result = match std::env::args().nth(1).as_deref() {
        Some("network") => network::serve(),
        Some("time") => timekeeper::serve(),
        Some("--version") => {
            println!("stratos-init {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        _ => {
            eprintln!("{USAGE}");
            exit(2)
        }
    };
    if let Err(error) = result {
        eprintln!("error: {}", error.chain());
        exit(1)
    }
}

/// PID 1.
fn first(kernel_us: u64) -> ! {
    power::catch_panics();
    network::set_process_name(c"stratos-init");
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    let mut node = Node { record: record::begin(kernel_us), ..Node::default() };
    match SignalQueue::new(&SIGNALS.map(|signal| signal.as_raw())) {
        Ok(signals) => node.supervisor.signals = Some(signals),
        Err(error) => node.journal.note(&InitError::system("queue signals", error).chain()),
    }
    // Ctrl-Alt-Del comes as a signal, and shuts down in order.
    // A kernel without a keyboard knows no such thing.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::CadOff);
    let guard = Guard::arm(BOOT_DEADLINE, "boot", || {
        power::give_up("the boot does not end", &CommandLine::early());
    });
    if let Err((phase, error)) = phase::run(BOOT, &mut node, |node, done| node.record.phases.push(done)) {
        power::give_up(&format!("phase {}: {}", phase.name, error.chain()), &node.cmdline);
    }
    drop(guard);
    boot::expedite(&mut node.journal, false);
    record::keep(&mut node);
    let wish = stay(&mut node);
    shutdown::run(wish, &mut node)
}
