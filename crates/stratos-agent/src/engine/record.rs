//! A function's numbers since the agent started.

use stratos_api::InvocationRecord;

use super::FunctionStats;

/// How many invocations ended, and how.
#[derive(Default)]
pub(super) struct Records {
    invocations: u64,
    errors: u64,
    cold_starts: u64,
}

impl Records {
    pub(super) fn add(&mut self, record: &InvocationRecord) {
        self.invocations += 1;
        self.errors += u64::from(record.outcome != "ok");
        self.cold_starts += u64::from(record.cold);
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
