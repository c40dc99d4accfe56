//! How many requests an instance works on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The requests of one instance.
#[derive(Default)]
pub(super) struct Work(Arc<AtomicU32>);

/// One of them, until it ends or is dropped.
pub(super) struct Request {
    all: Arc<AtomicU32>,
    ended: AtomicBool,
}

impl Work {
    /// One more. True when the instance works on no other.
    pub(super) fn begin(&self) -> (Request, bool) {
        let is_first = self.0.fetch_add(1, Ordering::AcqRel) == 0;
        (Request { all: Arc::clone(&self.0), ended: AtomicBool::new(false) }, is_first)
    }
}

impl Request {
    pub(super) fn end(&self) {
        if !self.ended.swap(true, Ordering::AcqRel) {
            self.all.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.end();
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
        one.end();
        // Once more, when it is dropped: the other goes on.
        drop(one);
        assert!(!work.begin().1);
        // One that is given up.
        drop(two);
        assert!(work.begin().1);
    }
}
