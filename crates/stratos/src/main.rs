//! `stratos`, the command line: makes, deploys, invokes and watches functions on a node.
//!
//! It talks to a node over its API and does not link the agent; `stratos dev` starts the agent's binary that lies
//! beside it. Results go to stdout, messages to stderr, exit codes stand in [`exit`].

mod args;
mod command;
mod exit;
mod failure;
mod node;
mod output;
mod pack;
mod progress;

use clap::Parser;

use crate::args::Cli;
use crate::exit::Exit;
use crate::output::{Output, note};

fn main() -> Exit {
    let cli = Cli::parse();
    let output = Output { json: cli.json };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(command::run(cli)),
        Err(e) => Err(failure::Failure::new("cannot start").because(&e)),
    };
    let Err(failure) = result else { return Exit::Ok };
    if !failure.quiet {
        note(&failure.to_string());
        if output.json && !failure.printed {
            // The reader of stdout may be gone; stderr has said it already, and the exit code says it too.
            output.document(&failure.to_json()).unwrap_or_default();
        }
    }
    failure.exit
}
