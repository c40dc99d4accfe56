//! How long to wait before a service is started again. Pure.

use std::time::Duration;

/// Waits twice as long after each failure, up to a limit; a service that ran well for long enough begins anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    reset_after: Duration,
    next: Duration,
}

impl Backoff {
    /// Begins with `first`, ends at `most`, and begins anew after a run of at least `reset_after`.
    pub fn new(first: Duration, most: Duration, reset_after: Duration) -> Self {
        Self { first, most, reset_after, next: first }
    }

    /// The time to wait after a run that lasted `ran`.
    pub fn after(&mut self, ran: Duration) -> Duration {
        if ran >= self.reset_after {
            self.next = self.first;
        }
        let wait = self.next.min(self.most);
        self.next = wait.saturating_mul(2).min(self.most);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_begin_anew_after_a_good_run() {
        let millis = Duration::from_millis;
        let mut backoff = Backoff::new(millis(100), millis(1000), millis(60_000));
        let waits: Vec<_> = (0..6).map(|_| backoff.after(millis(5)).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.after(millis(59_999)), millis(1000));
        assert_eq!(backoff.after(millis(60_000)), millis(100));
        assert_eq!(backoff.after(millis(5)), millis(200));
    }
}
