//! `make run`: StratOS in a virtual machine, the three example functions, each called cold, warm and, where it can be,
//! restored from a checkpoint; one table, everything gone again. Needs no root.

use std::process::ExitCode;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http::Method;
use stratos_api::client::Call;
use stratos_api::{FunctionDetail, InvocationRecord, Phases, path};
use stratos_tests::{Answer, Guest, Package, Workshop, package};
use stratos_types::KernelChoice;
use stratos_vm::{Accelerator, VmError};

/// Warm calls of each function; the fastest is shown, since this machine may be busy with other things.
const WARM_CALLS: usize = 10;

/// How long a checkpoint may take to be made: an emulated Node.js starts in three seconds.
const CHECKPOINT: Duration = Duration::from_secs(120);
/// Pause between two looks whether it is there.
const LOOK: Duration = Duration::from_millis(200);

const EVENT: &str = r#"{"name":"newcomer"}"#;

struct Row {
    function: String,
    runtime: String,
    cold: Phases,
    warm: Phases,
    /// Nothing where there is no checkpoint.
    restored: Option<Phases>,
    answer: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Err(error) = run().await else { return ExitCode::SUCCESS };
    eprintln!("error: {error:#}");
    if let Some(hint) = error.downcast_ref::<VmError>().and_then(VmError::hint) {
        eprintln!("hint: {hint}");
    }
    ExitCode::FAILURE
}

async fn run() -> anyhow::Result<()> {
    let native = std::fs::read(package::native_example()?)?;
    let examples = [
        Package::folder("examples/hello-node"),
        Package::folder("examples/hello-python"),
        Package::folder("examples/hello-native").executable("bootstrap", native),
    ];
    let workshop = Workshop::find(KernelChoice::Debian).await?;
    let kernel = &workshop.image().manifest().kernel_version;
    eprintln!("booting StratOS in a virtual machine (kernel {kernel}, {})", workshop.accelerator());
    let guest = workshop.try_boot(workshop.machine()).await?;
    let ready = guest.ready.context("a boot ends with its line")?;
    eprintln!(
        "ready {:.1} s after power-on: kernel {:.1} s, PID 1 and services {:.1} s",
        ready.at.as_secs_f64(),
        ready.kernel.as_secs_f64(),
        ready.since_kernel.saturating_sub(ready.kernel).as_secs_f64()
    );
    let mut rows = Vec::new();
    for example in &examples {
        let version = guest.deploy(example).await;
        let name = version.spec.parse::<toml::Table>()?["name"].as_str().unwrap_or_default().to_owned();
        eprintln!("deployed {name}");
        rows.push(call(&guest, &name, version.runtime, example).await?);
    }
    let status = guest.power_off().await;
    ensure!(status.success(), "QEMU ended ({status})");
    eprintln!("the machine is off");
    if workshop.accelerator() == Accelerator::Emulation {
        println!("\nemulated: this computer has no usable KVM, so software runs every instruction");
    }
    print(&rows);
    Ok(())
}

async fn call(guest: &Guest, name: &str, runtime: String, example: &Package) -> anyhow::Result<Row> {
    let cold = guest.invoke(name, EVENT).await;
    check(name, &cold)?;
    let first = newest(guest, name).await?;
    ensure!(first.cold, "{name}: the first call was not cold");
    let mut fastest: Option<InvocationRecord> = None;
    for _ in 0..WARM_CALLS {
        check(name, &guest.invoke(name, EVENT).await)?;
        let record = newest(guest, name).await?;
        ensure!(!record.cold, "{name}: a second call was cold");
        if fastest.as_ref().is_none_or(|f| record.phases.total_us < f.phases.total_us) {
            fastest = Some(record);
        }
    }
    let warm = fastest.context("at least one warm call")?.phases;
    // A new version has no instances yet: its first call needs one, as the very first did.
    guest.deploy(example).await;
    let restored = if has_checkpoint(guest, name).await? {
        check(name, &guest.invoke(name, EVENT).await)?;
        let record = newest(guest, name).await?;
        ensure!(record.restored, "{name}: the first call after the checkpoint was not restored");
        Some(record.phases)
    } else {
        None
    };
    Ok(Row { function: name.into(), runtime, cold: first.phases, warm, restored, answer: cold.text() })
}

/// Waits until the checkpoint of a function is made. False where there is none.
async fn has_checkpoint(guest: &Guest, name: &str) -> anyhow::Result<bool> {
    let begun = Instant::now();
    loop {
        let answer = guest.call(Call::new(Method::GET, path::FUNCTION.replace("{name}", name), "")).await;
        let detail: FunctionDetail = serde_json::from_slice(&answer.body)?;
        match detail.checkpoint.state.as_str() {
            "ready" => return Ok(true),
            "making" => ensure!(begun.elapsed() < CHECKPOINT, "{name}: its checkpoint is not made"),
            _ => return Ok(false),
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn newest(guest: &Guest, name: &str) -> anyhow::Result<InvocationRecord> {
    guest.records(name).await.into_iter().next().with_context(|| format!("{name}: no record"))
}

fn check(name: &str, answer: &Answer) -> anyhow::Result<()> {
    ensure!(answer.status == 200, "{name}: {} {}", answer.status, answer.text());
    Ok(())
}

fn print(rows: &[Row]) {
    let ms = |us: u64| format!("{:.2}", us as f64 / 1000.0);
    let head = [
        "function",
        "runtime",
        "queue",
        "sandbox",
        "runtime",
        "init",
        "handler",
        "cold ms",
        "restored ms",
        "warm ms",
        "answer",
    ];
    let mut table = vec![head.map(str::to_owned)];
    for row in rows {
        let c = &row.cold;
        table.push([
            row.function.clone(),
            row.runtime.clone(),
            ms(c.queue_us),
            ms(c.sandbox_us),
            ms(c.runtime_us),
            ms(c.init_us),
            ms(c.handler_us),
            ms(c.total_us),
            row.restored.as_ref().map_or_else(|| "-".to_owned(), |phases| ms(phases.total_us)),
            ms(row.warm.total_us),
            row.answer.clone(),
        ]);
    }
    let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    println!();
    for row in &table {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 | 1 => format!("{cell:<width$}"),
            10 => cell.clone(),
            _ => format!("{cell:>width$}"),
        });
        println!("{}", cells.collect::<Vec<_>>().join("  "));
    }
}
