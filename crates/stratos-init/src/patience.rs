//! Deadlines on what has none by itself: a system call that may hang with its device.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel, sync_channel};
use std::thread::Builder;
use std::time::Duration;

use rustix::thread::{NanosleepRelativeResult, nanosleep};
use rustix::time::Timespec;

use crate::clock;

/// Bytes of a helping thread's stack.
const STACK: usize = 128 << 10;

/// Runs `work` on a thread of its own and gives its result, or `None` when it takes longer than `deadline`: the thread
/// is left to itself then.
pub fn within<T: Send + 'static>(
    deadline: Duration,
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = sync_channel(1);
    let thread = Builder::new().name(name.to_owned()).stack_size(STACK).spawn(move || {
        // Nobody may be waiting any more.
        drop(done.send(work()));
    });
    thread.ok()?;
    result.recv_timeout(deadline).ok()
}

/// Does something when it is not disarmed in time.
#[derive(Debug)]
pub struct Guard {
    /// Dropping it disarms.
    _armed: Sender<()>,
}

impl Guard {
    /// Arms one that does `action` after `deadline`, unless it is dropped before.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn arm(deadline: Duration, name: &str, action: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (armed, disarmed) = channel();
        Builder::new().name(name.to_owned()).stack_size(STACK).spawn(move || {
            if disarmed.recv_timeout(deadline) == Err(RecvTimeoutError::Timeout) {
                action();
            }
        })?;
        Ok(Self { _armed: armed })
    }
}

/// Asks again and again until there is an answer, at most for `deadline`.
pub fn until<T>(deadline: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    const PAUSE: Duration = Duration::from_millis(10);
    let end = clock::now() + deadline;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if clock::now() >= end {
            return None;
        }
        pause(PAUSE);
    }
}

/// Does nothing for a while.
pub fn pause(time: Duration) {
    let Ok(mut left) = Timespec::try_from(time) else { return };
    while let NanosleepRelativeResult::Interrupted(rest) = nanosleep(&left) {
        left = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_is_given_up() {
        assert_eq!(within(Duration::from_secs(10), "quick", || 7), Some(7));
        let (hold, held) = std::sync::mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(5), "slow", move || held.recv().is_err()), None);
        drop(hold);
        let mut asked = 0;
        let third = until(Duration::from_secs(10), || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(third, Some(3));
        assert_eq!(until(Duration::ZERO, || None::<()>), None);
    }

    #[test]
    fn a_guard_acts_unless_it_is_disarmed() {
        let (act, acted) = channel();
        let guard = Guard::arm(Duration::ZERO, "late", move || act.send(()).unwrap()).unwrap();
        acted.recv_timeout(Duration::from_secs(10)).unwrap();
        drop(guard);
        let (act, acted) = channel::<()>();
        drop(Guard::arm(Duration::from_secs(600), "early", move || drop(act)).unwrap());
        // The thread ends, and with it the sender, without having acted or waited.
        assert_eq!(acted.recv_timeout(Duration::from_secs(10)), Err(RecvTimeoutError::Disconnected));
    }
}
