//! Network namespaces, each used once. A background thread makes them ahead, because that takes 2 ms, and frees them
//! one at a time, because the kernel stalls everybody's network changes while it frees many.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use stratos_sys::netns::{NetNs, connect_loopback};

/// Port of the Runtime API on the loopback address of each instance.
pub(crate) const RUNTIME_PORT: u16 = 9001;
/// How long after the pool's own start it holds one namespace only, unless more are taken: while a machine boots, others
/// need the processor.
const BEGIN_TIME: Duration = Duration::from_secs(2);
/// How long after a start the next namespace is made: a start has the processor to itself, unless the pool runs low.
const START_TIME: Duration = Duration::from_millis(100);
/// Pause after freeing a namespace.
const FREE_PAUSE: Duration = Duration::from_millis(5);
/// Namespaces waiting to be freed beyond which there are no pauses: they hold memory.
const FREE_BACKLOG: usize = 256;
/// Pause after failing to make a namespace.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

struct Ready {
    namespace: NetNs,
    listener: TcpListener,
}

impl Ready {
    fn make() -> io::Result<Self> {
        let namespace = NetNs::create()?;
        let listener = namespace.run(runtime_listener)??;
        Ok(Self { namespace, listener })
    }
}

fn runtime_listener() -> io::Result<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, RUNTIME_PORT))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

struct State {
    begun: Instant,
    ready: VecDeque<Ready>,
    retired: VecDeque<Arc<NetNs>>,
    taken: Option<Instant>,
    closing: bool,
}

impl Default for State {
    fn default() -> Self {
        let (ready, retired) = (VecDeque::new(), VecDeque::new());
        Self { begun: Instant::now(), ready, retired, taken: None, closing: false }
    }
}

impl State {
    /// How long the next namespace can wait; `None` when none is to be made.
    fn next_in(&self, size: usize) -> Option<Duration> {
        let since = self.taken.map_or(START_TIME, |taken| taken.elapsed());
        let begins_in = BEGIN_TIME.saturating_sub(self.begun.elapsed());
        match self.ready.len() {
            ready if ready >= size => None,
            1.. if self.taken.is_none() && !begins_in.is_zero() => Some(begins_in),
            ready if ready < size.div_ceil(2) => Some(Duration::ZERO),
            _ => Some(START_TIME.saturating_sub(since)),
        }
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The node's pool.
pub(crate) struct NetworkPool {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl NetworkPool {
    /// Starts the thread that keeps `size` namespaces ready.
    pub(crate) fn start(size: usize) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let thread = std::thread::Builder::new().name("stratos-netns".into()).spawn({
            let shared = Arc::clone(&shared);
            move || keep(&shared, size)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Takes a namespace from the pool, and the Runtime API's listener in it; makes one when the pool is empty.
    pub(crate) fn take(&self) -> io::Result<(Network, TcpListener)> {
        let ready = {
            let mut state = self.shared.lock();
            state.taken = Some(Instant::now());
            state.ready.pop_front()
        };
        self.shared.changed.notify_one();
        let Ready { namespace, listener } = match ready {
            Some(ready) => ready,
            None => Ready::make()?,
        };
        Ok((self.network(namespace), listener))
    }

    fn network(&self, namespace: NetNs) -> Network {
        Network { namespace: Arc::new(namespace), retire: Arc::clone(&self.shared) }
    }

    /// The agent's own namespace in place of one of its own, for tests of what that would open.
    pub(crate) fn host(&self) -> io::Result<(Network, TcpListener)> {
        Ok((self.network(NetNs::current()?), runtime_listener()?))
    }
}

impl Drop for NetworkPool {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.changed.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that makes network namespaces has panicked");
        }
    }
}

/// The background thread. Making comes before freeing: a start may wait for the one, nobody for the other.
fn keep(shared: &Shared, size: usize) {
    let mut state = shared.lock();
    while !state.closing {
        let next_in = state.next_in(size);
        if next_in == Some(Duration::ZERO) {
            drop(state);
            let made = Ready::make();
            state = shared.lock();
            match made {
                Ok(ready) => state.ready.push_back(ready),
                Err(error) => {
                    tracing::warn!(%error, "cannot make a network namespace ahead");
                    state = pause(shared, state, RETRY_PAUSE);
                }
            }
        } else if let Some(wait) = next_in {
            state = pause(shared, state, wait);
        } else if let Some(namespace) = state.retired.pop_front() {
            let backlog = state.retired.len();
            drop(state);
            drop(namespace);
            state = shared.lock();
            if backlog < FREE_BACKLOG {
                state = pause(shared, state, FREE_PAUSE);
            }
        } else {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
    state.ready.clear();
    state.retired.clear();
}

fn pause<'a>(
    shared: &'a Shared,
    state: std::sync::MutexGuard<'a, State>,
    length: Duration,
) -> std::sync::MutexGuard<'a, State> {
    shared.changed.wait_timeout(state, length).unwrap_or_else(PoisonError::into_inner).0
}

/// The network of one instance.
pub(crate) struct Network {
    namespace: Arc<NetNs>,
    retire: Arc<Shared>,
}

impl Network {
    /// Starts connecting to a port of the instance.
    pub(crate) fn connect(&self, port: u16) -> io::Result<TcpStream> {
        self.namespace.run(|| connect_loopback(port))?
    }
}

impl AsFd for Network {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let mut state = self.retire.lock();
        // After the pool has closed nobody frees slowly any more, and the descriptor simply closes here.
        if !state.closing {
            state.retired.push_back(Arc::clone(&self.namespace));
            drop(state);
            self.retire.changed.notify_one();
        }
    }
}
