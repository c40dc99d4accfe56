//! Checkpoints of processes: dumping one that is ready to serve, and starting many from what was dumped.
//!
//! ```text
//!  a parked process ─ dump ─▶ image (file) ─ plan ─▶ template (process) ─ plan ─▶ instance, instance, ...
//! ```
//!
//! - [`dump`] stops a process, reads all that it consists of, and writes an image. What it cannot put down so that it can
//!   be restored truly, it refuses with a reason; the caller starts such a program afresh.
//! - [`image`] is the format ([docs/formats/checkpoint.md]): written by one function, read by another that believes
//!   nothing.
//! - [`plan`] turns an image into lists of system calls. Pure: what will be done can be printed and tested.
//! - [`template`] is a process that holds an image's memory and runs none of its code. An instance is a clone of it,
//!   which shares every page that neither of them writes. It learns from the first one what all will touch
//!   ([`working_set`]).
//!
//! What this crate must never do: change the process that is dumped in any way it could notice, or use an image whose
//! digest was not compared. It knows nothing of functions, HTTP or the node; who may use an image is decided above it.
//!
//! [docs/formats/checkpoint.md]: https://github.com/stratos-os/stratos/blob/main/docs/formats/checkpoint.md

pub mod dump;
pub mod image;
pub mod machine;
pub mod plan;
pub mod template;
pub mod working_set;
