//! Runs a built operating system image in QEMU.
//!
//! [`Image`] finds what `stratos image build` left in the cache, a [`Machine`] says what it is to run in, and
//! [`Machine::start`] gives a [`Running`] one: its console, its monitor, and a client of the node's API. A
//! [`Snapshot`] is a machine saved when it was ready, from which others begin within a second.
//!
//! A machine ends with its owner, also with one that is killed, and leaves no file behind: as soon as QEMU has opened
//! its files they lose their names. Secrets reach the guest in files that only the owner may read, never on a command
//! line. Nothing here needs root.

mod accel;
mod console;
mod error;
mod identity;
mod image;
mod machine;
mod monitor;
mod nocloud;
mod process;
mod qemu;
mod running;
mod snapshot;

pub use accel::{Accelerator, accelerator};
pub use console::{ConsoleLine, ConsoleTail, Ready, lines_of};
pub use error::VmError;
pub use identity::Identity;
pub use image::Image;
pub use machine::{Boot, Machine, MachineKind};
pub use qemu::{Qemu, QemuVersion};
pub use running::Running;
pub use snapshot::Snapshot;
