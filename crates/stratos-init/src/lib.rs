//! PID 1 of StratOS: boots in named phases, supervises the services, shuts down in order.
//!
//! What it must never do, for the machine would end with it: block without a deadline, allocate without bound, panic,
//! exit. So every wait here has a deadline, every read a limit, and every line and queue a cap; a system call that may
//! hang with a disk (writing logs, unmounting) runs on a thread that is given up when it is late; what fails is a value
//! that ends up in the boot's record, and only a root that cannot be verified ends the boot ([`power::give_up`]).
//! Bytes from a network are read by other processes of this same program (`stratos-init network`, `stratos-init
//! time`), which PID 1 supervises like any service.
//!
//! Where to start: [`boot::BOOT`] and [`shutdown::SHUTDOWN`] are the phases, read top to bottom. Behind them,
//! [`supervisor`] is the loop that PID 1 stays in.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::string_slice
    )
)]

pub mod backoff;
pub mod boot;
pub mod button;
pub mod cgroups;
pub mod clock;
pub mod cmdline;
pub mod config;
pub mod console;
pub mod control;
pub mod debug;
pub mod dhcp;
pub mod disk;
pub mod entry;
pub mod error;
mod fat;
pub mod files;
pub mod gpt;
pub mod identity;
mod iso9660;
pub mod kmsg;
pub mod layers;
pub mod log;
pub mod memory;
pub mod modules;
pub mod mounts;
pub mod network;
pub mod nocloud;
pub mod notify;
pub mod patience;
pub mod phase;
pub mod power;
pub mod record;
pub mod root;
pub mod service;
pub mod shutdown;
pub mod smbios;
pub mod sntp;
pub mod state;
pub mod supervisor;
pub mod sysctl;
pub mod timekeeper;
pub mod unit;
pub mod user_data;
pub mod verity;
pub mod zram;
