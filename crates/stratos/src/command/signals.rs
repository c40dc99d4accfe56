//! What ends a command that stays in the foreground.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, Result};
use crate::output::reader_gone;

/// The signals that ask for an end, and that nobody reads the output any more.
pub(crate) struct Signals([Signal; 3]);

impl Signals {
    /// Listens from now on.
    pub(crate) fn new() -> Result<Self> {
        let open = |kind| signal(kind).map_err(|e| Failure::new("cannot listen to signals").because(&e));
        Ok(Self([
            open(SignalKind::interrupt())?,
            open(SignalKind::terminate())?,
            open(SignalKind::hangup())?,
        ]))
    }

    /// Waits for one.
    pub(crate) async fn any(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            () = reader_gone() => {}
        }
    }
}
