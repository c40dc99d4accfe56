//! `stratos top` and `stratos invocations`.

use clap::{Args, ValueEnum};
use stratos_types::{FunctionName, InvocationId};

use super::invocation_id;

/// What functions are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortBy {
    /// Name
    Name,
    /// Invocations a second
    Rate,
    /// Half were this fast
    P50,
    /// 95 % were this fast
    P95,
    /// 99 % were this fast
    P99,
    /// Share of invocations that an instance was started for
    Cold,
    /// Memory high-water mark
    Memory,
    /// Share of errors
    Errors,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stratos top                          drawn anew every second, until q or Ctrl-C
  stratos top --sort p99 --minutes 60
  stratos top --once
  stratos top --once --json | jq '.functions[].total'

Percentiles, memory and counts are of the last minutes, the running one among them. When stdout is no
terminal the table is printed once.")]
pub(crate) struct TopArgs {
    /// Print it once
    #[arg(long)]
    pub(crate) once: bool,
    /// What to order functions by
    #[arg(long, value_enum, value_name = "COLUMN", default_value_t = SortBy::Rate)]
    pub(crate) sort: SortBy,
    /// How many minutes to look back
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1440))]
    pub(crate) minutes: u64,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stratos invocations hello
  stratos invocations hello --errors --limit 50
  stratos invocations hello --trace 5f0c9c1e-8d0b-4c56-9d3e-0a1b2c3d4e5f
  stratos invocations hello --errors --json | jq -r '.[].id'

A node remembers the last 100 invocations of a function, and longer those that failed or took longer
than its [slo] latency.")]
pub(crate) struct InvocationsArgs {
    /// Name of the function
    pub(crate) name: FunctionName,
    /// Those that failed alone
    #[arg(long)]
    pub(crate) errors: bool,
    /// Most invocations to list
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    /// Show where the time of this invocation went
    #[arg(long, value_name = "ID", value_parser = invocation_id, conflicts_with_all = ["errors", "limit"])]
    pub(crate) trace: Option<InvocationId>,
}
