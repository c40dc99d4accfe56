//! Ctrl-C and SIGTERM: the run ends with an error at its next step, so that everything it holds is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Whether somebody wants the run to end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From here on the two signals no longer end this process; [`Interrupt::check`] tells of them.
    ///
    /// # Errors
    /// When the signals cannot be listened to.
    pub(crate) fn listen(runtime: &Runtime) -> Result<Self> {
        let interrupt = Self::default();
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            let _in_runtime = runtime.enter();
            let mut signal = signal(kind)?;
            let flag = Arc::clone(&interrupt.0);
            runtime.spawn(async move {
                if signal.recv().await.is_some() {
                    flag.store(true, Ordering::Relaxed);
                }
            });
        }
        Ok(interrupt)
    }

    /// Goes on, unless somebody wants the run to end.
    ///
    /// # Errors
    /// After a signal.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}
