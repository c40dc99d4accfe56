//! Crash-safe state of one node: an embedded database and content-addressed blobs.
//!
//! Everything lives in one folder: `state.redb` (functions, their versions, the queue of asynchronous
//! invocations), `blobs/` (function images, each named by its SHA-256), `secrets/` and `lock` (held while a node uses
//! the folder). A call that returned `Ok` survives `kill -9` and a loss of power; one that did not return left either
//! the old state or the new one.
//!
//! What this crate never does: it reads no clock (callers pass times), it starts no function, and a synchronous
//! invocation writes nothing here. All calls block on the disk; call them from a thread that may.

mod blobs;
#[cfg(test)]
mod crash_tests;
mod db;
mod error;
mod functions;
mod queue;
mod record;
mod row;
mod secrets;
mod store;
mod writer;

pub use blobs::{AdoptedBlob, Blobs};
pub use error::StoreError;
pub use record::{
    ArtifactCheckpoint, AsyncRecord, AsyncRequest, AsyncState, FromArtifact, FunctionRecord, NewVersion,
    VersionRecord,
};
pub use secrets::{MAX_SECRET_BYTES, SecretRecord, SecretValue, SecretValueError, Secrets};
pub use store::Store;
pub use writer::Done;
