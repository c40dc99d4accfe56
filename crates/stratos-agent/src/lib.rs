//! stratosd, the node agent: deploys functions and answers their requests.
//!
//! [`engine`] runs functions, [`deploy`] turns an uploaded folder into a version, [`http`] is the node's face to
//! clients. [`node`] puts them together; `main.rs` only reads the command line.

pub mod body;
mod clock;
pub mod config;
pub mod deploy;
pub mod engine;
pub mod http;
pub mod keys;
pub mod layers;
pub mod machine;
pub mod node;
mod notify;
pub mod telemetry;
pub mod warm;
