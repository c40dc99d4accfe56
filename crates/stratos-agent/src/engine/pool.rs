//! The instances of one deployed version, and the requests that wait for them.
//!
//! A request takes the free instance that was used last (its caches are warm), else it waits in line. Another
//! instance is started only for requests that wait and that no starting instance will take, so a burst does not
//! start more than it needs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stratos_api::{ApiError, Blame, InstanceInfo};
use stratos_trace::CgroupId;
use tokio::sync::oneshot;

use super::deployed::Deployed;
use super::failure::{self, EndReason};
use super::instance::{Instance, StartTimes};
use super::lock;
use crate::machine::Running;

/// The instances of one version.
pub(super) struct Pool {
    pub(super) deployed: Arc<Deployed>,
    queue_limit: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    members: Vec<Member>,
    /// Starts that are reserved or under way.
    starting: u32,
    /// Of these, those under way.
    initializing: u32,
    /// When the newest one began.
    begun: Option<Instant>,
    waiting: VecDeque<Waiter>,
    retired: bool,
}

struct Member {
    instance: Arc<Instance>,
    in_flight: u32,
    served: u64,
    idle_since: Instant,
    /// Set until the first request takes it: that request is the cold one.
    unclaimed_start: Option<StartTimes>,
}

struct Waiter {
    grant: oneshot::Sender<Result<Lease, ApiError>>,
}

/// The right to give one request to an instance. Dropping it gives the place to the next request.
pub(super) struct Lease {
    pub(super) instance: Arc<Instance>,
    /// How the instance was started, when it was started for this request.
    pub(super) start: Option<StartTimes>,
    /// `None` once the place was given back without passing through `drop`.
    pool: Option<Arc<Pool>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.release(&self.instance);
        }
    }
}

/// A place in line, or a lease at once.
pub(super) enum Place {
    Now(Lease),
    InLine(oneshot::Receiver<Result<Lease, ApiError>>),
}

/// How many more instances to start so that none of those waiting waits for want of one, and none is started that
/// nobody needs.
fn wanted_starts(waiting: usize, concurrency: u32, starting: u32, running: u32, max: u32) -> u32 {
    let needed = waiting.div_ceil(concurrency as usize).min(max as usize) as u32;
    needed.saturating_sub(starting).min(max.saturating_sub(running + starting))
}

impl Pool {
    pub(super) fn new(deployed: Arc<Deployed>, queue_limit: usize) -> Self {
        Self { deployed, queue_limit, state: Mutex::default() }
    }

    /// Takes a free place or one in line.
    ///
    /// # Errors
    /// `queue_full`.
    pub(super) fn acquire(self: &Arc<Self>) -> Result<Place, ApiError> {
        let mut state = lock(&self.state);
        let concurrency = self.deployed.spec.concurrency;
        let free = state.members.iter_mut().filter(|m| m.in_flight < concurrency && !m.instance.is_ended());
        if let Some(member) = free.max_by_key(|m| m.idle_since) {
            return Ok(Place::Now(member.lease(self)));
        }
        // Those whose caller gave up do not count.
        state.waiting.retain(|waiter| !waiter.grant.is_closed());
        if state.waiting.len() >= self.queue_limit {
            return Err(failure::queue_full(self.queue_limit));
        }
        let (grant, granted) = oneshot::channel();
        state.waiting.push_back(Waiter { grant });
        Ok(Place::InLine(granted))
    }

    /// Reserves the right to start as many instances as are needed now. Each must end in [`Self::add`] or
    /// [`Self::start_failed`], [`Self::start_put_off`] or a `false` of [`Self::start_still_wanted`].
    pub(super) fn reserve_starts(&self) -> u32 {
        let mut state = lock(&self.state);
        if state.retired && state.waiting.is_empty() {
            return 0;
        }
        state.waiting.retain(|waiter| !waiter.grant.is_closed());
        let spec = &self.deployed.spec;
        let count = wanted_starts(
            state.waiting.len(),
            spec.concurrency,
            state.starting,
            state.members.len() as u32,
            spec.max_instances,
        );
        state.starting += count;
        count
    }

    /// Whether a reserved start is still wanted; when not, the reservation is given back.
    pub(super) fn start_still_wanted(&self) -> bool {
        let mut state = lock(&self.state);
        state.waiting.retain(|waiter| !waiter.grant.is_closed());
        // Others that start now, besides this one, may be enough for those who still wait.
        let others = (state.starting - 1) as usize * self.deployed.spec.concurrency as usize;
        let wanted = state.waiting.len() > others;
        state.starting -= u32::from(!wanted);
        wanted
    }

    /// A reserved start begins.
    pub(super) fn start_begins(&self) {
        let mut state = lock(&self.state);
        state.initializing += 1;
        state.begun = Some(Instant::now());
    }

    /// When the newest start began.
    pub(super) fn start_begun(&self) -> Option<Instant> {
        lock(&self.state).begun
    }

    /// Gives back a reserved start that cannot be made now, for want of memory on the node.
    pub(super) fn start_put_off(&self) {
        lock(&self.state).starting -= 1;
    }

    /// An instance came up: those who wait get it.
    pub(super) fn add(self: &Arc<Self>, instance: Arc<Instance>, start: StartTimes) {
        let mut state = lock(&self.state);
        state.starting -= 1;
        state.initializing -= 1;
        state.members.push(Member {
            instance,
            in_flight: 0,
            served: 0,
            idle_since: Instant::now(),
            unclaimed_start: Some(start),
        });
        self.serve_waiting(&mut state);
        self.end_if_retired(&mut state);
    }

    /// An instance did not come up. Without another that serves, what failed would fail for each of those who wait,
    /// so all of them are told. With one, only the function's own failure is told, to as many as it would have served.
    pub(super) fn start_failed(&self, error: &ApiError, began: bool) {
        let mut state = lock(&self.state);
        state.starting -= 1;
        state.initializing -= u32::from(began);
        let serving = state.members.iter().any(|m| !m.instance.is_ended());
        let told = match (serving, error.blame) {
            (false, _) => state.waiting.len(),
            (true, Blame::Function) => state.waiting.len().min(self.deployed.spec.concurrency as usize),
            (true, _) => 0,
        };
        for waiter in state.waiting.drain(..told) {
            // A caller that gave up needs no answer.
            drop(waiter.grant.send(Err(error.clone())));
        }
    }

    /// An instance's process ended.
    pub(super) fn remove(self: &Arc<Self>, instance: &Arc<Instance>) {
        lock(&self.state).members.retain(|m| !Arc::ptr_eq(&m.instance, instance));
    }

    fn release(self: &Arc<Self>, instance: &Arc<Instance>) {
        let mut state = lock(&self.state);
        if let Some(member) = state.members.iter_mut().find(|m| Arc::ptr_eq(&m.instance, instance)) {
            member.in_flight -= 1;
            member.served += 1;
            member.idle_since = Instant::now();
        }
        self.serve_waiting(&mut state);
        self.end_if_retired(&mut state);
    }

    fn serve_waiting(self: &Arc<Self>, state: &mut State) {
        let concurrency = self.deployed.spec.concurrency;
        let State { members, waiting, .. } = state;
        for member in members.iter_mut().filter(|m| !m.instance.is_ended()) {
            while member.in_flight < concurrency {
                let Some(waiter) = waiting.pop_front() else { return };
                let start = member.unclaimed_start;
                if let Err(Ok(mut lease)) = waiter.grant.send(Ok(member.lease(self))) {
                    // The caller gave up: take the place back here, for `drop` would want the lock held now.
                    lease.pool = None;
                    member.in_flight -= 1;
                    member.unclaimed_start = start;
                }
            }
        }
    }

    /// No new requests come: instances end as soon as they are idle.
    pub(super) fn retire(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        state.retired = true;
        self.end_if_retired(&mut state);
    }

    fn end_if_retired(&self, state: &mut State) {
        if state.retired && state.waiting.is_empty() {
            for member in state.members.iter().filter(|m| m.in_flight == 0) {
                member.instance.end(EndReason::Retired);
            }
        }
    }

    /// Ends instances that had no request for `timeout`.
    pub(super) fn end_idle(&self, timeout: Duration) {
        for member in &lock(&self.state).members {
            if member.in_flight == 0 && member.idle_since.elapsed() >= timeout {
                member.instance.end(EndReason::Idle);
            }
        }
    }

    /// Since when the instance that was idle longest has been idle, and that instance.
    pub(super) fn longest_idle(&self) -> Option<(Instant, Arc<Instance>)> {
        let state = lock(&self.state);
        let idle = state.members.iter().filter(|m| m.in_flight == 0 && !m.instance.is_ended());
        idle.min_by_key(|m| m.idle_since).map(|m| (m.idle_since, Arc::clone(&m.instance)))
    }

    /// Ends an instance unless a request took it meanwhile.
    pub(super) fn end_if_idle(&self, instance: &Arc<Instance>, reason: EndReason) -> bool {
        let state = lock(&self.state);
        let idle = state.members.iter().any(|m| m.in_flight == 0 && Arc::ptr_eq(&m.instance, instance));
        if idle {
            instance.end(reason);
        }
        idle
    }

    /// The instances with their first processes.
    pub(super) fn running(&self) -> Vec<Running> {
        let function = self.deployed.key.name.to_string();
        let running = |member: &Member| Running {
            pid: member.instance.pid(),
            id: member.instance.id.to_string(),
            function: function.clone(),
        };
        lock(&self.state).members.iter().map(running).collect()
    }

    /// The cgroups of its instances.
    pub(super) fn cgroups(&self) -> Vec<CgroupId> {
        let state = lock(&self.state);
        state.members.iter().filter_map(|member| member.instance.observed.cgroup()).collect()
    }

    pub(super) fn kill_all(&self) {
        let mut state = lock(&self.state);
        state.waiting.clear();
        state.members.iter().for_each(|m| m.instance.end(EndReason::Stopping));
    }

    /// Whether an instance is being started: a request that ran out of time then waited for the function's own start.
    pub(super) fn is_initializing(&self) -> bool {
        lock(&self.state).initializing > 0
    }

    /// Whether nothing runs, starts or waits here.
    pub(super) fn is_empty(&self) -> bool {
        let state = lock(&self.state);
        state.members.is_empty() && state.starting == 0 && state.waiting.is_empty()
    }

    /// Instances that run or start, and requests that wait.
    pub(super) fn size(&self) -> (u32, u32) {
        let state = lock(&self.state);
        (state.members.len() as u32 + state.starting, state.waiting.len() as u32)
    }

    pub(super) fn instances(&self) -> Vec<InstanceInfo> {
        let state = lock(&self.state);
        let info = |m: &Member| InstanceInfo {
            id: m.instance.id.to_string(),
            version: self.deployed.version,
            state: if m.in_flight > 0 { "busy" } else { "idle" }.into(),
            in_flight: m.in_flight,
            served: m.served,
            age_s: m.instance.started.elapsed().as_secs(),
            memory_kb: m.instance.resident_kb(),
        };
        state.members.iter().map(info).collect()
    }
}

impl Member {
    fn lease(&mut self, pool: &Arc<Pool>) -> Lease {
        self.in_flight += 1;
        Lease {
            instance: Arc::clone(&self.instance),
            start: self.unclaimed_start.take(),
            pool: Some(Arc::clone(pool)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::wanted_starts;

    #[test]
    fn a_burst_starts_what_it_needs() {
        //        waiting, concurrency, starting, running, max -> starts
        for (waiting, concurrency, starting, running, max, starts) in [
            (0, 1, 0, 0, 10, 0),
            (1, 1, 0, 0, 10, 1),
            (1, 1, 1, 0, 10, 0),
            (500, 1, 0, 0, 10, 10),
            (500, 1, 4, 3, 10, 3),
            (500, 1, 0, 10, 10, 0),
            (100, 80, 0, 0, 10, 2),
            (100, 80, 2, 0, 10, 0),
            (5, 1, 0, 0, 1, 1),
        ] {
            let got = wanted_starts(waiting, concurrency, starting, running, max);
            assert_eq!(got, starts, "{waiting} {concurrency} {starting} {running} {max}");
        }
    }
}
