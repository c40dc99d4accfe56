//! How a child that shares its parent's memory says which step failed.

use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// An error number of the kernel, positive (`1` is EPERM).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// A step of the list that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Index of the operation in the list.
    pub index: u32,
    /// Why the kernel refused it.
    pub errno: Errno,
}

/// The word the child writes before it gives up. It stays empty when the child reached execve.
#[derive(Debug, Default)]
pub struct Report {
    index: AtomicU32,
    errno: AtomicI32,
}

impl Report {
    /// An empty report.
    pub const fn new() -> Self {
        Self { index: AtomicU32::new(0), errno: AtomicI32::new(0) }
    }

    /// Records a failure. Called by the child.
    pub fn set(&self, failure: Failure) {
        self.index.store(failure.index, Ordering::Relaxed);
        self.errno.store(failure.errno.0, Ordering::Release);
    }

    /// The failure that the child recorded, if any. Meaningful once the child has executed or ended.
    pub fn get(&self) -> Option<Failure> {
        match self.errno.load(Ordering::Acquire) {
            0 => None,
            errno => Some(Failure { index: self.index.load(Ordering::Relaxed), errno: Errno(errno) }),
        }
    }
}
