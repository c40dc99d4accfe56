//! What a node keeps about the invocations it ran, within hard limits of memory and disk.
//!
//! Every invocation goes into a summary of its function and minute ([`Summaries`]) and into counters that monitoring
//! systems read ([`Totals`]). In full are kept: the last ones of each function ([`Recent`]), and those that failed or took
//! longer than the function's objective, in a ring on disk ([`TraceFiles`]). [`Telemetry`] puts these together.
//!
//! Nothing in here reads a clock, starts a thread or opens a socket. The only I/O is that of [`segments`], which is never
//! made under the lock of what requests write to. What there is no room for is counted.

mod ended;
pub mod exposition;
mod histogram;
mod limiter;
mod metrics;
pub mod otlp;
mod recent;
pub mod segments;
mod spans;
mod summary;
mod telemetry;
mod totals;
mod traces;

pub use ended::{Ended, Kept, Late};
pub use histogram::Histogram;
pub use limiter::{FUNCTION_SHARE, Limiter, SharedLimiter};
pub use metrics::{NodeFigures, render};
pub use recent::Recent;
pub use spans::spans;
pub use summary::{FunctionMinutes, Minute, StoredMinute, Summaries};
pub use telemetry::{Limits, Telemetry};
pub use totals::{BOUNDS_S, Counted, Totals};
pub use traces::{StoredTrace, TraceFiles};
