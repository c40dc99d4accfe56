//! `isolation`: the latency of a function on reserved CPUs, idle and beside functions that take all the CPU time they
//! can get. In a virtual machine with two CPUs, one of them reserved.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Serialize;
use stratos_api::node::NodeStatus;
use stratos_tests::Package;
use stratos_types::{KernelChoice, NodeConfig};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::guest::{self, Answer, BOOT_LIMIT, Guest, Hardware, Loading, Prepared, SETTLE};
use crate::interrupt::Interrupt;
use crate::output::{JsonLines, Progress, table};
use crate::stats::{Sample, ms};

/// The reserved CPU; CPU 0 is left to the node and all other functions.
const RESERVED: &str = "1";
const SHARED: &str = "0";
/// Requests of one subject before the next one's turn.
const BLOCK: usize = 50;
/// Functions that take all the CPU time they can get.
const HOG: &str = "hog";
const HOGS: usize = 4;
/// How long each request keeps one busy. The run waits for the last ones of a block.
const HOG_SECONDS: u32 = 3;
/// How long a hog's answer may take.
const HOG_LIMIT: Duration = Duration::from_secs(300);
/// Between two looks whether they run.
const LOOK: Duration = Duration::from_millis(200);

/// Settings of `isolation`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Requests to each subject.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    n: u32,

    /// Rounds of the loop that each request is to run.
    #[arg(long, value_name = "N", default_value_t = 2000)]
    work: u32,

    /// Kernel of the machine.
    #[arg(long, default_value_t = KernelChoice::Debian)]
    kernel: KernelChoice,

    /// Memory of the machine.
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(256..))]
    memory: u64,

    /// File for the rows, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// On which CPUs a function runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Class {
    Reserved,
    Shared,
}

/// What else runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Load {
    Idle,
    Hogs,
}

/// What was measured of one function beside one load.
struct Measured {
    class: Class,
    load: Load,
    /// On the client's clock.
    totals: Vec<Duration>,
    /// The function's own share, on the node's.
    handlers: Vec<Duration>,
}

#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    subject: Class,
    load: Load,
    n: usize,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    handler_p50_ms: f64,
    handler_p95_ms: f64,
    handler_p99_ms: f64,
}

impl Class {
    fn function(self) -> &'static str {
        match self {
            Self::Reserved => "work-reserved",
            Self::Shared => "work-shared",
        }
    }

    fn package(self) -> Package {
        let package = Package::python(self.function(), include_str!("../fixtures/work.py"));
        match self {
            Self::Reserved => {
                package.setting("cpu_class = \"reserved\"\nmemory = \"64MB\"\ncheckpoint = \"off\"")
            }
            Self::Shared => package.setting("memory = \"64MB\"\ncheckpoint = \"off\""),
        }
    }
}

/// Measures both functions, idle and beside hogs, in turns.
///
/// # Errors
/// When anything does not boot, serve or end as it should, or no CPU is reserved.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut rows = JsonLines::create(options.json.as_deref())?;
    let tokio = tokio::runtime::Runtime::new()?;
    let interrupt = Interrupt::listen(&tokio)?;
    let measured = tokio.block_on(interrupt.or(measure(options)));
    report(&measured?, &mut rows)
}

async fn measure(options: &Options) -> Result<Vec<Measured>> {
    // A CPU that waits for its turn behind another one's hog would be measured as interference.
    let hardware = Hardware { parallel: true, ..guest::hardware(2, options.memory).await? };
    let mut config = NodeConfig::default();
    config.cpu.reserved = Some(RESERVED.to_owned());
    eprintln!("preparing StratOS with the {} kernel", options.kernel);
    let hog = Package::python(HOG, include_str!("../fixtures/hog.py"))
        .setting("memory = \"64MB\"\ntimeout = \"5m\"\ncheckpoint = \"off\"");
    let packages = [Class::Reserved.package(), Class::Shared.package(), hog];
    let nothing = async |_: &Guest| Ok(());
    let prepared = Prepared::new(options.kernel, hardware, &config, &packages, nothing).await?;
    let guest = prepared.boot(Loading::COMMON, hardware, &config).await?;
    guest.running.ready(BOOT_LIMIT).await?;
    let measured = in_turns(&guest, options).await;
    measured.with_context(|| guest.console())
}

async fn in_turns(guest: &Guest, options: &Options) -> Result<Vec<Measured>> {
    check_reserved(guest).await?;
    let payload = format!("{{\"rounds\":{}}}", options.work);
    let mut measured: Vec<Measured> = [Load::Idle, Load::Hogs]
        .into_iter()
        .flat_map(|load| [Class::Reserved, Class::Shared].map(|class| (class, load)))
        .map(|(class, load)| Measured { class, load, totals: Vec::new(), handlers: Vec::new() })
        .collect();
    // Their start does not count. Their answer tells whether they run where they should.
    for class in [Class::Reserved, Class::Shared] {
        let answer = guest.invoke(class.function(), &payload).await?;
        on_cpus(&answer, class)?;
    }
    sleep(SETTLE).await;
    let n = options.n as usize;
    let progress = Progress::new("request", n);
    while measured[0].totals.len() < n {
        let block = BLOCK.min(n - measured[0].totals.len());
        let (idle, loaded) = measured.split_at_mut(2);
        for measured in idle {
            measured.block(guest, &payload, block).await?;
        }
        let hogs = Hogs::start(guest).await?;
        for measured in loaded {
            measured.block(guest, &payload, block).await?;
        }
        hogs.stop().await?;
        progress.done(measured[0].totals.len());
    }
    Ok(measured)
}

/// That CPUs are reserved at all; without, all that follows would be measured of something else.
async fn check_reserved(guest: &Guest) -> Result<()> {
    let node: NodeStatus = guest.get(stratos_api::path::NODE).await?;
    let init = node.init.context("the node does not say what its machine is able to do")?;
    let ability = init.abilities.iter().find(|ability| ability.name == "reserved CPUs");
    let ability = ability.context("the node does not say whether it has reserved CPUs")?;
    ensure!(ability.available, "the node has no reserved CPUs: {}", ability.detail);
    Ok(())
}

/// That a function may run on the CPUs of its class, and no others.
fn on_cpus(answer: &Answer, class: Class) -> Result<()> {
    let expected = format!("[{}]", if class == Class::Reserved { RESERVED } else { SHARED });
    ensure!(answer.body == expected, "{class:?} functions run on {}", answer.body.escape_ascii());
    Ok(())
}

impl Measured {
    async fn block(&mut self, guest: &Guest, payload: &str, requests: usize) -> Result<()> {
        let mut connection = guest.connect().await?;
        for _ in 0..requests {
            let answer = guest.ask_on(&mut connection, self.class.function(), payload).await?;
            ensure!(!answer.fresh, "{} had lost its instance", self.class.function());
            self.totals.push(answer.took);
            self.handlers.push(answer.phases.handler);
        }
        Ok(())
    }
}

/// Functions that take all the CPU time they can get. Their requests are given up when dropped.
struct Hogs {
    tasks: JoinSet<Result<()>>,
    enough: Arc<AtomicBool>,
}

impl Hogs {
    /// Starts them and waits until all run.
    async fn start(guest: &Guest) -> Result<Self> {
        let enough = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for _ in 0..HOGS {
            let (asker, enough) = (guest.asker(), Arc::clone(&enough));
            tasks.spawn(async move {
                while !enough.load(Ordering::Relaxed) {
                    let payload = format!("{{\"seconds\":{HOG_SECONDS}}}");
                    on_cpus(&asker.ask(HOG, &payload, HOG_LIMIT).await?, Class::Shared)?;
                }
                Ok(())
            });
        }
        let mut hogs = Self { tasks, enough };
        while guest.busy(HOG).await? < HOGS {
            hogs.check()?;
            sleep(LOOK).await;
        }
        Ok(hogs)
    }

    fn check(&mut self) -> Result<()> {
        match self.tasks.try_join_next() {
            Some(ended) => ended?.context("a hog ended"),
            None => Ok(()),
        }
    }

    /// Lets them end.
    async fn stop(mut self) -> Result<()> {
        self.enough.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended?.context("a hog ended")?;
        }
        Ok(())
    }
}

fn report(measured: &[Measured], json: &mut JsonLines) -> Result<()> {
    let head = ["function", "beside", "n", "p50", "p95", "p99", "handler, p50", "p95", "p99"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for measured in measured {
        let row = row(measured);
        json.add(&row)?;
        let class = if row.subject == Class::Reserved { "reserved CPU" } else { "shared CPU" };
        let load = if row.load == Load::Idle { "nothing".to_owned() } else { format!("{HOGS} hogs") };
        let mut line = vec![class.to_owned(), load, row.n.to_string()];
        let times =
            [row.p50_ms, row.p95_ms, row.p99_ms, row.handler_p50_ms, row.handler_p95_ms, row.handler_p99_ms];
        line.extend(times.map(|ms| format!("{ms:.2}")));
        lines.push(line);
    }
    println!(
        "a request to a function on the client's clock, and the function's own share on the node's, ms:\n"
    );
    println!("{}", table(&lines));
    Ok(())
}

fn row(measured: &Measured) -> Row {
    let (totals, handlers) = (Sample::new(measured.totals.clone()), Sample::new(measured.handlers.clone()));
    let [p50_ms, p95_ms, p99_ms] = [50, 95, 99].map(|percent| ms(totals.quantile(percent)));
    let [handler_p50_ms, handler_p95_ms, handler_p99_ms] =
        [50, 95, 99].map(|percent| ms(handlers.quantile(percent)));
    Row {
        bench: "isolation",
        subject: measured.class,
        load: measured.load,
        n: totals.len(),
        p50_ms,
        p95_ms,
        p99_ms,
        handler_p50_ms,
        handler_p95_ms,
        handler_p99_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_as_promised() {
        let times = |factor: u64| (1..=100).map(|ms| Duration::from_millis(factor * ms)).collect();
        let measured =
            Measured { class: Class::Reserved, load: Load::Hogs, totals: times(2), handlers: times(1) };
        assert_eq!(
            serde_json::to_string(&row(&measured)).unwrap(),
            r#"{"bench":"isolation","subject":"reserved","load":"hogs","n":100,"p50_ms":100.0,"p95_ms":190.0,"p99_ms":198.0,"handler_p50_ms":50.0,"handler_p95_ms":95.0,"handler_p99_ms":99.0}"#
        );
    }
}
