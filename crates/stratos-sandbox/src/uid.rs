//! User IDs: one of its own for each running instance, so that no two share files, signals or limits.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// First ID of all ranges. Above what distributions, directory services and container engines hand out.
const FIRST: u32 = 0x7000_0000;
/// IDs in one range.
const RANGE: u32 = 0x1_0000;
/// Number of ranges; the last one ends below 2^31.
const RANGES: u64 = 0x1000;

/// A stable name for a state directory: two agents on one host do not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeKey(u64);

impl NodeKey {
    /// FNV-1a, 64 bits: short, and the same in every build, which the standard library's hasher is not.
    pub(crate) fn of(state_dir: &Path) -> Self {
        let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        Self(state_dir.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, hash))
    }

    /// Name of the node's cgroup.
    pub(crate) fn cgroup_name(self) -> String {
        format!("stratos-{:08x}", self.0 as u32)
    }

    /// The user IDs of the node's instances.
    pub(crate) fn uids(self) -> std::ops::Range<u32> {
        let first = FIRST + ((self.0 >> 32) % RANGES) as u32 * RANGE;
        first..first + RANGE
    }
}

#[derive(Debug)]
struct State {
    next: u32,
    used: HashSet<u32>,
}

/// The node's user IDs. Hands them out in turn, so that an ID is not reused at once.
#[derive(Debug)]
pub(crate) struct UidPool {
    range: std::ops::Range<u32>,
    state: Mutex<State>,
}

impl UidPool {
    pub(crate) fn new(range: std::ops::Range<u32>) -> Arc<Self> {
        let state = State { next: range.start, used: HashSet::new() };
        Arc::new(Self { range, state: Mutex::new(state) })
    }

    /// An ID that nobody has, or `None` when all are taken.
    pub(crate) fn lease(self: &Arc<Self>) -> Option<UidLease> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in self.range.clone() {
            let uid = state.next;
            state.next = if uid + 1 == self.range.end { self.range.start } else { uid + 1 };
            if state.used.insert(uid) {
                return Some(UidLease { uid, pool: Arc::clone(self) });
            }
        }
        None
    }
}

/// A user ID in use. Returned when dropped, which must come after the last process with it has ended.
#[derive(Debug)]
pub(crate) struct UidLease {
    uid: u32,
    pool: Arc<UidPool>,
}

impl UidLease {
    pub(crate) fn get(&self) -> u32 {
        self.uid
    }
}

impl Drop for UidLease {
    fn drop(&mut self) {
        self.pool.state.lock().unwrap_or_else(PoisonError::into_inner).used.remove(&self.uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_lie_between_two_powers_of_two() {
        for dir in ["/var/lib/stratos", "/tmp/a", ""] {
            let uids = NodeKey::of(Path::new(dir)).uids();
            assert!(uids.start >= FIRST && uids.end <= 0x8000_0000, "{dir}: {uids:?}");
            assert_eq!(uids.len(), 65536);
        }
    }

    #[test]
    fn an_id_in_use_is_not_handed_out_again() {
        let pool = UidPool::new(10..12);
        let (a, b) = (pool.lease().unwrap(), pool.lease().unwrap());
        assert_eq!((a.get(), b.get()), (10, 11));
        assert!(pool.lease().is_none());
        drop(b);
        assert_eq!(pool.lease().unwrap().get(), 11);
    }
}
