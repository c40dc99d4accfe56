//! `make run`: a node, the three example functions, each called cold and warm, one table, everything cleaned up.

use anyhow::{Context as _, ensure};
use stratos_api::{InvocationRecord, Phases};
use stratos_tests::{Answer, Node, Package, package};

/// Warm calls of each function; the fastest is shown, since this machine may be busy with other things.
const WARM_CALLS: usize = 20;

const EVENT: &str = r#"{"name":"newcomer"}"#;

struct Row {
    function: String,
    runtime: String,
    cold: Phases,
    warm: Phases,
    answer: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "instances need root; `make run` takes care of that");
    let native = std::fs::read(package::native_example()?)?;
    let examples = [
        Package::folder("examples/hello-node"),
        Package::folder("examples/hello-python"),
        Package::folder("examples/hello-native").executable("bootstrap", native),
    ];
    eprintln!("starting a node");
    let mut node = Node::start().await;
    let mut rows = Vec::new();
    for example in &examples {
        let version = node.deploy(example).await;
        let name = version.spec.parse::<toml::Table>()?["name"].as_str().unwrap_or_default().to_owned();
        eprintln!("deployed {name}");
        rows.push(run(&node, &name, version.runtime).await?);
    }
    for line in node.log().lines().filter(|l| l.contains("WARN")) {
        eprintln!("{line}");
    }
    node.stop();
    print(&rows);
    Ok(())
}

async fn run(node: &Node, name: &str, runtime: String) -> anyhow::Result<Row> {
    let cold = node.invoke(name, EVENT).await;
    check(name, &cold)?;
    let first = newest(node, name).await?;
    ensure!(first.cold, "{name}: the first call was not cold");
    let mut fastest: Option<InvocationRecord> = None;
    for _ in 0..WARM_CALLS {
        check(name, &node.invoke(name, EVENT).await)?;
        let record = newest(node, name).await?;
        ensure!(!record.cold, "{name}: a second call was cold");
        if fastest.as_ref().is_none_or(|f| record.phases.total_us < f.phases.total_us) {
            fastest = Some(record);
        }
    }
    let warm = fastest.context("at least one warm call")?.phases;
    Ok(Row { function: name.into(), runtime, cold: first.phases, warm, answer: cold.text() })
}

async fn newest(node: &Node, name: &str) -> anyhow::Result<InvocationRecord> {
    node.records(name).await.into_iter().next().with_context(|| format!("{name}: no record"))
}

fn check(name: &str, answer: &Answer) -> anyhow::Result<()> {
    ensure!(answer.status == 200, "{name}: {} {}", answer.status, answer.text());
    Ok(())
}

fn print(rows: &[Row]) {
    let ms = |us: u64| format!("{:.2}", us as f64 / 1000.0);
    let head = [
        "function", "runtime", "queue", "sandbox", "runtime", "init", "handler", "cold ms", "warm ms",
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
            9 => cell.clone(),
            _ => format!("{cell:>width$}"),
        });
        println!("{}", cells.collect::<Vec<_>>().join("  "));
    }
}
