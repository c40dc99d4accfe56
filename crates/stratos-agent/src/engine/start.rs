//! Starting instances where requests wait, within the node's processors and memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use stratos_api::{ApiError, ErrorCode};
use stratos_sandbox::StartError;

use stratos_types::CheckpointMode;

use super::deployed::Deployed;
use super::failure::EndReason;
use super::held::Origin;
use super::instance::{Beginning, Host, Instance, NotReady, StartTimes};
use super::invoke::platform_line;
use super::pool::Pool;
use super::{Engine, FunctionLog, lock};

/// How long a starting instance may keep others from starting; a slow init does not hold up the node.
const START_TURN: Duration = Duration::from_millis(250);
/// Pause before a start is tried again that found no memory, or failed while other instances serve.
const START_PAUSE: Duration = Duration::from_millis(50);
/// How long the memory of a template is waited for; its end takes a moment.
const TEMPLATE_WAIT: Duration = Duration::from_millis(20);
/// How long the memory of an ended instance is waited for.
const MEMORY_WAIT: Duration = Duration::from_secs(1);

impl Engine {
    /// The instances of a version.
    pub(super) fn pool(&self, deployed: &Arc<Deployed>) -> Arc<Pool> {
        let mut pools = lock(&self.0.pools);
        let pool = pools
            .entry((deployed.key.clone(), deployed.version))
            .or_insert_with(|| Arc::new(Pool::new(Arc::clone(deployed), self.0.config.queue_limit)));
        Arc::clone(pool)
    }

    /// Starts what the requests in line need.
    pub(super) fn start_where_needed(&self, pool: &Arc<Pool>) {
        for _ in 0..pool.reserve_starts() {
            tokio::spawn(self.clone().start_one(Arc::clone(pool)));
        }
    }

    async fn start_one(self, pool: Arc<Pool>) {
        self.await_required(&pool.deployed).await;
        let Ok(turn) = self.0.starters.acquire().await else { return };
        if !pool.start_still_wanted() {
            return;
        }
        let memory = pool.deployed.spec.memory.bytes();
        if memory > self.0.config.memory_budget {
            return pool.start_failed(&too_large(&pool.deployed, self.0.config.memory_budget), false);
        }
        if !self.reserve_memory(memory).await {
            tracing::debug!(function = %pool.deployed.key, "no memory left for another instance");
            pool.start_put_off();
            drop(turn);
            // An instance elsewhere may be idle by then; once nobody waits nothing is reserved.
            tokio::time::sleep(START_PAUSE).await;
            return self.start_where_needed(&pool);
        }
        let log = self.log(&pool.deployed.key);
        pool.start_begins();
        let start = self.start_instance(&pool.deployed, &log);
        let mut start = std::pin::pin!(start);
        let mut turn = Some(turn);
        let started = match tokio::time::timeout(START_TURN, &mut start).await {
            Ok(started) => started,
            Err(_) => {
                drop(turn.take());
                start.await
            }
        };
        drop(turn);
        match started {
            Ok((instance, times)) => {
                pool.add(Arc::clone(&instance), times);
                if let Some(starts) = &self.0.config.starts {
                    starts.tell(pool.deployed.layer_source());
                    starts.tell(pool.deployed.function_source());
                }
                let death = instance.death().await;
                pool.remove(&instance);
                tracing::debug!(function = %pool.deployed.key, instance = %instance.id, ?death, "instance gone");
            }
            Err(error) => {
                let error = pool.deployed.explain(error);
                platform_line(&log, "-", None, format!("START failed: {error}"));
                pool.start_failed(&error, true);
                tokio::time::sleep(START_PAUSE).await;
            }
        }
        self.0.committed_bytes.fetch_sub(memory, Ordering::AcqRel);
        self.0.memory_freed.notify_waiters();
        // Requests may still wait: here (this pool may be retired, and then is in no list), or for another function.
        self.start_where_needed(&pool);
        let pools: Vec<_> = lock(&self.0.pools).values().cloned().collect();
        pools.iter().for_each(|pool| self.start_where_needed(pool));
    }

    async fn start_instance(
        &self,
        deployed: &Arc<Deployed>,
        log: &Arc<FunctionLog>,
    ) -> Result<(Arc<Instance>, StartTimes), ApiError> {
        let began = Instant::now();
        // Before an instance is taken that could not be released.
        let given = self.given(deployed).await?;
        let origin = self.origin(deployed).await?;
        // What becomes of the instance is told of this checkpoint, in whose place there may be another by then.
        let checkpoint = origin.as_ref().and_then(|_| self.checkpoint_now(deployed));
        let start = |origin: Option<Origin>| {
            let (of, log) = (Arc::clone(deployed), Arc::clone(log));
            let host =
                Host { sandbox: Arc::clone(&self.0.sandbox), observer: Arc::clone(&self.0.config.observer) };
            let (given, hook_limit) = (Arc::clone(&given), self.0.config.hook_limit);
            let beginning = Beginning { origin, given, hook_limit, began };
            Instance::start(host, of, log, beginning, |error: &StartError| {
                if let Some(checkpoint) = &checkpoint {
                    self.restore_failed(deployed, checkpoint, error);
                }
            })
        };
        let afresh = async || start(None).await.map_err(|not_ready| not_ready.error);
        let error = match (start(origin).await, &checkpoint) {
            (Ok((instance, times)), Some(checkpoint)) if times.restored => {
                instance.is_restored_from(Arc::clone(checkpoint));
                return Ok((instance, times));
            }
            (Ok(started), _) => return Ok(started),
            // The function's own code, which would do the same in the next one.
            (Err(NotReady { error, in_hooks: true }), Some(checkpoint)) => {
                self.restored_crashed(deployed, checkpoint, &error);
                error
            }
            // What was initialised once, and does not come back now, cannot be the function's fault.
            (Err(NotReady { error, .. }), Some(checkpoint))
                if matches!(
                    error.code,
                    ErrorCode::FunctionInitFailed
                        | ErrorCode::FunctionSyscallDenied
                        | ErrorCode::FunctionLibraryMissing
                ) =>
            {
                self.did_not_come_back(deployed, checkpoint, &error);
                match deployed.spec.checkpoint {
                    CheckpointMode::Required => error,
                    CheckpointMode::Auto | CheckpointMode::Off => return afresh().await,
                }
            }
            (Err(NotReady { error, .. }), Some(checkpoint)) if error.code == ErrorCode::FunctionTimeout => {
                self.restored_crashed(deployed, checkpoint, &error);
                error
            }
            (Err(NotReady { error, .. }), _) => error,
        };
        Err(error)
    }

    /// Sets memory aside for an instance; makes room by ending the instance that has been idle longest.
    async fn reserve_memory(&self, bytes: u64) -> bool {
        let budget = self.0.config.memory_budget;
        let reserve = |used: u64| (used + bytes <= budget).then_some(used + bytes);
        // Each round ends one instance; a bound, in case others take what comes free.
        for _ in 0..64 {
            let freed = self.0.memory_freed.notified();
            if self.0.committed_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, reserve).is_ok() {
                return true;
            }
            let pools: Vec<_> = lock(&self.0.pools).values().cloned().collect();
            let idlest = pools
                .iter()
                .filter_map(|pool| pool.longest_idle().map(|(since, instance)| (since, pool, instance)))
                .min_by_key(|(since, ..)| *since);
            let Some((_, pool, instance)) = idlest else {
                // A template can be built again, and an instance cannot wait for ever.
                if self.0.checkpoints.evict_one() {
                    tokio::time::timeout(TEMPLATE_WAIT, freed).await.unwrap_or_default();
                    continue;
                }
                return false;
            };
            if pool.end_if_idle(&instance, EndReason::MemoryNeeded) {
                // Whether it came or not: the next round looks.
                tokio::time::timeout(MEMORY_WAIT, freed).await.unwrap_or_default();
            }
        }
        false
    }
}

fn too_large(deployed: &Deployed, budget: u64) -> ApiError {
    let memory = deployed.spec.memory;
    let message =
        format!("an instance needs {memory}, this node gives all functions together {} MB", budget >> 20);
    ApiError::new(ErrorCode::Unavailable, message)
        .hint("lower `memory` in stratos.toml, or give the node more with --memory")
}
