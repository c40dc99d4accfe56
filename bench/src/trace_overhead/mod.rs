//! `trace-overhead`: what it costs that the kernel is asked about instances.
//!
//! In each round a node runs without programs and another with them, one after the other, for what is in the kernel is
//! there for all: programs of one node would be paid for by the other. A window is opened on the second.

mod cpu;
mod spin;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use stratos_api::NodeFeatures;

use self::cpu::{Used, cgroup_of};
pub(crate) use self::spin::{ARGUMENT as SPIN, spin};
use crate::fixture::{ANSWER, Fixture, Mode as Start, Runtime};
use crate::http::{Connection, PATIENCE, request};
use crate::interrupt::Interrupt;
use crate::node::{Stratos, check};
use crate::output::{JsonLines, Progress, Promise, promises, table};

/// Requests before those that count.
const WARM_UP: u32 = 1000;
/// Connections that ask at a time: more than the machine has processors.
const CLIENTS: u32 = 4;
/// Groups of programs that a kernel with BTF takes.
const GROUPS: [&str; 5] = ["lifecycle", "scheduler", "faults", "network", "syscalls"];

/// Settings of `trace-overhead`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds, each with every load in every mode.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,

    /// Requests to each server in a round.
    #[arg(long, value_name = "N", default_value_t = 8000, value_parser = clap::value_parser!(u32).range(4..))]
    requests: u32,

    /// File for the rows, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is in the kernel meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Off,
    On,
    Window,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Window => "window",
        }
    }
}

/// What is done meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Load {
    NodeHttp,
    PythonHttp,
    Getppid,
    GetppidOutside,
}

impl Load {
    const ALL: [Self; 4] = [Self::NodeHttp, Self::PythonHttp, Self::Getppid, Self::GetppidOutside];

    const fn name(self) -> &'static str {
        match self {
            Self::NodeHttp => "node-http",
            Self::PythonHttp => "python-http",
            Self::Getppid => "getppid",
            Self::GetppidOutside => "getppid-outside",
        }
    }

    /// The server, for loads of HTTP; the loop runs beside the first one's process.
    const fn runtime(self) -> Option<Runtime> {
        match self {
            Self::NodeHttp => Some(Runtime::Node24),
            Self::PythonHttp => Some(Runtime::Python313),
            Self::Getppid | Self::GetppidOutside => None,
        }
    }
}

#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    load: &'static str,
    mode: &'static str,
    /// CPU time of instance and agent for a request, or of the process for a call: the median of the rounds, us.
    cpu_us: f64,
    min_us: f64,
    p50_us: f64,
    p95_us: f64,
    /// Rounds.
    n: usize,
    /// Requests or calls a round.
    of: u64,
    /// The instance's share of `cpu_us`.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_us: Option<f64>,
    /// What ran in the kernel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    programs: Vec<String>,
}

/// CPU time of one round for one request or call, us: all of it, and the instance's.
type Cost = (f64, f64);

/// Runs the benchmark.
///
/// # Errors
/// When a request fails, or a group of programs that this kernel supports is not attached.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut rows = JsonLines::create(options.json.as_deref())?;
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let interrupt = Interrupt::listen(&tokio)?;
    let progress = Progress::new("round", options.n as usize);
    let mut measured: BTreeMap<(Load, Mode), Vec<Cost>> = BTreeMap::new();
    let mut programs = Vec::new();
    for round in 0..options.n {
        let turns: [&[Mode]; 2] = [&[Mode::Off], &[Mode::On, Mode::Window]];
        for turn in 0..2 {
            let modes = turns[(turn + round as usize) % 2];
            let bench = Round { options, tokio: &tokio, interrupt: &interrupt };
            let (costs, attached) = bench.run(modes)?;
            for (key, cost) in costs {
                measured.entry(key).or_default().push(cost);
            }
            if modes.contains(&Mode::On) {
                programs = attached;
            }
        }
        progress.done(round as usize + 1);
    }
    drop(progress);
    report(options, &measured, &programs, &mut rows)
}

/// One node's part of a round.
struct Round<'a> {
    options: &'a Options,
    tokio: &'a tokio::runtime::Runtime,
    interrupt: &'a Interrupt,
}

type Costs = Vec<((Load, Mode), Cost)>;

impl Round<'_> {
    fn run(&self, modes: &[Mode]) -> Result<(Costs, Vec<String>)> {
        let trace = if modes.contains(&Mode::Off) { "off" } else { "on" };
        let node = Stratos::start(self.tokio, false, &["--trace", trace])?;
        let measured = self.measure(&node, modes);
        // First the node, so that its traces are gone whatever came before.
        node.stop();
        measured
    }

    fn measure(&self, node: &Stratos, modes: &[Mode]) -> Result<(Costs, Vec<String>)> {
        let programs = if modes.contains(&Mode::Off) { Vec::new() } else { attached(node)? };
        let mut costs = Vec::new();
        for load in Load::ALL {
            if let Some(runtime) = load.runtime() {
                let package = runtime.server_package(Fixture::Hello, load.name(), Start::Fresh);
                let settings = format!("concurrency = {CLIENTS}\nmax_instances = 1");
                node.deploy(self.tokio, &package.setting(&settings))?;
                node.cold(&url(load), ANSWER, "fresh")?;
                ask(node, load, WARM_UP)?;
            }
        }
        for mode in modes {
            for load in Load::ALL {
                self.interrupt.check()?;
                // The loop's process runs in this function's cgroup, and so in its window.
                let function = load.runtime().map_or(Load::NodeHttp, |_| load);
                let window = (*mode == Mode::Window).then(|| Window::open(node, function)).transpose()?;
                let cost = match load.runtime() {
                    Some(_) => self.http(node, load),
                    None => spin::run(
                        (load == Load::Getppid)
                            .then(|| cgroup_of(node, Load::NodeHttp.name()))
                            .transpose()?,
                    ),
                };
                costs.push(((load, *mode), cost?));
                window.map_or(Ok(()), Window::close)?;
            }
        }
        Ok((costs, programs))
    }

    /// CPU time of instance and agent for a request at full load.
    fn http(&self, node: &Stratos, load: Load) -> Result<Cost> {
        let cgroup = cgroup_of(node, load.name())?;
        let before = Used::of(node, &cgroup)?;
        ask(node, load, self.options.requests)?;
        let used = Used::of(node, &cgroup)?.since(before);
        let each = f64::from(self.options.requests);
        Ok(((used.instance_us + used.agent_us) / each, used.instance_us / each))
    }
}

fn url(load: Load) -> Vec<u8> {
    request("GET", &format!("/f/{}/", load.name()), b"")
}

/// Sends requests over as many connections as there are clients, each as fast as it is answered.
fn ask(node: &Stratos, load: Load, requests: u32) -> Result<()> {
    let client = |connection: Result<Connection>| {
        let (mut connection, url) = (connection?, url(load));
        for _ in 0..requests / CLIENTS {
            check(connection.send(&url)?, ANSWER, "warm").with_context(|| load.name())?;
        }
        anyhow::Ok(())
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| client(node.connect()))).collect();
        clients.into_iter().try_for_each(|client| client.join().expect("a client does not panic"))
    })
}

/// The programs that are attached or can be; an error when a group is missing.
fn attached(node: &Stratos) -> Result<Vec<String>> {
    let begun = Instant::now();
    let features: NodeFeatures = loop {
        let answer = node.connect()?.send(&request("GET", stratos_api::path::NODE_FEATURES, b""))?.ok()?;
        let features: NodeFeatures = serde_json::from_slice(&answer.body)?;
        if features.tracing == "ready" {
            break features;
        }
        ensure!(
            features.tracing == "loading" && begun.elapsed() < PATIENCE,
            "tracing is {}",
            features.tracing
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    for name in GROUPS {
        match features.groups.iter().find(|group| group.name == name) {
            None => bail!("the group `{name}` of programs is missing"),
            Some(group) if group.state == "refused" => {
                bail!("the group `{name}` of programs is refused: {}", group.reason.as_deref().unwrap_or("-"))
            }
            Some(_) => {}
        }
    }
    let groups = features.groups.into_iter().flat_map(|group| group.programs);
    Ok(groups.collect())
}

/// An open window, and who waits for its end.
struct Window<'a> {
    node: &'a Stratos,
    path: String,
    waits: std::thread::JoinHandle<Result<()>>,
}

impl<'a> Window<'a> {
    fn open(node: &'a Stratos, load: Load) -> Result<Self> {
        let path = format!("/v1/functions/{}/trace", load.name());
        let (mut connection, open) = (node.connect()?, request("POST", &format!("{path}?for=5m"), b""));
        let waits = std::thread::spawn(move || connection.send(&open)?.ok().map(drop));
        let begun = Instant::now();
        while !Self::is_open(node, load)? {
            ensure!(begun.elapsed() < PATIENCE && !waits.is_finished(), "no window is opened");
        }
        Ok(Self { node, path, waits })
    }

    /// The record of a request tells.
    fn is_open(node: &Stratos, load: Load) -> Result<bool> {
        let mut connection = node.connect()?;
        connection.send(&url(load))?.ok()?;
        let records = request("GET", &format!("/v1/functions/{}/invocations?limit=1", load.name()), b"");
        let records: Vec<stratos_api::InvocationRecord> =
            serde_json::from_slice(&connection.send(&records)?.ok()?.body)?;
        Ok(records.first().and_then(|record| record.kernel?.syscalls).is_some())
    }

    fn close(self) -> Result<()> {
        let answer = self.node.connect()?.send(&request("DELETE", &self.path, b""))?;
        ensure!(answer.status == 204, "the window does not end: {}", answer.text());
        self.waits.join().expect("it does not panic")
    }
}

fn report(
    options: &Options,
    measured: &BTreeMap<(Load, Mode), Vec<Cost>>,
    programs: &[String],
    json: &mut JsonLines,
) -> Result<()> {
    let head = ["load", "mode", "n", "min", "p50", "p95", "to off"].map(str::to_owned).to_vec();
    let (mut lines, mut kept) = (vec![head], Vec::new());
    for ((load, mode), costs) in measured {
        let row = row(options, *load, *mode, costs, programs);
        let off =
            measured.get(&(*load, Mode::Off)).map(|costs| quantile(costs.iter().map(|cost| cost.0), 50));
        let more = off.map_or(0.0, |off| (row.p50_us / off - 1.0) * 100.0);
        json.add(&row)?;
        let mut line = vec![row.load.to_owned(), row.mode.to_owned(), row.n.to_string()];
        line.extend([row.min_us, row.p50_us, row.p95_us].map(|us| format!("{us:.3}")));
        line.push(format!("{more:+.1} %"));
        lines.push(line);
        if *mode == Mode::On {
            kept.push((*load, more));
        }
    }
    println!("CPU time for a request or a call, us:\n\n{}", table(&lines));
    println!("attached: {}\n", programs.join(", "));
    let promise = |(load, more): &(Load, f64)| Promise {
        what: load.name(),
        measured: *more,
        limit: 5.0,
        unit: "% more than off",
    };
    println!("{}", promises(&kept.iter().map(promise).collect::<Vec<_>>()));
    Ok(())
}

fn row(options: &Options, load: Load, mode: Mode, costs: &[Cost], programs: &[String]) -> Row {
    let all = || costs.iter().map(|cost| cost.0);
    let is_http = load.runtime().is_some();
    Row {
        bench: "trace-overhead",
        load: load.name(),
        mode: mode.name(),
        cpu_us: quantile(all(), 50),
        min_us: quantile(all(), 1),
        p50_us: quantile(all(), 50),
        p95_us: quantile(all(), 95),
        n: costs.len(),
        of: if is_http { u64::from(options.requests) } else { spin::CALLS },
        instance_us: is_http.then(|| quantile(costs.iter().map(|cost| cost.1), 50)),
        programs: if mode == Mode::Off { Vec::new() } else { programs.to_vec() },
    }
}

/// The quantile at the nearest rank.
fn quantile(values: impl Iterator<Item = f64>, percent: usize) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let rank = (values.len() * percent).div_ceil(100).max(1);
    (values[rank - 1] * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measured_values() {
        let values = || [3.0, 1.0, 2.0].into_iter();
        assert_eq!([1, 50, 95].map(|percent| quantile(values(), percent)), [1.0, 2.0, 3.0]);
    }
}
