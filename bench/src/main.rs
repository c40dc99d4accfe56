//! Benchmarks that compare StratOS with what people run today. docs/benchmarks.md says what each one measures.
//!
//! A measurement that fails is an error, never a row left out; whatever a run started or mounted is gone when it
//! ends, also after an error or Ctrl-C.

mod boot;
mod bundle;
mod cold_start;
mod compressed;
mod criu;
mod density;
mod fixture;
mod guest;
mod http;
mod initramfs;
mod interrupt;
mod isolation;
mod memory;
mod mmdebstrap;
mod node;
mod output;
mod peers;
mod program;
mod stats;
mod timing;
mod trace_overhead;
mod warm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Compares StratOS with its peers. Needs root, a release build, and built layers or images.
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
    /// The memory of an idle instance: restored, held, and fresh.
    Density(density::Options),
    /// What the agent adds to a warm request, against the same server reached directly.
    Warm(warm::Options),
    /// QEMU's start to the first answer of a function, against Debian with systemd in the same machine.
    Boot(boot::Options),
    /// What compressed swap and reading ahead at boot change, in a virtual machine.
    Memory(memory::Options),
    /// What it costs that the kernel is asked about instances, in CPU time.
    TraceOverhead(trace_overhead::Options),
    /// The process of a loop of system calls that `trace-overhead` starts.
    #[command(name = trace_overhead::SPIN, hide = true)]
    Spin,
    /// The latency of a function on reserved CPUs, idle and beside functions that take all CPU time they get.
    Isolation(isolation::Options),
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.bench {
        Bench::ColdStart(options) => cold_start::run(options),
        Bench::Density(options) => density::run(options),
        Bench::Warm(options) => warm::run(options),
        Bench::Boot(options) => boot::run(options),
        Bench::Memory(options) => memory::run(options),
        Bench::TraceOverhead(options) => trace_overhead::run(options),
        Bench::Spin => trace_overhead::spin(),
        Bench::Isolation(options) => isolation::run(options),
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
