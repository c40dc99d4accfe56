//! The one door to the kernel: safe wrappers over the system calls StratOS needs.
//!
//! What rustix already offers is used from rustix by the crates above; here stands what it lacks (clone3 with a list
//! of operations, Landlock, loop devices, the device mapper, partitions, swap, signals to be read, seccomp) and what
//! needs an argument about threads (entering a network namespace for the length of a call, a private mount namespace).
#![expect(unsafe_code, reason = "this crate is where the unsafe kernel interfaces are made safe")]

pub mod address;
pub mod clock;
pub mod cpu;
pub mod disk;
pub mod dm;
pub mod erofs;
pub mod first;
pub mod landlock;
pub mod loopdev;
pub mod mountns;
pub mod netlink;
pub mod netns;
pub mod pagemap;
pub mod pages;
pub mod process;
pub mod ptrace;
pub mod seccomp;
pub mod signals;
pub mod socket;
pub mod spawn;
pub mod swap;
pub mod syscalls;
pub mod verity;
