//! `memory`: what compressed swap and reading ahead at boot change. In a virtual machine, whose memory is bounded.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use stratos_api::ErrorCode;
use stratos_tests::Package;
use stratos_types::{KernelChoice, NodeConfig};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::guest::{self, Answer, BOOT_LIMIT, Guest, Hardware, Loading, Prepared, SETTLE, api_error};
use crate::interrupt::Interrupt;
use crate::output::{JsonLines, Progress, table};
use crate::stats::ms;

/// Data that each function holds, in MiB. With the interpreter it needs about 46 MiB.
const HOLD_MIB: u32 = 36;
/// The least memory that such a function runs with: with swap, it may have half of its memory there besides.
const LIMIT_WITH_SWAP: &str = "32MB";
const LIMIT: &str = "48MB";
/// How long a function holds its data; longer than a run takes, shorter than the longest timeout.
const HOLD_SECONDS: u32 = 880;
/// How long the answer to such a request is waited for.
const HOLD_LIMIT: Duration = Duration::from_secs(1000);
/// A node without room lets a request wait. That is what a start means that takes this many times as long as the longest
/// before it, and this long at least.
const PATIENCE_FACTOR: u32 = 4;
const LEAST_PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks at the instances.
const LOOK: Duration = Duration::from_millis(500);
/// More functions than can fit.
const MAX_FUNCTIONS: usize = 500;
/// The function whose first start is timed: the handler of `cold-start`. Emulated, Node.js takes longer to start than a
/// What is measured are the starts that a checkpoint would spare, and memory without templates.
const FRESH: &str = "checkpoint = \"off\"";
/// function has unless it asks for more.
const NODE: &str = "first-node";
const NODE_SETTINGS: &str = "memory = \"128MB\"\ntimeout = \"5m\"";

/// Settings of `memory`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Boots of each subject.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    n: u32,

    /// Kernel of the machine.
    #[arg(long, default_value_t = KernelChoice::Debian)]
    kernel: KernelChoice,

    #[command(flatten)]
    machine: guest::MachineOptions,

    /// File for the rows, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    FunctionsBeforeOom,
    FirstNodeStart,
}

/// A node with something on or off.
#[derive(Debug, Clone, Copy)]
struct Subject {
    what: What,
    zram: bool,
    warm: bool,
}

/// What ended the filling of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Full {
    /// The kernel killed a function.
    OutOfMemory,
    /// The node had no memory left to promise.
    NoRoom,
}

/// One result: functions, or milliseconds.
#[derive(Debug, Clone, Copy)]
struct Value {
    value: f64,
    full: Option<Full>,
}

#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    what: What,
    zram: bool,
    warm: bool,
    n: usize,
    /// Median.
    value: f64,
    unit: &'static str,
    min: f64,
    max: f64,
    /// What ended the last run.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_by: Option<Full>,
}

/// Measures all four subjects in turns.
///
/// # Errors
/// When anything does not boot, serve or end as it should.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut rows = JsonLines::create(options.json.as_deref())?;
    let tokio = tokio::runtime::Runtime::new()?;
    let interrupt = Interrupt::listen(&tokio)?;
    let measured = tokio.block_on(interrupt.or(measure(options)));
    report(&measured?, &mut rows)
}

async fn measure(options: &Options) -> Result<Vec<(Subject, Vec<Value>)>> {
    let hardware = options.machine.hardware().await?;
    let filled = |zram| Subject { what: What::FunctionsBeforeOom, zram, warm: true };
    let started = |warm| Subject { what: What::FirstNodeStart, zram: true, warm };
    let mut subjects = [filled(true), filled(false), started(true), started(false)].map(|s| (s, Vec::new()));
    eprintln!("preparing StratOS with the {} kernel", options.kernel);
    let node =
        Package::node(NODE, include_str!("../fixtures/handler.mjs")).setting(NODE_SETTINGS).setting(FRESH);
    let packages = [hold(true), hold(false), node];
    // The start that the node remembers. It looks at what was read some seconds later.
    let record = async |guest: &Guest| {
        guest.invoke(NODE, "{}").await?;
        sleep(SETTLE).await;
        Ok(())
    };
    let config = NodeConfig::default();
    let prepared = Prepared::new(options.kernel, hardware, &config, &packages, record).await?;
    let progress = Progress::new("round", options.n as usize);
    for round in 0..options.n as usize {
        for turn in 0..subjects.len() {
            let at = (round + turn) % subjects.len();
            let (subject, values) = &mut subjects[at];
            let value = subject.measure(&prepared, hardware).await;
            values.push(value.with_context(|| format!("round {}, {subject:?}", round + 1))?);
        }
        progress.done(round + 1);
    }
    Ok(subjects.into())
}

/// The name of the function that fills a node.
fn hold_name(zram: bool) -> &'static str {
    if zram { "hold-swapped" } else { "hold" }
}

fn hold(zram: bool) -> Package {
    let limit = if zram { LIMIT_WITH_SWAP } else { LIMIT };
    let settings = format!(
        "memory = \"{limit}\"\ntimeout = \"15m\"\nmax_instances = {MAX_FUNCTIONS}\n[env]\nHOLD_MIB = \"{HOLD_MIB}\""
    );
    Package::python(hold_name(zram), include_str!("../fixtures/hold.py")).setting(&settings).setting(FRESH)
}

impl Subject {
    fn config(self) -> NodeConfig {
        let mut config = NodeConfig::default();
        if !self.zram {
            config.memory.zram = 0;
        }
        config.memory.warm = self.warm;
        config
    }

    async fn measure(self, prepared: &Prepared, hardware: Hardware) -> Result<Value> {
        let guest = prepared.boot(Loading::COMMON, hardware, &self.config()).await?;
        guest.running.ready(BOOT_LIMIT).await?;
        let measured = match self.what {
            What::FunctionsBeforeOom => fill(&guest, hold_name(self.zram)).await,
            What::FirstNodeStart => first_start(&guest).await,
        };
        measured.with_context(|| guest.console())
    }
}

/// Starts functions, each beside all those before, until one does not fit.
async fn fill(guest: &Guest, function: &'static str) -> Result<Value> {
    // All of them hold a request, so that each further one needs an instance of its own; they only sleep.
    let mut held = JoinSet::new();
    let mut longest = Duration::ZERO;
    for functions in 1..=MAX_FUNCTIONS {
        let asker = guest.asker();
        held.spawn(async move {
            asker.ask(function, &format!("{{\"seconds\":{HOLD_SECONDS}}}"), HOLD_LIMIT).await
        });
        let begun = Instant::now();
        let full = loop {
            if let Some(ended) = held.try_join_next() {
                break Some(why_ended(ended?)?);
            }
            if guest.busy(function).await? >= functions {
                break None;
            }
            if begun.elapsed() > (longest * PATIENCE_FACTOR).max(LEAST_PATIENCE) && functions > 1 {
                break Some(Full::NoRoom);
            }
            ensure!(begun.elapsed() < BOOT_LIMIT, "the first function does not start");
            sleep(LOOK).await;
        };
        longest = longest.max(begun.elapsed());
        if let Some(full) = full {
            ensure!(functions > 1, "not even one function fits ({full:?})");
            return Ok(Value { value: (functions - 1) as f64, full: Some(full) });
        }
    }
    bail!("more than {MAX_FUNCTIONS} functions fit")
}

/// Why a function no longer holds its request: for lack of memory, or this run has failed.
fn why_ended(ended: Result<Answer>) -> Result<Full> {
    let error = match ended {
        Ok(answer) => bail!("a function answered early: {}", answer.body.escape_ascii()),
        Err(error) => error,
    };
    match api_error(&error).map(|error| error.code) {
        Some(ErrorCode::FunctionOutOfMemory) => Ok(Full::OutOfMemory),
        _ => Err(error.context("a function that held memory ended")),
    }
}

/// The first start of Node.js in this boot.
async fn first_start(guest: &Guest) -> Result<Value> {
    sleep(SETTLE).await;
    let answer = guest.invoke(NODE, "{}").await?;
    ensure!(answer.fresh, "an instance was there before the first request");
    Ok(Value { value: ms(answer.took), full: None })
}

fn report(measured: &[(Subject, Vec<Value>)], json: &mut JsonLines) -> Result<()> {
    let head = ["", "zram", "warm", "n", "p50", "min", "max", "unit", "ended by"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for (subject, values) in measured {
        let row = row(*subject, values);
        json.add(&row)?;
        let on = |on: bool| if on { "on" } else { "off" }.to_owned();
        let mut line = vec![row.what.title().to_owned(), on(row.zram), on(row.warm), row.n.to_string()];
        line.extend([row.value, row.min, row.max].map(|value| format!("{value:.0}")));
        line.push(row.unit.to_owned());
        line.push(row.ended_by.map(|full| full.title().to_owned()).unwrap_or_default());
        lines.push(line);
    }
    println!("what compressed swap (zram) and reading ahead at boot (warm) change:\n");
    println!("{}", table(&lines));
    Ok(())
}

impl What {
    fn title(self) -> &'static str {
        match self {
            Self::FunctionsBeforeOom => "functions that fit",
            Self::FirstNodeStart => "first start of Node.js",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::FunctionsBeforeOom => "functions",
            Self::FirstNodeStart => "ms",
        }
    }
}

impl Full {
    fn title(self) -> &'static str {
        match self {
            Self::OutOfMemory => "out of memory",
            Self::NoRoom => "no room",
        }
    }
}

fn row(subject: Subject, values: &[Value]) -> Row {
    let mut sorted: Vec<f64> = values.iter().map(|value| value.value).collect();
    sorted.sort_by(f64::total_cmp);
    Row {
        bench: "memory",
        what: subject.what,
        zram: subject.zram,
        warm: subject.warm,
        n: sorted.len(),
        // By nearest rank, as everywhere.
        value: sorted[sorted.len().div_ceil(2) - 1],
        unit: subject.what.unit(),
        min: sorted[0],
        max: sorted[sorted.len() - 1],
        ended_by: values.last().and_then(|value| value.full),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use stratos_api::ApiError;

    use super::*;

    #[test]
    fn rows_are_as_promised() {
        let subject = Subject { what: What::FunctionsBeforeOom, zram: true, warm: true };
        let values = [9.0, 11.0, 10.0].map(|value| Value { value, full: Some(Full::NoRoom) });
        assert_eq!(
            serde_json::to_string(&row(subject, &values)).unwrap(),
            r#"{"bench":"memory","what":"functions-before-oom","zram":true,"warm":true,"n":3,"value":10.0,"unit":"functions","min":9.0,"max":11.0,"ended_by":"no-room"}"#
        );
        let subject = Subject { what: What::FirstNodeStart, zram: true, warm: false };
        let row = serde_json::to_value(row(subject, &[Value { value: 1.5, full: None }])).unwrap();
        assert_eq!((&row["what"], &row["unit"]), (&"first-node-start".into(), &"ms".into()));
        assert!(row.get("ended_by").is_none());
    }

    #[test]
    fn each_subject_has_its_configuration() {
        let config = |zram, warm| Subject { what: What::FirstNodeStart, zram, warm }.config().memory;
        assert_eq!(config(true, true), NodeConfig::default().memory);
        assert_eq!(config(false, true).zram, 0);
        assert!(!config(true, false).warm);
    }

    #[test]
    fn only_lack_of_memory_ends_a_run_well() {
        let failed = |code| Err(anyhow::Error::new(ApiError::new(code, "so")).context("invoke hold"));
        assert_eq!(why_ended(failed(ErrorCode::FunctionOutOfMemory)).unwrap(), Full::OutOfMemory);
        let error = why_ended(failed(ErrorCode::FunctionCrashed)).unwrap_err();
        assert_eq!(format!("{error:#}"), "a function that held memory ended: invoke hold: so");
        assert!(why_ended(Err(anyhow!("no connection"))).is_err());
    }
}
