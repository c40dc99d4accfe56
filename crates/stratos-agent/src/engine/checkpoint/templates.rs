//! Images in memory: templates that instances are cloned from, and instances that are restored ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stratos_checkpoint::image::Image;
use stratos_checkpoint::template::Template;
use stratos_checkpoint::working_set::WorkingSet;
use stratos_types::InstanceId;

use super::{Checkpoints, OfVersion, State, chain};
use crate::engine::deployed::Deployed;
use crate::engine::held::Held;
use crate::engine::instance::Instance;
use crate::engine::off_worker::OffWorker;
use crate::engine::{Engine, lock};

/// How long after a start others are restored ahead.
const REFILL_AFTER: Duration = Duration::from_millis(20);

/// A template that is kept in memory.
pub(super) struct Kept {
    /// Ends once nobody clones it any more.
    template: OffWorker<Arc<Template>>,
    used: Instant,
    memory: Reserved,
}

/// Memory that was set aside; given back when dropped.
pub(super) struct Reserved {
    committed: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.committed.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Checkpoints {
    /// Takes the template out of memory that was not used for longest. False when there is none.
    pub(in crate::engine) fn evict_one(&self) -> bool {
        let versions = lock(&self.versions);
        let used = |of: &&Arc<OfVersion>| lock(&of.template).as_ref().map(|kept| kept.used);
        let oldest = versions.values().filter(|of| used(of).is_some()).min_by_key(used);
        oldest.is_some_and(|of| lock(&of.template).take().is_some())
    }

    /// Takes templates out of memory, those not used for longest first, until `more` bytes have room.
    fn make_room(&self, more: u64) {
        let total = || -> u64 {
            let kept = |of: &Arc<OfVersion>| lock(&of.template).as_ref().map_or(0, |kept| kept.memory.bytes);
            lock(&self.versions).values().map(kept).sum()
        };
        while total() + more > self.budget && self.evict_one() {}
    }
}

impl Engine {
    /// Restores as many instances ahead as the function wants to be held.
    pub(super) async fn refill(self, deployed: Arc<Deployed>, of: Arc<OfVersion>, image: Arc<Image>) {
        if of.refilling.swap(true, Ordering::AcqRel) {
            return;
        }
        // What wants one now comes first: it has the processor to itself.
        tokio::time::sleep(REFILL_AFTER).await;
        let wanted = || {
            let stopping = self.0.stopping.load(Ordering::Acquire);
            !stopping && self.0.checkpoints.is_current(&deployed, &of)
        };
        while lock(&of.held).len() < deployed.spec.held as usize && wanted() {
            let Ok(template) = self.template_of(&deployed, &of, Arc::clone(&image)).await else { break };
            let id = InstanceId::random();
            let (sandbox, plan) = (Arc::clone(&self.0.sandbox), deployed.plan(id));
            let restored = tokio::task::spawn_blocking(move || sandbox.restore(&plan, &template, &[])).await;
            match restored {
                Ok(Ok(instance)) => lock(&of.held).add(Held::new(id, instance)),
                Ok(Err(error)) => {
                    tracing::warn!(function = %deployed.key, error = %chain(&error), "cannot restore an instance ahead");
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, "restoring an instance ahead failed");
                    break;
                }
            }
        }
        of.refilling.store(false, Ordering::Release);
    }

    pub(super) async fn template_of(
        &self,
        deployed: &Arc<Deployed>,
        of: &Arc<OfVersion>,
        image: Arc<Image>,
    ) -> Result<Arc<Template>, Arc<str>> {
        let kept = |of: &OfVersion| {
            lock(&of.template).as_mut().map(|kept| {
                kept.used = Instant::now();
                Arc::clone(kept.template.get())
            })
        };
        if let Some(template) = kept(of) {
            return Ok(template);
        }
        let _alone = of.building.lock().await;
        // Somebody else may have built it meanwhile.
        if let Some(template) = kept(of) {
            return Ok(template);
        }
        let fits = image.pages_bytes() <= self.0.checkpoints.budget;
        if fits {
            self.0.checkpoints.make_room(image.pages_bytes());
        }
        let plan = deployed.plan(InstanceId::random());
        let pages = image.pages_bytes();
        let built = tokio::task::spawn_blocking(move || stratos_sandbox::template(&image, &plan)).await;
        let template = match built.map_err(|error| error.to_string()) {
            Ok(Ok(template)) => Arc::new(template),
            Ok(Err(error)) => return Err(self.template_failed(deployed, of, &error)),
            Err(error) => return Err(error.into()),
        };
        // One that there is no room for is made again for each start.
        if fits && self.0.checkpoints.is_current(deployed, of) {
            *lock(&of.template) = self.set_aside(pages).map(|memory| Kept {
                template: OffWorker::new(Arc::clone(&template)),
                used: Instant::now(),
                memory,
            });
        }
        Ok(template)
    }

    /// A restored instance has answered its first request: what it touched, later ones get ahead.
    pub(in crate::engine) fn learn(&self, deployed: &Deployed, instance: &Instance) {
        let (Some(of), pid) = (instance.restored_from(), instance.pid()) else { return };
        let template = lock(&of.template).as_ref().map(|kept| Arc::clone(kept.template.get()));
        of.crashes.store(0, Ordering::Release);
        let (Some(template), State::Ready(image)) = (template, of.state.borrow().clone()) else { return };
        if template.has_learned() {
            return;
        }
        let function = deployed.key.clone();
        tokio::task::spawn_blocking(move || {
            let learned = WorkingSet::of(pid.cast_signed(), image.checkpoint())
                .map_err(|error| error.to_string())
                .and_then(|set| template.learn(&set, image.checkpoint()).map_err(|error| chain(&error)));
            if let Err(error) = learned {
                tracing::debug!(%function, %error, "what an instance touches could not be learned");
            }
        });
    }

    /// Sets memory aside, if there is some that nobody was promised.
    pub(super) fn set_aside(&self, bytes: u64) -> Option<Reserved> {
        let budget = self.0.config.memory_budget;
        let reserve = |used: u64| (used + bytes <= budget).then_some(used + bytes);
        let committed = &self.0.committed_bytes;
        committed.fetch_update(Ordering::AcqRel, Ordering::Acquire, reserve).ok()?;
        Some(Reserved { committed: Arc::clone(committed), bytes })
    }
}
