//! Plans: what a template's process and a clone of it do, as lists of system calls. Pure functions of an image and of
//! where things are now; the restorer makes the calls and decides nothing.

mod arena;
mod descriptors;
mod frame;
mod instance;
mod large;
mod lower;
mod template;

use stratos_restorer::abi::Call;

pub use self::arena::Arena;
pub use self::instance::{Fixed, InstancePlan, instance};
pub(crate) use self::instance::{list, run};
pub(crate) use self::large::pages as large_pages;
pub use self::template::{PlanError, TemplatePlan, Whereabouts, template};

/// A system call by libc's number for it.
pub(crate) fn call<const N: usize>(number: i64, args: [u64; N]) -> Call {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&args);
    Call::new(number as u32, all)
}
