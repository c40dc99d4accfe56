//! Names of the headers StratOS adds to those of HTTP, AWS Lambda and the W3C.

/// The invocation's id, on every answer of an invocation.
pub const INVOCATION: &str = "stratos-invocation";
/// `fresh` when an instance was started for this request, else `warm`.
pub const START: &str = "stratos-start";
/// The version that answered.
pub const VERSION: &str = "stratos-version";
/// On an error: its code.
pub const ERROR: &str = "stratos-error";
/// On an error: who is to blame (`client`, `function`, `platform`).
pub const BLAME: &str = "stratos-blame";
/// The phases of an invocation in ms (W3C Server Timing).
pub const SERVER_TIMING: &str = "server-timing";
