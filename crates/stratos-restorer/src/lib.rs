//! The program that a restored process begins as, and the protocol it speaks.
//!
//! [`PROGRAM`] is a static executable of a few KiB, linked at addresses that no other program uses, without a library
//! behind it. Started, it waits on one socket for lists of system calls ([`abi::Call`]) and makes them. It decides
//! nothing: what a template's address space looks like, and what a clone of it does before it goes on as the process
//! that was checkpointed, is planned by `stratos-checkpoint`, where plans can be read and tested.
//!
//! What it must never do: trust anybody but its parent (it reads from no other descriptor), touch memory outside of
//! its own range and what a call names, use thread-local storage (it has none of its own, and the process whose memory
//! it holds has some).
//!
//! The program is built by this crate's build script from `program/main.rs`, which shares [`abi`] with this library.

pub mod abi;

/// The executable.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/restorer"));
