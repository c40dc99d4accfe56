//! What is left to do after an instance was killed: wait for its end, remove its cgroup, give back its resources.
//!
//! A thread of its own does that, so that whoever drops an instance (an async task, often) does not wait for the
//! kernel to take down its memory.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use stratos_sys::process;

use crate::body::Held;

/// How long to look at one process before turning to the next.
const LOOK: Duration = Duration::from_millis(20);
/// After this, something holds the process in the kernel, and it is left to the next sweep.
const GIVE_UP: Duration = Duration::from_secs(30);

/// What an instance leaves.
pub(crate) struct Remains {
    pub(crate) held: Arc<Held>,
    /// Its end was waited for already.
    pub(crate) collected: bool,
    pub(crate) since: Instant,
}

impl Remains {
    /// Does what can be done now. `Ok(true)` when nothing is left.
    fn clear(&mut self) -> io::Result<bool> {
        if !self.collected {
            if !process::ended_within(&self.held.pidfd, LOOK)? {
                return Ok(false);
            }
            process::wait(&self.held.pidfd)?;
            self.collected = true;
        }
        let Some(leaf) = &self.held.cgroup else {
            return Ok(true);
        };
        match leaf.remove(LOOK) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Gives back everything but the user ID. A process that does not end may still have it, and the next instance with
    /// the same ID could be signalled and read by it; so nobody gets it again while this agent runs.
    fn give_up(self) {
        match Arc::try_unwrap(self.held) {
            Ok(held) => std::mem::forget(held.uid),
            // Someone else would give the ID back later: keep all of it.
            Err(shared) => std::mem::forget(shared),
        }
    }

    fn describe(&self) -> String {
        let path = self.held.cgroup.as_ref().map(|leaf| leaf.path().display().to_string());
        format!("uid {}, cgroup {}", self.held.uid.get(), path.as_deref().unwrap_or("none"))
    }
}

/// The thread's owner. Dropping it waits until everything is cleared away.
pub(crate) struct Reaper {
    queue: Option<Sender<Remains>>,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    pub(crate) fn start() -> io::Result<Self> {
        let (queue, inbox) = channel();
        let thread = std::thread::Builder::new().name("stratos-reaper".into()).spawn(move || reap(&inbox))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Hands over what a killed instance left.
    pub(crate) fn accept(&self, remains: Remains) {
        let Some(queue) = &self.queue else { return };
        if let Err(unsent) = queue.send(remains) {
            tracing::error!(what = unsent.0.describe(), "nobody clears away an ended instance");
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.queue = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that clears away ended instances has panicked");
        }
    }
}

fn reap(inbox: &Receiver<Remains>) {
    let mut pending = VecDeque::new();
    let mut open = true;
    while open || !pending.is_empty() {
        if pending.is_empty() {
            match inbox.recv() {
                Ok(remains) => pending.push_back(remains),
                Err(_) => open = false,
            }
        }
        while open {
            match inbox.try_recv() {
                Ok(remains) => pending.push_back(remains),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => open = false,
            }
        }
        let Some(mut remains) = pending.pop_front() else { continue };
        match remains.clear() {
            Ok(true) => {}
            Ok(false) if remains.since.elapsed() < GIVE_UP => pending.push_back(remains),
            Ok(false) => {
                tracing::error!(what = remains.describe(), "an ended instance does not go away");
                remains.give_up();
            }
            Err(error) => {
                tracing::error!(what = remains.describe(), %error, "cannot clear away an ended instance");
                remains.give_up();
            }
        }
    }
}
