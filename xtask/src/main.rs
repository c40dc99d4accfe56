//! `cargo xtask`: the repository's tasks. `make` calls them; nothing that runs on a node is in here.

mod bench;
mod ci;
mod licences;
mod metadata;
mod process;
mod spdx;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of the StratOS repository
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that CI runs: lint, layers, all tests
    #[command(after_help = "Examples:
  cargo xtask ci
  cargo xtask ci --from test      go on where the last run failed")]
    Ci {
        /// Begin with this step
        #[arg(long, value_name = "STEP", value_parser = ci::step_names())]
        from: Option<String>,
    },
    /// Format, tidy, licences, clippy
    #[command(after_help = "Examples:
  cargo xtask lint")]
    Lint,
    /// Check the rules of this repository that no other tool checks
    ///
    /// Dependencies between crates point to lower layers; every crate has a description and the workspace's lints;
    /// unsafe code stays in stratos-setup and stratos-sys; no paths of somebody's machine; SPECIFICATION.md names
    /// tests that exist; links between Markdown files resolve; no trailing white space. Files over 800 lines are
    /// warned about.
    #[command(after_help = "Examples:
  cargo xtask tidy")]
    Tidy,
    /// Check every dependency's licence against xtask/licences.toml
    #[command(after_help = "Examples:
  cargo xtask licences")]
    Licences,
    /// Run a benchmark in release mode, as root
    #[command(after_help = "Examples:
  cargo xtask bench cold-start --json cold-start.json
  cargo xtask bench warm --json warm.json
  cargo xtask bench boot --json boot.json -- --n 3")]
    Bench {
        /// Name of the benchmark
        name: String,
        /// File for the results, one JSON row a line
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Further arguments for the benchmark
        #[arg(last = true)]
        rest: Vec<String>,
    },
    /// Install what this machine lacks of distro/host-packages.txt
    #[command(after_help = "Examples:
  cargo xtask setup
  cargo xtask setup bench
  cargo xtask setup --list test      only say what is missing")]
    Setup {
        /// Only print what is missing
        #[arg(long)]
        list: bool,
        /// For what: run, test or bench
        #[arg(default_value = "test", value_parser = ["run", "test", "bench"])]
        purpose: String,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Ci { from } => ci::run_steps(from.as_deref()),
        Task::Lint => ci::lint(),
        Task::Tidy => tidy::run(),
        Task::Licences => licences::run(),
        Task::Bench { name, json, rest } => bench::run_bench(&name, json.as_deref(), &rest),
        Task::Setup { list, purpose } => process::setup(list, &purpose),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.chain().skip(1).for_each(|cause| eprintln!("  {cause}"));
            ExitCode::FAILURE
        }
    }
}
