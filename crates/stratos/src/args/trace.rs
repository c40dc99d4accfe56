//! The command line of `stratos trace`.

use clap::Args;
use stratos_types::{FunctionName, Timeout};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stratos trace hello                    every system call of the next 10 s
  stratos trace hello --for 30s --histogram
  stratos trace hello --last             the last window, which may have been opened because errors repeated
  stratos trace hello --json | jq '.calls[0]'

Ctrl-C ends the window and prints what was counted. While it is open, each system call of any process of the
node takes a fraction of a microsecond longer.")]
pub(crate) struct TraceArgs {
    /// Name of the function
    pub(crate) name: FunctionName,
    /// How long to count, at most 5m
    #[arg(long = "for", value_name = "TIME", default_value = "10s")]
    pub(crate) time: Timeout,
    /// Draw how long the calls took
    #[arg(long)]
    pub(crate) histogram: bool,
    /// Print the last window, in place of opening one
    #[arg(long, conflicts_with_all = ["time", "stop"])]
    pub(crate) last: bool,
    /// End the window that is open, which somebody else waits for
    #[arg(long, conflicts_with_all = ["time", "histogram"])]
    pub(crate) stop: bool,
}
