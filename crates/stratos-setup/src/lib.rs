//! The allocation-free interpreter that sets up a process between clone and exec.
//!
//! A process that is to become a function instance goes through a fixed list of steps: enter a network namespace,
//! mount its root, drop its privileges, execute. The list is data (`&[Op]`), made by the parent while it may still
//! allocate; this crate runs it in the child, where nothing is allowed but system calls: the child shares the
//! parent's memory (`CLONE_VM`), so another thread of the parent may hold any lock, the allocator's included.
//!
//! Rules of this crate, for that reason: `no_std`, no allocation, no locks, no thread-local storage, no logging, no
//! panics on any path that the child takes. A freestanding program (the checkpoint restorer) can link it as it is.
#![no_std]
#![expect(
    unsafe_code,
    reason = "this crate is the raw system call layer of the child between clone and exec"
)]

pub mod abi;
mod arch;
mod args;
mod clone;
mod op;
mod report;
mod run;

pub use args::{ArgList, CStrPtr};
pub use clone::{CloneArgs, clone_and_run};
pub use op::{BpfInstruction, Op};
pub use report::{Errno, Failure, Report};
pub use run::run;
