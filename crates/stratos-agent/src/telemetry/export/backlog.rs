//! Traces that wait to be sent or are being sent, within one limit of memory.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use stratos_telemetry::{Ended, FUNCTION_SHARE};

/// Most that all of them take, bytes.
const MOST_BYTES: usize = 2 << 20;
/// Most of one function: one that fails all the time leaves room for others.
const MOST_OF_ONE: usize = MOST_BYTES / FUNCTION_SHARE as usize;

/// The traces that wait, and an account of those that were taken to be sent.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: VecDeque<Arc<Ended>>,
    bytes: usize,
    /// Of each function that has any.
    functions: HashMap<String, usize>,
}

/// With its places: in the queue, and in the row of those that are sent.
fn bytes(ended: &Ended) -> usize {
    ended.bytes() + 2 * size_of::<Arc<Ended>>()
}

impl Backlog {
    /// Puts one in line; not when there is no room for it.
    pub(super) fn push(&mut self, ended: Arc<Ended>) -> bool {
        let (function, more) = (&ended.record.function, bytes(&ended));
        let of_one = self.functions.get(function).copied().unwrap_or_default() + more;
        let fits = self.bytes + more <= MOST_BYTES && of_one <= MOST_OF_ONE;
        if fits {
            self.bytes += more;
            self.functions.insert(function.clone(), of_one);
            self.waiting.push_back(ended);
        }
        fits
    }

    /// Takes all that wait. They are counted until they are [done](Backlog::done).
    pub(super) fn take(&mut self) -> VecDeque<Arc<Ended>> {
        std::mem::take(&mut self.waiting)
    }

    /// These were sent, or given up.
    pub(super) fn done(&mut self, sent: &[Arc<Ended>]) {
        for ended in sent {
            let (function, less) = (&ended.record.function, bytes(ended));
            self.bytes -= less;
            if let Some(of_one) = self.functions.get_mut(function) {
                *of_one -= less;
                if *of_one == 0 {
                    self.functions.remove(function);
                }
            }
        }
    }

    /// Memory of all that are not done, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use stratos_api::InvocationRecord;

    use super::*;

    fn ended(function: &str) -> Arc<Ended> {
        let record = InvocationRecord { function: function.into(), ..InvocationRecord::default() };
        Arc::new(Ended::new(record, None, Some(&"x".repeat(300)), Arc::default()))
    }

    #[test]
    fn all_keep_to_the_limit_and_one_to_its_share() {
        let mut backlog = Backlog::default();
        let fill =
            |backlog: &mut Backlog, name: &str| (0..9000).filter(|_| backlog.push(ended(name))).count();
        let of_one = fill(&mut backlog, "a");
        assert!(of_one > 100 && backlog.bytes() <= MOST_OF_ONE);
        // What is being sent is counted still.
        let taken: Vec<_> = backlog.take().into();
        assert_eq!((taken.len(), fill(&mut backlog, "a")), (of_one, 0));
        for name in ["b", "c", "d"] {
            assert_eq!(fill(&mut backlog, name), of_one);
        }
        assert!(backlog.bytes() <= MOST_BYTES);
        assert!(fill(&mut backlog, "e") < 5);
        backlog.done(&taken);
        assert_eq!(fill(&mut backlog, "a"), of_one);
        let rest: Vec<_> = backlog.take().into();
        backlog.done(&rest);
        assert_eq!((backlog.bytes(), backlog.functions.len()), (0, 0));
    }
}
