//! `cold-start`: from request to first response where nothing runs yet.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio::runtime::Runtime as Tokio;

use crate::bundle::Bundle;
use crate::fixture::{ANSWER, Fixture, HANDLER, Mode, Runtime, SERVER};
use crate::http::request;
use crate::interrupt::Interrupt;
use crate::node::Stratos;
use crate::output::{JsonLines, Progress, Promise, promises, table};
use crate::peers::Peer;
use crate::stats::{Sample, ms};
use crate::timing::Phases;

/// Rounds before those that count: page cache, the node's pools, the layers' mounts.
const WARM_UP: usize = 2;
/// Pause after each start, in which the kernel takes down what the last subject left behind.
const SETTLE: Duration = Duration::from_millis(100);

/// Where this runs.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Where {
    /// A machine with another distribution.
    Host,
    /// A virtual machine with the StratOS image.
    Vm,
}

/// Settings of `cold-start`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Starts of each subject.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = parse_rounds)]
    rounds: usize,

    /// Runtime to start.
    #[arg(long, value_enum, default_value_t = Runtime::Node24)]
    runtime: Runtime,

    /// Server to start.
    #[arg(long, value_enum, default_value_t = Fixture::Hello)]
    fixture: Fixture,

    /// Where this runs; stands in the rows.
    #[arg(long = "where", value_enum, default_value_t = Where::Host)]
    place: Where,

    /// File for the rows, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Install runc and crun with apt-get if they are missing.
    #[arg(long)]
    install_peers: bool,
}

fn parse_rounds(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(rounds @ 1..=10_000) => Ok(rounds),
        _ => Err("not a number from 1 to 10000".into()),
    }
}

/// Something to start.
enum Subject {
    /// A request to a node: whether it is the handler, how its instance comes to be, the function, the request and its
    /// answer.
    Stratos {
        handler: bool,
        mode: Mode,
        function: String,
        request: Vec<u8>,
        answer: String,
    },
    Peer(Peer),
}

/// What was measured of one subject.
struct Measured {
    subject: Subject,
    totals: Vec<Duration>,
    /// Empty for peers.
    phases: Vec<Phases>,
}

#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    #[serde(rename = "where")]
    place: Where,
    subject: &'static str,
    runtime: &'static str,
    fixture: &'static str,
    mode: &'static str,
    n: usize,
    p50_ms: f64,
    p95_ms: f64,
    min_ms: f64,
    #[serde(flatten)]
    stratos: Option<StratosColumns>,
}

/// Medians of the phases; only StratOS tells them.
#[derive(Debug, Serialize)]
struct StratosColumns {
    /// Everything but the runtime's start, the function's start and the request itself, on the client's clock.
    sandbox_share_p50_ms: f64,
    queue_p50_ms: f64,
    sandbox_p50_ms: f64,
    runtime_p50_ms: f64,
    init_p50_ms: f64,
    handler_p50_ms: f64,
}

impl Subject {
    fn name(&self) -> &'static str {
        match self {
            Self::Stratos { .. } => "stratos",
            Self::Peer(peer) => peer.name(),
        }
    }

    fn fixture(&self, server: Fixture) -> &'static str {
        match self {
            Self::Stratos { handler: true, .. } => "handler",
            _ => server.name(),
        }
    }

    /// How its process comes to be.
    fn mode(&self) -> Mode {
        match self {
            Self::Stratos { mode, .. } => *mode,
            Self::Peer(_) => Mode::Fresh,
        }
    }

    /// What stands for it in the table.
    fn label(&self) -> String {
        match self {
            Self::Stratos { handler: true, mode, .. } => format!("stratos {} (handler)", mode.name()),
            Self::Stratos { mode, .. } => format!("stratos {}", mode.name()),
            Self::Peer(peer) => peer.name().to_owned(),
        }
    }

    /// One start, its end included.
    fn cold(&self, nodes: &Nodes, bundle: &Bundle) -> Result<(Duration, Option<Phases>)> {
        let result = match self {
            Self::Stratos { function, request, answer, mode, .. } => {
                let node = nodes.of(*mode);
                let (total, phases) = node.cold(request, answer, mode.start())?;
                node.wait_until_idle(function)?;
                (total, Some(phases))
            }
            Self::Peer(peer) => (peer.cold(bundle)?, None),
        };
        std::thread::sleep(SETTLE);
        Ok(result)
    }
}

/// The nodes that are asked.
struct Nodes {
    usual: Stratos,
    /// Keeps no template.
    without_templates: Stratos,
}

impl Nodes {
    fn start(tokio: &Tokio) -> Result<Self> {
        let usual = Stratos::start(tokio, true, &[])?;
        match Stratos::start(tokio, true, &["--template-memory", "0"]) {
            Ok(without_templates) => Ok(Self { usual, without_templates }),
            Err(error) => {
                usual.stop();
                Err(error)
            }
        }
    }

    fn of(&self, mode: Mode) -> &Stratos {
        if mode == Mode::ColdTemplate { &self.without_templates } else { &self.usual }
    }

    fn stop(self) {
        self.usual.stop();
        self.without_templates.stop();
    }
}

/// Runs the benchmark.
///
/// # Errors
/// When a peer or the agent is missing, or any start fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut rows = JsonLines::create(options.json.as_deref())?;
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let interrupt = Interrupt::listen(&tokio)?;
    let peers = peers(options.install_peers)?;
    let nodes = Nodes::start(&tokio)?;
    let measured = measure(options, &tokio, &interrupt, &nodes, peers);
    // First the nodes, so that their logs are complete and their traces are gone whatever came before.
    nodes.stop();
    report(options, &measured?, &mut rows)
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

fn measure(
    options: &Options,
    tokio: &Tokio,
    interrupt: &Interrupt,
    nodes: &Nodes,
    peers: Vec<Peer>,
) -> Result<Vec<Measured>> {
    eprintln!("unpacking the {} layer for the peers", options.runtime.name());
    let bundle = Bundle::unpack(options.runtime, options.fixture)?;
    eprintln!("deploying");
    let stratos = subjects(options, tokio, nodes)?;
    bundle.add_function(&nodes.usual.image(&Mode::Fresh.function(SERVER))?)?;
    let mut measured = Vec::new();
    for subject in stratos.into_iter().chain(peers.into_iter().map(Subject::Peer)) {
        interrupt.check()?;
        if let Err(error) = subject.cold(nodes, &bundle) {
            ensure!(subject.name() == "crun", error);
            eprintln!("notice: crun does not run here, it has no row: {error:#}");
            continue;
        }
        measured.push(Measured { subject, totals: Vec::new(), phases: Vec::new() });
    }
    let progress = Progress::new("round", options.rounds);
    for round in 1..WARM_UP + options.rounds {
        // Another subject is the first in every round, so that none always follows the same one.
        for turn in 0..measured.len() {
            interrupt.check()?;
            let at = (round + turn) % measured.len();
            let measured = &mut measured[at];
            let name = measured.subject.name();
            let (total, phases) =
                measured.subject.cold(nodes, &bundle).with_context(|| format!("round {round}, {name}"))?;
            if round >= WARM_UP {
                measured.totals.push(total);
                measured.phases.extend(phases);
            }
        }
        progress.done((round + 1).saturating_sub(WARM_UP));
    }
    Ok(measured)
}

/// StratOS's subjects, deployed and checkpointed.
fn subjects(options: &Options, tokio: &Tokio, nodes: &Nodes) -> Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    for mode in Mode::ALL {
        let node = nodes.of(mode);
        let (server, handler) = (mode.function(SERVER), mode.function(HANDLER));
        node.deploy(tokio, &options.runtime.server_package(options.fixture, &server, mode))?;
        node.deploy(tokio, &options.runtime.handler_package(&handler, mode))?;
        let is_restored = mode != Mode::Fresh;
        for function in [&server, &handler].into_iter().filter(|_| is_restored) {
            node.wait_for_checkpoint(function)?;
        }
        let request_of_server = request("GET", &format!("/f/{server}/"), b"");
        let request_of_handler = request("POST", &format!("/v1/functions/{handler}/invoke"), b"{}");
        subjects.push(Subject::Stratos {
            handler: false,
            mode,
            function: server,
            request: request_of_server,
            answer: ANSWER.into(),
        });
        subjects.push(Subject::Stratos {
            handler: true,
            mode,
            function: handler,
            request: request_of_handler,
            answer: format!("\"{ANSWER}\""),
        });
    }
    Ok(subjects)
}

fn report(options: &Options, measured: &[Measured], json: &mut JsonLines) -> Result<()> {
    let rows: Vec<Row> = measured.iter().map(|measured| row(options, measured)).collect();
    let head =
        ["subject", "n", "p50", "p95", "min", "share", "queue", "sandbox", "runtime", "init", "handler"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for (row, measured) in rows.iter().zip(measured) {
        json.add(row)?;
        let mut line = vec![measured.subject.label(), row.n.to_string()];
        line.extend([row.p50_ms, row.p95_ms, row.min_ms].map(|ms| format!("{ms:.1}")));
        if let Some(s) = &row.stratos {
            let phases =
                [s.queue_p50_ms, s.sandbox_p50_ms, s.runtime_p50_ms, s.init_p50_ms, s.handler_p50_ms];
            line.push(format!("{:.2}", s.sandbox_share_p50_ms));
            line.extend(phases.map(|ms| format!("{ms:.2}")));
        }
        lines.push(line);
    }
    println!(
        "cold start of {}, request to first response of {}, ms:\n",
        options.runtime.name(),
        options.fixture.name()
    );
    println!("{}", table(&lines));
    println!("{}", promises(&kept(options, &rows)?));
    Ok(())
}

/// What is promised, beside what was measured.
fn kept(options: &Options, rows: &[Row]) -> Result<Vec<Promise>> {
    let find = |name: &str, mode: Mode| {
        rows.iter().find(|row| row.subject == name && row.fixture != "handler" && row.mode == mode.name())
    };
    let of = |mode: Mode| find("stratos", mode).with_context(|| format!("no row of mode {}", mode.name()));
    let runc = find("runc", Mode::Fresh).context("no row of runc")?;
    let fresh = of(Mode::Fresh)?;
    let share = fresh.stratos.as_ref().map_or(f64::NAN, |columns| columns.sandbox_share_p50_ms);
    let promise = |what, measured, limit| Promise { what, measured, limit, unit: "" };
    let (p50, p95) = (|row: &Row| row.p50_ms / runc.p50_ms, |row: &Row| row.p95_ms / runc.p95_ms);
    let checkpoint = of(Mode::Checkpoint)?;
    let mut kept = match options.fixture {
        Fixture::Heavy => vec![promise("checkpoint against runc, p50", p50(checkpoint), 1.0 / 30.0)],
        Fixture::Hello | Fixture::HelloEsm => vec![
            promise("fresh against runc, p50", p50(fresh), 0.65),
            Promise { what: "fresh, sandbox share, p50", measured: share, limit: 4.0, unit: "ms" },
            promise("checkpoint against runc, p50", p50(checkpoint), 1.0 / 20.0),
            promise("checkpoint against runc, p95", p95(checkpoint), 1.0 / 15.0),
            promise("held against runc, p50", p50(of(Mode::Held)?), 1.0 / 45.0),
        ],
    };
    kept.push(promise("cold-template against runc, p50", p50(of(Mode::ColdTemplate)?), 1.0 / 6.0));
    Ok(kept)
}

fn row(options: &Options, measured: &Measured) -> Row {
    let p50 = |phase: &dyn Fn(&Phases, Duration) -> Duration| {
        let pairs = measured.phases.iter().zip(&measured.totals);
        ms(Sample::new(pairs.map(|(phases, total)| phase(phases, *total)).collect()).quantile(50))
    };
    let stratos = (!measured.phases.is_empty()).then(|| StratosColumns {
        sandbox_share_p50_ms: p50(&Phases::sandbox_share),
        queue_p50_ms: p50(&|phases, _| phases.queue),
        sandbox_p50_ms: p50(&|phases, _| phases.sandbox),
        runtime_p50_ms: p50(&|phases, _| phases.runtime),
        init_p50_ms: p50(&|phases, _| phases.init),
        handler_p50_ms: p50(&|phases, _| phases.handler),
    });
    let totals = Sample::new(measured.totals.clone());
    Row {
        bench: "cold-start",
        place: options.place,
        subject: measured.subject.name(),
        runtime: options.runtime.name(),
        fixture: measured.subject.fixture(options.fixture),
        mode: measured.subject.mode().name(),
        n: totals.len(),
        p50_ms: ms(totals.quantile(50)),
        p95_ms: ms(totals.quantile(95)),
        min_ms: ms(totals.min()),
        stratos,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_as_promised() {
        let options = Options {
            rounds: 1,
            runtime: Runtime::Node24,
            fixture: Fixture::Hello,
            place: Where::Host,
            json: None,
            install_peers: false,
        };
        let mut measured = Measured {
            subject: Subject::Peer(Peer::Bare),
            totals: [3, 1, 2].map(Duration::from_millis).to_vec(),
            phases: Vec::new(),
        };
        assert_eq!(
            serde_json::to_string(&row(&options, &measured)).unwrap(),
            r#"{"bench":"cold-start","where":"host","subject":"bare","runtime":"node24","fixture":"hello","mode":"fresh","n":3,"p50_ms":2.0,"p95_ms":3.0,"min_ms":1.0}"#
        );
        let header = "queue;dur=0.1, sandbox;dur=0.2, runtime;dur=0.3, init;dur=0.2, handler;dur=0.1";
        measured.phases = vec![Phases::parse(header).unwrap(); 3];
        let row = serde_json::to_value(row(&options, &measured)).unwrap();
        assert_eq!(row["sandbox_share_p50_ms"], 1.4);
        assert_eq!(row["runtime_p50_ms"], 0.3);
    }

    #[test]
    fn rounds_are_counted_from_one() {
        assert_eq!(parse_rounds("30"), Ok(30));
        for wrong in ["0", "-1", "x", "10001"] {
            assert!(parse_rounds(wrong).is_err(), "{wrong}");
        }
    }
}
