//! `cold-start`: from request to first response where nothing runs yet.

mod floor;
mod measure;
mod report;
mod subject;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::bundle::Bundle;
use crate::criu;
use crate::fixture::{Fixture, Mode, Runtime, SERVER};
use crate::interrupt::Interrupt;
use crate::output::JsonLines;
use crate::peers::Peer;

use self::measure::measure;
use self::report::{Row, report};
use self::subject::{Nodes, Subject, subjects};

/// Starts of each subject unless told otherwise, on this machine and in a virtual one.
const ROUNDS: usize = 30;
const ROUNDS_IN_VM: usize = 20;

/// Where this runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Where {
    /// On this machine.
    Host,
    /// In a virtual machine that is booted for it, where limits are real.
    Vm,
}

/// Settings of `cold-start`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Starts of each subject; 30 by default, 20 in a virtual machine.
    #[arg(long, value_name = "N", value_parser = parse_rounds)]
    rounds: Option<usize>,

    /// Runtime to start.
    #[arg(long, value_enum, default_value_t = Runtime::Node24)]
    runtime: Runtime,

    /// Server to start.
    #[arg(long, value_enum, default_value_t = Fixture::Hello)]
    fixture: Fixture,

    /// Where to measure: here, or in a virtual machine against Debian with its own Node.js under runc.
    #[arg(long = "where", value_enum, default_value_t = Where::Host)]
    place: Where,

    /// File for the rows, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Install runc and crun with apt-get if they are missing, and fetch CRIU.
    #[arg(long)]
    install_peers: bool,
}

impl Options {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.place == Where::Vm { ROUNDS_IN_VM } else { ROUNDS })
    }
}

fn parse_rounds(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(rounds @ 1..=10_000) => Ok(rounds),
        _ => Err("not a number from 1 to 10000".into()),
    }
}

/// Runs the benchmark.
///
/// # Errors
/// When a peer or the agent is missing, or any start fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.place == Where::Vm && stratos_tests::vm::is_inside() {
        return floor::inside(options);
    }
    let mut rows = JsonLines::create(options.json.as_deref())?;
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let interrupt = Interrupt::listen(&tokio)?;
    let measured = match options.place {
        Where::Vm => floor::measure(options, &tokio, &interrupt)?,
        Where::Host => here(options, &tokio, &interrupt)?,
    };
    report(options, &measured, &mut rows)
}

/// Measures on this machine.
fn here(options: &Options, tokio: &tokio::runtime::Runtime, interrupt: &Interrupt) -> Result<Vec<Row>> {
    let peers = peers(options.install_peers)?;
    let criu = criu::tools(options.install_peers, interrupt)?;
    let nodes = Nodes::start(tokio)?;
    let measured = (|| {
        eprintln!("unpacking the {} layer for the peers", options.runtime.name());
        let bundle = Bundle::unpack(options.runtime, options.fixture)?;
        eprintln!("deploying");
        let mut subjects = subjects(options, tokio, &nodes, &Mode::ALL, &[false, true])?;
        bundle.add_function(&nodes.of(Mode::Fresh)?.image(&Mode::Fresh.function(SERVER))?)?;
        subjects.extend(peers.into_iter().map(Subject::Peer));
        subjects.extend(criu.and_then(|tools| Subject::criu(tools, &bundle)));
        measure(options, interrupt, &nodes, &bundle, subjects)
    })();
    // First the nodes, so that their logs are complete and their traces are gone whatever came before.
    nodes.stop();
    Ok(measured?.iter().map(|measured| report::row(options, measured)).collect())
}

/// The peers that are installed. runc must be.
fn peers(install: bool) -> Result<Vec<Peer>> {
    const APT: [&str; 5] = ["install", "--yes", "--no-install-recommends", "runc", "crun"];
    let find = || anyhow::Ok((Peer::oci("runc")?, Peer::oci("crun")?));
    let (mut runc, mut crun) = find()?;
    if install && (runc.is_none() || crun.is_none()) {
        let status = Command::new("apt-get").args(APT).status().context("start apt-get")?;
        ensure!(status.success(), "`apt-get {}` failed ({status})", APT.join(" "));
        (runc, crun) = find()?;
    }
    let Some(runc) = runc else {
        bail!(
            "runc is not installed; `apt-get install runc crun` installs the peers, as does --install-peers"
        );
    };
    if crun.is_none() {
        eprintln!("notice: crun is not installed (`apt-get install crun`); it has no row");
    }
    Ok([runc].into_iter().chain(crun).chain([Peer::Bare]).collect())
}

#[cfg(test)]
impl Options {
    /// One round of Node.js's hello server, here.
    fn example() -> Self {
        Self {
            rounds: Some(1),
            runtime: Runtime::Node24,
            fixture: Fixture::Hello,
            place: Where::Host,
            json: None,
            install_peers: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_counted_from_one() {
        assert_eq!(parse_rounds("30"), Ok(30));
        for wrong in ["0", "-1", "x", "10001"] {
            assert!(parse_rounds(wrong).is_err(), "{wrong}");
        }
    }
}
