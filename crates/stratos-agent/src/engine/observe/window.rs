//! A function's windows: one at a time, opened because somebody asks or because errors repeat.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use stratos_api::trace::quantile_ns;
use stratos_api::{ApiError, ErrorCode, SyscallCount, SyscallTrace};
use stratos_trace::{Call, CgroupId, SyscallTable, Window, WindowError};
use tokio::sync::{Notify, oneshot};

use super::super::lock;
use super::Observer;

/// Errors that open a window, when they come within [`ERRORS_WITHIN`].
const ERRORS: usize = 3;
const ERRORS_WITHIN: Duration = Duration::from_secs(60);
/// How long an automatic window is open, and how long none follows it.
const AUTOMATIC: Duration = Duration::from_secs(10);
const AUTOMATIC_PAUSE: Duration = Duration::from_secs(60);
/// Automatic windows of all functions together: while one is open, every process of the machine pays for it.
pub(super) const AUTOMATIC_AT_ONCE: usize = 2;

/// Why a window is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Trigger {
    Request,
    Errors,
}

impl Trigger {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Errors => "errors",
        }
    }
}

/// The windows of one function.
#[derive(Default)]
pub(in super::super) struct Windows {
    /// Looked at by every request, before the lock.
    is_open: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stage: Stage,
    /// Windows that were opened so far: the number of the open one.
    opened: u64,
    last: Option<SyscallTrace>,
    errors: VecDeque<Instant>,
    automatic_at: Option<Instant>,
}

#[derive(Default)]
enum Stage {
    #[default]
    Closed,
    /// What ends it is told as soon as it is open.
    Opening(Arc<Notify>),
    Open(Box<Open>),
    /// What was counted is being read.
    Closing,
}

/// How many system calls of an instance a window has counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Which of the function's windows.
    window: u64,
    calls: u64,
}

impl Seen {
    /// Calls since `earlier`, which has to be in the same window.
    pub(super) fn since(self, earlier: Self) -> Option<u64> {
        (self.window == earlier.window).then(|| self.calls.checked_sub(earlier.calls)).flatten()
    }
}

struct Open {
    window: Window,
    trigger: Trigger,
    began_at: SystemTime,
    began: Instant,
    instances: u32,
    invocations: u64,
    /// What the tracer had dropped when it was opened.
    dropped: u64,
    /// Instances, and requests of such, that there was no place for.
    left_out: u64,
    end: Arc<Notify>,
}

impl Windows {
    /// An instance begins an invocation: its calls are counted from now on, if there is a window. Gives how many were
    /// so far.
    pub(super) fn admit(&self, cgroup: CgroupId) -> Option<Seen> {
        if !self.is_open.load(Ordering::Acquire) {
            return None;
        }
        let mut state = lock(&self.state);
        let window = state.opened;
        let Stage::Open(open) = &mut state.stage else { return None };
        if !open.window.has(cgroup) {
            match open.window.add(cgroup) {
                Ok(()) => open.instances += 1,
                Err(error) => {
                    open.left_out += 1;
                    tracing::debug!(%error, "an instance's system calls are not counted");
                    return None;
                }
            }
        }
        open.window.calls(cgroup).map(|calls| Seen { window, calls })
    }

    /// An invocation has ended. Gives how many calls of its instance were counted so far.
    pub(super) fn invoked(&self, cgroup: CgroupId) -> Option<Seen> {
        if !self.is_open.load(Ordering::Acquire) {
            return None;
        }
        let mut state = lock(&self.state);
        let window = state.opened;
        let Stage::Open(open) = &mut state.stage else { return None };
        open.invocations += 1;
        open.window.calls(cgroup).map(|calls| Seen { window, calls })
    }

    /// The last window that has ended, unless those of many other functions have ended since.
    pub(in super::super) fn last(&self) -> Option<SyscallTrace> {
        lock(&self.state).last.clone()
    }

    /// Makes the last window that has ended be forgotten.
    pub(super) fn forget(&self) {
        lock(&self.state).last = None;
    }

    /// A window has been closed; what it saw, unless that could not be read.
    pub(super) fn closed(&self, trace: Option<SyscallTrace>) {
        let mut state = lock(&self.state);
        state.stage = Stage::Closed;
        state.last = trace.or(state.last.take());
    }

    /// Ends the window that is open or being opened now; false when there is none.
    pub(in super::super) fn end(&self) -> bool {
        let state = lock(&self.state);
        let end = match &state.stage {
            Stage::Open(open) => &open.end,
            Stage::Opening(end) => end,
            Stage::Closed | Stage::Closing => return false,
        };
        end.notify_one();
        true
    }

    /// An invocation failed by the function's fault. Opens a window when that repeats.
    pub(in super::super) fn failed(self: &Arc<Self>, function: &str, observer: &Arc<Observer>) {
        if !lock(&self.state).errors_repeat(Instant::now()) {
            return;
        }
        let Ok(turn) = Arc::clone(&observer.automatic).try_acquire_owned() else { return };
        let (windows, observer, function) = (Arc::clone(self), Arc::clone(observer), function.to_owned());
        tokio::spawn(async move {
            let _turn = turn;
            let opened = match windows.claim() {
                Ok(end) => windows.open(&observer, Vec::new(), Trigger::Errors, &end).await.map(|()| end),
                Err(error) => Err(error),
            };
            match opened {
                Ok(end) => drop(windows.close_after(AUTOMATIC, &end, function, &observer).await),
                Err(error) => tracing::debug!(function, %error, "no window is opened although errors repeat"),
            }
        });
    }

    /// Opens a window over these instances and those that take a request in it, for this time, until it is ended or the
    /// receiver of its result is dropped.
    ///
    /// # Errors
    /// `unsupported` where the kernel does not let system calls be traced; `conflict` while a window is open.
    pub(in super::super) async fn run(
        self: &Arc<Self>,
        function: &str,
        observer: &Arc<Observer>,
        cgroups: Vec<CgroupId>,
        time: Duration,
    ) -> Result<oneshot::Receiver<SyscallTrace>, ApiError> {
        let end = self.claim()?;
        let (mut tell, told) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        let (windows, observer, function) = (Arc::clone(self), Arc::clone(observer), function.to_owned());
        // On its own: who asks may go at any time, and a window that is being opened has to be open or closed then.
        tokio::spawn(async move {
            let opened = windows.open(&observer, cgroups, Trigger::Request, &end).await;
            let is_open = opened.is_ok();
            // Nobody hears it: then `tell` is closed as well.
            drop(answer.send(opened));
            if !is_open {
                return;
            }
            let close = windows.close_after(time, &end, function, &observer);
            let mut close = std::pin::pin!(close);
            let trace = tokio::select! {
                trace = &mut close => trace,
                // Nobody waits for it any more.
                () = tell.closed() => {
                    end.notify_one();
                    close.await
                }
            };
            if let Some(trace) = trace {
                // Kept as the last one, if nobody hears it.
                drop(tell.send(trace));
            }
        });
        answered.await.map_err(|error| {
            ApiError::new(ErrorCode::Internal, "the node failed while it opened a window").caused_by(&error)
        })??;
        Ok(told)
    }

    /// Makes the next window be this caller's, who has to open it. Gives what ends it.
    fn claim(&self) -> Result<Arc<Notify>, ApiError> {
        let mut state = lock(&self.state);
        if !matches!(state.stage, Stage::Closed) {
            return Err(ApiError::new(ErrorCode::Conflict, "a window is open for this function already")
                .hint("wait for its end, or end it with `stratos trace NAME --stop`"));
        }
        let end = Arc::new(Notify::new());
        state.stage = Stage::Opening(Arc::clone(&end));
        Ok(end)
    }

    /// Opens the window that was claimed. To be called by a task that nobody drops.
    async fn open(
        &self,
        observer: &Arc<Observer>,
        cgroups: Vec<CgroupId>,
        trigger: Trigger,
        end: &Arc<Notify>,
    ) -> Result<(), ApiError> {
        let opened = attach(Arc::clone(observer), cgroups).await;
        let mut state = lock(&self.state);
        match opened {
            Ok((window, instances, dropped)) => {
                state.opened += 1;
                state.stage = Stage::Open(Box::new(Open {
                    left_out: window.left_out() as u64,
                    window,
                    trigger,
                    began_at: SystemTime::now(),
                    began: Instant::now(),
                    instances,
                    invocations: 0,
                    dropped,
                    end: Arc::clone(end),
                }));
                self.is_open.store(true, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                state.stage = Stage::Closed;
                Err(error)
            }
        }
    }

    /// Closes the open window after this time, or when it is ended before. Gives what it saw.
    async fn close_after(
        self: &Arc<Self>,
        time: Duration,
        end: &Notify,
        function: String,
        observer: &Arc<Observer>,
    ) -> Option<SyscallTrace> {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = end.notified() => {}
        }
        let stage = {
            let mut state = lock(&self.state);
            self.is_open.store(false, Ordering::Release);
            // Nothing else is opened until what was counted is read.
            std::mem::replace(&mut state.stage, Stage::Closing)
        };
        let Stage::Open(open) = stage else { return None };
        let reader = Arc::clone(observer);
        match tokio::task::spawn_blocking(move || trace(*open, function, &reader)).await {
            Ok(trace) => {
                observer.kept.keep(self, trace.clone());
                Some(trace)
            }
            Err(error) => {
                tracing::error!(%error, "reading a window failed");
                self.closed(None);
                None
            }
        }
    }
}

impl State {
    /// Notes an error; true when it is the one that a window is to be opened for.
    fn errors_repeat(&mut self, now: Instant) -> bool {
        if self.errors.len() == ERRORS {
            self.errors.pop_front();
        }
        self.errors.push_back(now);
        let repeated = self.errors.len() == ERRORS && now.duration_since(self.errors[0]) <= ERRORS_WITHIN;
        let rested = self.automatic_at.is_none_or(|at| now.duration_since(at) >= AUTOMATIC_PAUSE);
        let wanted = repeated && rested && matches!(self.stage, Stage::Closed);
        if wanted {
            self.automatic_at = Some(now);
        }
        wanted
    }
}

/// Opens a window where that may block.
async fn attach(observer: Arc<Observer>, cgroups: Vec<CgroupId>) -> Result<(Window, u32, u64), ApiError> {
    let open = move || {
        let tracer = observer.tracer().ok_or_else(|| {
            let why = if observer.enabled { "still being loaded" } else { "switched off (--trace off)" };
            ApiError::new(ErrorCode::Unsupported, format!("the node's eBPF programs are {why}"))
        })?;
        let window = tracer.window(&cgroups).map_err(|error| match error {
            WindowError::Refused { .. } => ApiError::new(ErrorCode::Unsupported, error.to_string())
                .hint("`stratos node features` tells what this node's kernel takes"),
            WindowError::Open | WindowError::Full => ApiError::new(ErrorCode::Conflict, error.to_string()),
            WindowError::Attach { .. } => {
                ApiError::new(ErrorCode::Internal, "system calls cannot be traced").caused_by(&error)
            }
        })?;
        let instances = (cgroups.len() - window.left_out()) as u32;
        Ok((window, instances, tracer.dropped().syscalls))
    };
    tokio::task::spawn_blocking(open).await.map_err(|error| {
        ApiError::new(ErrorCode::Internal, "the node failed while it opened a window").caused_by(&error)
    })?
}

/// Closes a window and puts together what it saw.
fn trace(open: Open, function: String, observer: &Observer) -> SyscallTrace {
    let duration_ms = open.began.elapsed().as_millis() as u64;
    let table = open.window.close();
    let dropped = observer.tracer().map_or(0, |tracer| tracer.dropped().syscalls);
    SyscallTrace {
        function,
        trigger: open.trigger.as_str().to_owned(),
        began_at: crate::clock::rfc3339(open.began_at),
        duration_ms,
        instances: open.instances,
        invocations: open.invocations,
        dropped: dropped.saturating_sub(open.dropped) + open.left_out,
        calls: counts(&table),
    }
}

fn counts(table: &SyscallTable) -> Vec<SyscallCount> {
    let count = |call: &Call| SyscallCount {
        name: call.name.clone(),
        number: call.number,
        count: call.count,
        errors: call.errors,
        denied: call.denied,
        total_ns: call.total_ns,
        p50_ns: quantile_ns(&call.buckets, 50),
        p95_ns: quantile_ns(&call.buckets, 95),
        max_ns: quantile_ns(&call.buckets, 100),
        buckets: call.buckets.to_vec(),
    };
    let mut counts: Vec<_> = table.calls.iter().map(count).collect();
    counts.sort_by_key(|call| std::cmp::Reverse((call.total_ns, call.count)));
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_repeat_open_a_window() {
        let mut state = State::default();
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        // Too far apart.
        assert!([0, 31, 62].iter().all(|at| !state.errors_repeat(after(*at))));
        assert!(state.errors_repeat(after(63)));
        // At most one a minute.
        assert!((64..123).all(|at| !state.errors_repeat(after(at))));
        assert!(state.errors_repeat(after(123)));
        // Not while one is open.
        state.stage = Stage::Closing;
        assert!((183..300).all(|at| !state.errors_repeat(after(at))));
        assert_eq!(state.errors.len(), ERRORS);
    }

    #[tokio::test]
    async fn a_client_that_goes_while_a_window_is_opened_leaves_none() {
        let windows: Arc<Windows> = Arc::default();
        let observer = Observer::new(true);
        tokio::select! {
            biased;
            _ = windows.run("hello", &observer, Vec::new(), Duration::from_secs(300)) => panic!("it opens at once"),
            () = std::future::ready(()) => {}
        }
        assert!(windows.end(), "it is being opened, and can be ended");
        let rest = async {
            while !matches!(lock(&windows.state).stage, Stage::Closed) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), rest).await.expect("it is closed");
        assert!(!windows.end());
    }

    #[test]
    fn calls_are_of_one_window() {
        let seen = |window, calls| Seen { window, calls };
        assert_eq!(seen(2, 50).since(seen(2, 20)), Some(30));
        assert_eq!(seen(3, 50).since(seen(2, 20)), None);
    }
}
