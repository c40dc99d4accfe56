//! Ctrl-C and SIGTERM: the run ends with an error at its next step, so that everything it holds is dropped.

use std::sync::Arc;

use anyhow::{Result, bail};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether somebody wants the run to end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(Arc<watch::Sender<bool>>);

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
                    flag.send_replace(true);
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
        if *self.0.borrow() {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Does some work to its end, or drops it where it is when somebody wants the run to end.
    ///
    /// # Errors
    /// Those of the work, and after a signal.
    pub(crate) async fn or<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut flag = self.0.subscribe();
        tokio::select! {
            done = work => done,
            // The sender lives as long as `self`.
            _ = flag.wait_for(|interrupted| *interrupted) => bail!("interrupted"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_ends_with_an_interrupt() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let interrupt = Interrupt::default();
        assert_eq!(runtime.block_on(interrupt.or(async { Ok(1) })).unwrap(), 1);
        interrupt.0.send_replace(true);
        let error = runtime.block_on(interrupt.or(std::future::pending::<Result<()>>())).unwrap_err();
        assert_eq!(error.to_string(), "interrupted");
        assert!(interrupt.check().is_err());
    }
}
