//! What the kernel tells of instances, by cgroup: eBPF programs that are loaded once, the figures they keep, the events
//! they report, and windows in which every system call is counted and timed.
//!
//! Programs come in groups, each an object of its own, so that one that a kernel refuses leaves the others. Loading
//! never fails as a whole: a kernel without eBPF gives a [`Tracer`] of which every group says why it is not there.
//!
//! It knows nothing of functions: a [`CgroupId`] is all that it is told. Memory is bounded on both sides of the kernel
//! boundary, and what finds no place is counted ([`Tracer::dropped`]).

mod events;
mod group;
mod layout;
mod said;
mod tracer;
mod window;

pub use events::{Event, Events, What};
pub use group::{Group, GroupState};
pub use layout::{Call, Counters, Dropped};
pub use tracer::{Options, Tracer};
pub use window::{SyscallTable, Window, WindowError};

/// The kernel's number of a cgroup of the v2 hierarchy: the inode number of its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupId(pub u64);

impl CgroupId {
    pub(crate) const fn key(self) -> [u8; 8] {
        self.0.to_ne_bytes()
    }
}
