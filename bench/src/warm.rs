//! `warm`: what the agent adds to a request that an instance is waiting for.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::bundle::Bundle;
use crate::fixture::{ANSWER, Fixture, HANDLER, Mode, Runtime, SERVER};
use crate::http::{Connection, request};
use crate::interrupt::Interrupt;
use crate::node::{Stratos, check};
use crate::output::{JsonLines, Promise, promises, table};
use crate::peers::Peer;
use crate::stats::{Sample, us};

/// Requests of one subject before the next one's turn.
const BLOCK: usize = 500;
/// Requests before those that count: the runtime compiles what it runs often.
const WARM_UP: usize = 1000;

/// Settings of `warm`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Requests to each subject.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,

    /// File for the rows, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Something to ask, on a kept connection.
struct Subject {
    name: &'static str,
    connection: Connection,
    request: Vec<u8>,
    answer: String,
    /// Whether the answer tells that it came from a warm instance.
    stratos: bool,
    times: Vec<Duration>,
    /// Time of all blocks, with what the client does between two requests.
    busy: Duration,
}

#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    subject: &'static str,
    n: usize,
    p50_us: f64,
    p95_us: f64,
    min_us: f64,
    rps: f64,
    /// Of the agent after all requests; the direct subject has no agent.
    agent_rss_kb: Option<u64>,
}

impl Subject {
    fn new(name: &'static str, connection: Connection, request: Vec<u8>, answer: String) -> Self {
        let stratos = name != "direct";
        Self { name, connection, request, answer, stratos, times: Vec::new(), busy: Duration::ZERO }
    }

    fn ask(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        let answer = self.connection.send(&self.request);
        let took = begun.elapsed();
        let checked = answer.and_then(|answer| match self.stratos {
            true => check(answer, &self.answer, "warm"),
            false => answer.ok(),
        });
        checked.with_context(|| format!("{}, request {}", self.name, self.times.len() + 1))?;
        Ok(took)
    }

    fn block(&mut self, requests: usize) -> Result<()> {
        let begun = Instant::now();
        for _ in 0..requests {
            let took = self.ask()?;
            self.times.push(took);
        }
        self.busy += begun.elapsed();
        Ok(())
    }

    fn forget(&mut self) {
        self.times.clear();
        self.busy = Duration::ZERO;
    }
}

/// Runs the benchmark.
///
/// # Errors
/// When any request fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut rows = JsonLines::create(options.json.as_deref())?;
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let interrupt = Interrupt::listen(&tokio)?;
    let node = Stratos::start(&tokio, false, &[])?;
    let measured = measure(options, &tokio, &interrupt, &node);
    // First the node, so that its traces are gone whatever came before.
    node.stop();
    let (subjects, rss_kb) = measured?;
    report(&subjects, rss_kb, &mut rows)
}

fn measure(
    options: &Options,
    tokio: &tokio::runtime::Runtime,
    interrupt: &Interrupt,
    node: &Stratos,
) -> Result<(Vec<Subject>, u64)> {
    let (runtime, fixture) = (Runtime::Node24, Fixture::Hello);
    let bundle = Bundle::unpack(runtime, fixture)?;
    node.deploy(tokio, &runtime.server_package(fixture, SERVER, Mode::Fresh))?;
    node.deploy(tokio, &runtime.handler_package(HANDLER, Mode::Fresh))?;
    bundle.add_function(&node.image(SERVER)?)?;
    let bare = Peer::Bare;
    let (mut server, port) = bare.serve(&bundle)?;
    let url = request("GET", &format!("/f/{SERVER}/"), b"");
    let invoke = request("POST", &format!("/v1/functions/{HANDLER}/invoke"), b"{}");
    // The first request of each starts its instance and is not warm.
    node.cold(&url, ANSWER, "fresh")?;
    node.cold(&invoke, &format!("\"{ANSWER}\""), "fresh")?;
    let mut subjects = [
        Subject::new("stratos", node.connect()?, url, ANSWER.into()),
        Subject::new("stratos-handler", node.connect()?, invoke, format!("\"{ANSWER}\"")),
        Subject::new("direct", server.connect(port)?, request("GET", "/", b""), ANSWER.into()),
    ];
    for subject in &mut subjects {
        subject.block(WARM_UP)?;
        subject.forget();
    }
    let n = usize::try_from(options.n)?;
    let (mut asked, mut round) = (0, 0);
    while asked < n {
        let requests = BLOCK.min(n - asked);
        for turn in 0..subjects.len() {
            interrupt.check()?;
            let at = (round + turn) % subjects.len();
            subjects[at].block(requests)?;
        }
        (asked, round) = (asked + requests, round + 1);
    }
    server.end()?;
    Ok((subjects.into(), node.rss_kb()?))
}

fn report(subjects: &[Subject], rss_kb: u64, json: &mut JsonLines) -> Result<()> {
    let rows: Vec<Row> = subjects.iter().map(|subject| row(subject, rss_kb)).collect();
    let find = |name| rows.iter().find(|row| row.subject == name);
    let (Some(url), Some(handler), Some(direct)) = (find("stratos"), find("stratos-handler"), find("direct"))
    else {
        bail!("a subject is missing")
    };
    let mut lines =
        vec![["subject", "n", "p50", "p95", "min", "req/s", "added p50"].map(str::to_owned).to_vec()];
    for row in &rows {
        json.add(row)?;
        let mut line = vec![row.subject.to_owned(), row.n.to_string()];
        line.extend([row.p50_us, row.p95_us, row.min_us, row.rps].map(|value| format!("{value:.0}")));
        line.push(format!("{:+.0}", row.p50_us - direct.p50_us));
        lines.push(line);
    }
    println!("warm requests one after the other on a kept connection, us:\n\n{}", table(&lines));
    let added = |row: &Row| (row.p50_us - direct.p50_us) / 1e3;
    println!(
        "{}",
        promises(&[
            Promise { what: "added to a $PORT server, p50", measured: added(url), limit: 0.25, unit: "ms" },
            Promise { what: "added to a handler, p50", measured: added(handler), limit: 0.7, unit: "ms" },
            Promise { what: "agent's memory", measured: rss_kb as f64 / 1024.0, limit: 30.0, unit: "MiB" },
        ])
    );
    Ok(())
}

fn row(subject: &Subject, rss_kb: u64) -> Row {
    let times = Sample::new(subject.times.clone());
    Row {
        bench: "warm",
        subject: subject.name,
        n: times.len(),
        p50_us: us(times.quantile(50)),
        p95_us: us(times.quantile(95)),
        min_us: us(times.min()),
        rps: (times.len() as f64 / subject.busy.as_secs_f64()).round(),
        agent_rss_kb: subject.stratos.then_some(rss_kb),
    }
}
