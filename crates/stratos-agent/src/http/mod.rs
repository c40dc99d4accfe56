//! The node's face to clients: control API, function URLs, and AWS Lambda's Invoke.
//!
//! A request comes in through [`serve`] (connections and their limits), is let through or refused by [`auth`],
//! and finds its handler in [`routes`]. Nothing in here starts a process or keeps state: functions are run by
//! [`crate::engine`], versions are made by [`crate::deploy`]. What parses bytes of strangers or of functions
//! ([`sigv4`], [`aws_name`], [`url_answer`], [`prelude`]) is pure and public, so that it can be fuzzed.

pub mod auth;
mod aws;
mod aws_error;
pub mod aws_name;
mod build;
mod control;
mod deploy;
mod errors;
mod extract;
mod function_url;
mod headers;
mod invoke;
mod keys;
mod listeners;
mod logs;
mod node;
mod observe;
pub mod openapi;
pub mod prelude;
mod routes;
mod secrets;
mod self_signed;
mod serve;
pub mod sigv4;
mod telemetry;
mod timed;
mod token;
mod trace;
pub mod trace_context;
mod ui;
pub mod url_answer;
pub mod url_event;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stratos_types::TenantId;
use tokio::sync::{Semaphore, watch};

pub use self::listeners::{ListenConfig, ListenError, Listeners, TlsFiles};
pub use self::self_signed::SelfSignedError;
pub use self::token::{Token, TokenError};
use crate::deploy::Deployer;
use crate::engine::Engine;
use crate::keys::TrustedKeys;
use crate::machine::Machine;

/// Deploys that work at the same time; a dependency build alone can fill a small machine.
const PARALLEL_DEPLOYS: usize = 2;

/// What answers requests.
pub struct Services {
    /// Runs functions.
    pub engine: Engine,
    /// Makes versions.
    pub deployer: Arc<Deployer>,
    /// Whose artifacts are believed.
    pub keys: TrustedKeys,
    /// Tells of the machine.
    pub machine: Arc<Machine>,
    /// Folder for uploads on their way in. It belongs to the API alone: it is emptied at start.
    pub spool: PathBuf,
}

/// What every handler has at hand.
pub(crate) struct Api {
    engine: Engine,
    deployer: Arc<Deployer>,
    keys: TrustedKeys,
    builds: Arc<build::Builds>,
    machine: Arc<Machine>,
    spool: PathBuf,
    tenant: TenantId,
    deploys: Semaphore,
    /// Turns true when the node stops: streams without an end of their own end then.
    stop: watch::Receiver<bool>,
}

/// Answers requests until `stop` turns true, then lets those in flight finish for at most `grace`. Returns how many
/// connections had to be cut.
///
/// # Errors
/// When the spool folder cannot be made or emptied.
pub async fn serve(
    listeners: Listeners,
    services: Services,
    stop: watch::Receiver<bool>,
    grace: Duration,
) -> std::io::Result<usize> {
    let Services { engine, deployer, keys, machine, spool } = services;
    deploy::prepare_spool(&spool)?;
    let api = Arc::new(Api {
        engine,
        deployer,
        keys,
        builds: Arc::default(),
        machine,
        spool,
        tenant: TenantId::default(),
        deploys: Semaphore::new(PARALLEL_DEPLOYS),
        stop: stop.clone(),
    });
    Ok(serve::serve(listeners, routes::router(api), stop, grace).await)
}
