//! Values whose end may block.

/// Drops its value on a thread that may wait. The end of an instance or a template removes a cgroup and waits for a process:
/// never on a tokio worker.
pub(super) struct OffWorker<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> OffWorker<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Some(value))
    }

    pub(super) fn get(&self) -> &T {
        self.0.as_ref().expect("taken only by drop and into_inner")
    }

    pub(super) fn into_inner(mut self) -> T {
        self.0.take().expect("taken only here and by drop")
    }
}

impl<T: Send + 'static> Drop for OffWorker<T> {
    fn drop(&mut self) {
        let Some(value) = self.0.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(value))),
            Err(_) => drop(value),
        }
    }
}
