//! How many requests an instance works on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The requests of one instance.
#[derive(Default)]
pub(super) struct Work(Arc<AtomicU32>);

/// One of them, until it is dropped.
pub(super) struct Request(Arc<AtomicU32>);

impl Work {
    /// One more. True when the instance works on no other.
    pub(super) fn begin(&self) -> (Request, bool) {
        let is_first = self.0.fetch_add(1, Ordering::AcqRel) == 0;
        (Request(Arc::clone(&self.0)), is_first)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_request_beside_no_other_is_the_first() {
        let work = Work::default();
        let (one, is_first) = work.begin();
        assert!(is_first);
        let (two, is_first) = work.begin();
        assert!(!is_first);
        // The other goes on.
        drop(one);
        assert!(!work.begin().1);
        drop(two);
        assert!(work.begin().1);
    }
}
