//! Instances that are restored ahead of requests, and wait to be released.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use stratos_checkpoint::template::Template;
use stratos_sys::process;
use stratos_types::InstanceId;

/// What an instance goes on from.
pub(super) enum Origin {
    /// A clone that is made for it.
    Template(Arc<Template>),
    /// One that was made before.
    Held(Held),
}

/// A restored instance that was not released. Its process sleeps and shares nearly all of its memory.
pub(super) struct Held {
    pub(super) id: InstanceId,
    /// Taken by [`Held::into_instance`] and by drop.
    instance: Option<stratos_sandbox::Instance>,
}

impl Held {
    pub(super) fn new(id: InstanceId, instance: stratos_sandbox::Instance) -> Self {
        Self { id, instance: Some(instance) }
    }

    pub(super) fn into_instance(mut self) -> stratos_sandbox::Instance {
        self.instance.take().expect("taken only here and by drop")
    }

    fn lives(&self) -> bool {
        let ended = |i: &stratos_sandbox::Instance| process::ended_within(i.pidfd(), Duration::ZERO);
        self.instance.as_ref().is_some_and(|instance| matches!(ended(instance), Ok(false)))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(instance) = self.instance.take() else { return };
        // Its end removes a cgroup and waits for a process: never on a tokio worker.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(instance))),
            Err(_) => drop(instance),
        }
    }
}

/// Those of one version.
#[derive(Default)]
pub(super) struct Store(VecDeque<Held>);

impl Store {
    /// Takes the one that waits longest.
    pub(super) fn take(&mut self) -> Option<Held> {
        std::iter::from_fn(|| self.0.pop_front()).find(Held::lives)
    }

    pub(super) fn add(&mut self, held: Held) {
        self.0.push_back(held);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
