//! The only code that differs between processors: how a system call is made, its numbers, and how a clone starts on
//! a stack of its own. A port adds one file here and nothing elsewhere.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;

#[cfg(not(target_arch = "x86_64"))]
compile_error!(
    "stratos-setup has no system call layer for this processor: write crates/stratos-setup/src/arch/<arch>.rs after \
     the model of x86_64.rs and name it in crates/stratos-setup/src/arch/mod.rs"
);
