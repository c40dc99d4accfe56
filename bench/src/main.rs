//! Benchmarks that compare StratOS with what people run today. docs/benchmarks.md says what each one measures.
//!
//! A measurement that fails is an error, never a row left out; whatever a run started or mounted is gone when it
//! ends, also after an error or Ctrl-C.

mod bundle;
mod cold_start;
mod fixture;
mod http;
mod interrupt;
mod node;
mod output;
mod peers;
mod stats;
mod timing;
mod warm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Compares StratOS with its peers. Needs root, a release build of `stratosd` and built layers.
#[derive(Debug, Parser)]
#[command(name = "stratos-bench")]
struct Options {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Request to first response of an instance that does not run yet: StratOS, runc, crun, bare fork+exec.
    ColdStart(cold_start::Options),
    /// What the agent adds to a warm request, against the same server reached directly.
    Warm(warm::Options),
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.bench {
        Bench::ColdStart(options) => cold_start::run(options),
        Bench::Warm(options) => warm::run(options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Options::command().debug_assert();
    }
}
