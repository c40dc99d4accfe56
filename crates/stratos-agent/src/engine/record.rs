//! The last invocations of a function, and their numbers.

use std::collections::VecDeque;

use stratos_api::InvocationRecord;

use super::FunctionStats;

/// Invocations remembered for each function.
const KEPT: usize = 100;

/// The last invocations of a function, and their numbers since the agent started.
#[derive(Default)]
pub(super) struct Records {
    last: VecDeque<InvocationRecord>,
    invocations: u64,
    errors: u64,
    cold_starts: u64,
}

impl Records {
    pub(super) fn add(&mut self, record: InvocationRecord) {
        self.invocations += 1;
        self.errors += u64::from(record.outcome != "ok");
        self.cold_starts += u64::from(record.cold);
        if self.last.len() == KEPT {
            self.last.pop_back();
        }
        self.last.push_front(record);
    }

    pub(super) fn newest(&self, limit: usize) -> Vec<InvocationRecord> {
        self.last.iter().take(limit).cloned().collect()
    }

    pub(super) fn stats(&self) -> FunctionStats {
        FunctionStats {
            invocations: self.invocations,
            errors: self.errors,
            cold_starts: self.cold_starts,
            ..FunctionStats::default()
        }
    }
}
