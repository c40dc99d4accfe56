//! `density`: the memory of an idle instance that has served one request.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Serialize;
use stratos_tests::Package;

use crate::fixture::Mode;
use crate::http::{PATIENCE, request};
use crate::interrupt::Interrupt;
use crate::node::Stratos;
use crate::output::{JsonLines, Promise, promises, table};

/// Holds every request until all are there, so that each needs an instance of its own.
const HANDLER: &str = "exports.handler = async (event) => { \
                       await new Promise((go) => setTimeout(go, Math.max(0, event.until - Date.now()))); \
                       return event.until; };\n";
/// How long all requests of a mode may take to arrive.
const TOGETHER: Duration = Duration::from_secs(20);
/// What the kernel may take to tell the truth about memory that was freed.
const SETTLE: Duration = Duration::from_secs(2);

/// Settings of `density`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Instances of each mode.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100))]
    instances: u32,

    /// File for the rows, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    mode: &'static str,
    n: u32,
    kb_each: u64,
}

/// Runs the benchmark.
///
/// # Errors
/// When the agent is missing, or a request fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut json = JsonLines::create(options.json.as_deref())?;
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let interrupt = Interrupt::listen(&tokio)?;
    let mut rows = Vec::new();
    for mode in [Mode::Checkpoint, Mode::Held, Mode::Fresh] {
        interrupt.check()?;
        eprintln!("{}: {} instances", mode.name(), options.instances);
        let node = Stratos::start(&tokio, false, &[])?;
        let measured = measure(&node, &tokio, mode, options.instances);
        node.stop();
        rows.push(Row { bench: "density", mode: mode.name(), n: options.instances, kb_each: measured? });
    }
    report(&rows, &mut json)
}

/// KiB that each instance takes of what is available.
fn measure(node: &Stratos, tokio: &tokio::runtime::Runtime, mode: Mode, count: u32) -> Result<u64> {
    let held = if mode == Mode::Held { count } else { 0 };
    let checkpoint = if mode == Mode::Fresh { "off" } else { "required" };
    let toml = format!(
        "name = \"idle\"\nruntime = \"node24\"\nhandler = \"index.handler\"\nmemory = \"128MB\"\ntimeout = \"60s\"\n\
         max_instances = {}\ncheckpoint = \"{checkpoint}\"\nheld = {held}\n",
        count + 1
    );
    let package = Package::new().file("stratos.toml", toml).file("index.js", HANDLER);
    let before_held = available_kb()?;
    node.deploy(tokio, &package)?;
    if mode != Mode::Fresh {
        node.wait_for_checkpoint("idle")?;
    }
    if mode == Mode::Held {
        // They are restored one after the other; the processes tell when all are there.
        node.wait_for_children(count)?;
        return Ok(before_held.saturating_sub(available_kb()?) / u64::from(count));
    }
    // The first one builds what all share.
    ask(node, 1, Duration::ZERO)?;
    std::thread::sleep(SETTLE);
    let before = available_kb()?;
    ask(node, count + 1, TOGETHER)?;
    std::thread::sleep(SETTLE);
    Ok(before.saturating_sub(available_kb()?) / u64::from(count))
}

/// Sends requests at the same time, all of which are answered `wait` from now.
fn ask(node: &Stratos, count: u32, wait: Duration) -> Result<()> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let event = format!("{{\"until\":{}}}", (now + wait).as_millis());
    let request = request("POST", "/v1/functions/idle/invoke", event.as_bytes());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let asked: Vec<_> =
            (0..count).map(|_| scope.spawn(|| node.connect()?.send(&request)?.ok().map(drop))).collect();
        asked.into_iter().try_for_each(|asked| asked.join().expect("a request does not panic"))
    })?;
    ensure!(begun.elapsed() < wait + PATIENCE, "the requests took {:?}", begun.elapsed());
    Ok(())
}

/// Memory that could be had without swapping, in KiB (proc_meminfo(5)).
fn available_kb() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("no MemAvailable")?;
    line.trim().trim_end_matches(" kB").parse().context("MemAvailable is no number")
}

fn report(rows: &[Row], json: &mut JsonLines) -> Result<()> {
    let mut lines = vec![["mode", "n", "KiB each"].map(str::to_owned).to_vec()];
    for row in rows {
        json.add(row)?;
        lines.push(vec![row.mode.to_owned(), row.n.to_string(), row.kb_each.to_string()]);
    }
    println!("memory of an idle Node.js instance:\n\n{}", table(&lines));
    let checkpoint =
        rows.iter().find(|row| row.mode == Mode::Checkpoint.name()).context("no row of checkpoints")?;
    let measured = checkpoint.kb_each as f64 / 1024.0;
    println!(
        "{}",
        promises(&[Promise { what: "restored, one request served", measured, limit: 4.0, unit: "MB" }])
    );
    Ok(())
}
