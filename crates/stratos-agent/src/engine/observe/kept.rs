//! Which functions' last windows are kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

use stratos_api::SyscallTrace;

use super::super::lock;
use super::window::Windows;

/// How many are kept; each takes some 10 KiB, and 300 KiB at most.
const KEPT: usize = 32;

/// Functions whose last window is kept, the latest window last.
#[derive(Default)]
pub(super) struct Kept(Mutex<VecDeque<Weak<Windows>>>);

impl Kept {
    /// Keeps what a window of a function saw; what was kept longest gives way.
    pub(super) fn keep(&self, windows: &Arc<Windows>, trace: SyscallTrace) {
        let mut kept = lock(&self.0);
        kept.retain(|other| other.strong_count() > 0 && !std::ptr::eq(other.as_ptr(), Arc::as_ptr(windows)));
        if kept.len() == KEPT
            && let Some(oldest) = kept.pop_front().and_then(|oldest| oldest.upgrade())
        {
            oldest.forget();
        }
        kept.push_back(Arc::downgrade(windows));
        // Under the lock: it may be another function's turn to make this one forget.
        windows.closed(Some(trace));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(function: usize) -> SyscallTrace {
        SyscallTrace {
            function: function.to_string(),
            trigger: "request".to_owned(),
            began_at: String::new(),
            duration_ms: 1,
            instances: 1,
            invocations: 1,
            dropped: 0,
            calls: Vec::new(),
        }
    }

    #[test]
    fn the_latest_windows_are_kept() {
        let kept = Kept::default();
        let all: Vec<Arc<Windows>> = (0..KEPT + 2).map(|_| Arc::default()).collect();
        let has = |at: usize| all[at].last().is_some();
        (0..KEPT).for_each(|at| kept.keep(&all[at], trace(at)));
        assert!((0..KEPT).all(has));
        // The first one again: the second is the oldest now.
        kept.keep(&all[0], trace(0));
        kept.keep(&all[KEPT], trace(KEPT));
        assert!(has(0) && !has(1) && (2..=KEPT).all(has));
        // One that is gone makes place.
        let gone: Arc<Windows> = Arc::default();
        kept.keep(&gone, trace(99));
        assert!(!has(2));
        drop(gone);
        kept.keep(&all[KEPT + 1], trace(KEPT + 1));
        assert!((3..KEPT + 2).all(has));
        assert_eq!(all[KEPT].last(), Some(trace(KEPT)));
        assert_eq!(lock(&kept.0).len(), KEPT);
    }
}
