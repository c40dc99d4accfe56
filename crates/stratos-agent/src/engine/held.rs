//! Instances that are restored ahead of requests, and wait to be released.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use stratos_checkpoint::template::Template;
use stratos_sys::process;
use stratos_types::InstanceId;

use super::off_worker::OffWorker;

/// What an instance goes on from.
pub(super) enum Origin {
    /// A clone that is made for it.
    Template(Arc<Template>),
    /// One that was made before.
    Held(Held),
}

impl Origin {
    /// The template of a clone that is still to be made.
    pub(super) fn into_template(self) -> Option<Arc<Template>> {
        match self {
            Self::Template(template) => Some(template),
            Self::Held(_) => None,
        }
    }
}

/// A restored instance that was not released. Its process sleeps and shares nearly all of its memory.
pub(super) struct Held {
    pub(super) id: InstanceId,
    instance: OffWorker<stratos_sandbox::Instance>,
}

impl Held {
    pub(super) fn new(id: InstanceId, instance: stratos_sandbox::Instance) -> Self {
        Self { id, instance: OffWorker::new(instance) }
    }

    pub(super) fn into_instance(self) -> stratos_sandbox::Instance {
        self.instance.into_inner()
    }

    fn lives(&self) -> bool {
        matches!(process::ended_within(self.instance.get().pidfd(), Duration::ZERO), Ok(false))
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
