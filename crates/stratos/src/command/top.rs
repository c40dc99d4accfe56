//! `stratos top`: all functions, drawn anew every second.

use std::cmp::Ordering;
use std::io::{IsTerminal as _, Read as _};
use std::time::Duration;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use stratos_api::telemetry::{FunctionTelemetry, FunctionsTelemetry};
use stratos_api::{FunctionSummary, path};
use tokio::sync::oneshot;

use super::node_boot::width;
use super::signals::Signals;
use crate::args::{SortBy, TopArgs};
use crate::failure::{Failure, Result};
use crate::node::Node;
use crate::output::{Output, Table, ms, shown, size};

/// How often it is drawn anew.
const PERIOD: Duration = Duration::from_secs(1);
/// Another screen without a cursor, and back to the one before.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Goes to the upper left corner; what was drawn is drawn over, and the rest cleared.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Runs the command.
pub(crate) async fn run(args: &TopArgs, node: &Node, output: Output) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    if args.once || (!terminal && !output.json) {
        let telemetry = look(args, node).await?;
        return match output.json {
            true => output.document(&telemetry),
            false => {
                output.bytes(render(&telemetry, &instances(node).await?, args.sort, terminal).as_bytes())
            }
        };
    }
    let mut signals = Signals::new()?;
    if output.json {
        return tokio::select! {
            ended = watch(args, node, output) => ended,
            () = signals.any() => Ok(()),
        };
    }
    let keys = Keys::take()?;
    let screen = Screen::enter(output)?;
    let ended = tokio::select! {
        ended = watch(args, node, output) => ended,
        () = signals.any() => Ok(()),
        () = keys.quit() => Ok(()),
    };
    drop(screen);
    ended
}

async fn watch(args: &TopArgs, node: &Node, output: Output) -> Result<()> {
    let mut tick = tokio::time::interval(PERIOD);
    loop {
        tick.tick().await;
        let telemetry = look(args, node).await?;
        if output.json {
            output.item(&telemetry)?;
            continue;
        }
        let text = render(&telemetry, &instances(node).await?, args.sort, true);
        let columns = width();
        let lines =
            text.lines().map(|line| line.chars().take(columns).collect::<String>() + CLEAR_LINE + "\n");
        output.bytes(format!("{HOME}{}{CLEAR_BELOW}", lines.collect::<String>()).as_bytes())?;
    }
}

async fn look(args: &TopArgs, node: &Node) -> Result<FunctionsTelemetry> {
    node.get(format!("{}?minutes={}", path::TELEMETRY_FUNCTIONS, args.minutes)).await
}

async fn instances(node: &Node) -> Result<Vec<FunctionSummary>> {
    node.get(path::FUNCTIONS).await
}

fn percent(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 * 100.0 / all as f64 }
}

fn cold(function: &FunctionTelemetry) -> f64 {
    percent(function.total.cold + function.total.restored, function.total.invocations)
}

fn errors(function: &FunctionTelemetry) -> f64 {
    percent(function.total.errors, function.total.invocations)
}

/// The largest first; by name the first of the alphabet, also where others are the same.
fn order(a: &FunctionTelemetry, b: &FunctionTelemetry, by: SortBy) -> Ordering {
    let time = |f: &FunctionTelemetry| {
        let p = f.total.duration.unwrap_or_default();
        match by {
            SortBy::P50 => p.p50_us,
            SortBy::P95 => p.p95_us,
            _ => p.p99_us,
        }
    };
    let larger = match by {
        SortBy::Name => Ordering::Equal,
        SortBy::Rate => b.total.invocations.cmp(&a.total.invocations),
        SortBy::P50 | SortBy::P95 | SortBy::P99 => time(b).cmp(&time(a)),
        SortBy::Cold => cold(b).total_cmp(&cold(a)),
        SortBy::Memory => b.total.memory_peak_kb.cmp(&a.total.memory_peak_kb),
        SortBy::Errors => errors(b).total_cmp(&errors(a)),
    };
    larger.then_with(|| a.function.cmp(&b.function))
}

fn render(
    telemetry: &FunctionsTelemetry,
    running: &[FunctionSummary],
    sort: SortBy,
    terminal: bool,
) -> String {
    let mut functions: Vec<_> = telemetry.functions.iter().collect();
    functions.sort_by(|a, b| order(a, b, sort));
    let rate = |invocations: u64| format!("{:.1}", invocations as f64 / telemetry.range_s.max(1) as f64);
    let all: u64 = functions.iter().map(|f| f.total.invocations).sum();
    let failed: u64 = functions.iter().map(|f| f.total.errors).sum();
    let mut text = format!(
        "{} functions, {} invocations/s, {failed} errors in {} min; {} traces kept, {} dropped\n\n",
        functions.len(),
        rate(all),
        telemetry.range_minutes,
        telemetry.own.traces,
        telemetry.own.traces_dropped,
    );
    let headings =
        ["FUNCTION", "RATE/s", "P50 ms", "P95 ms", "P99 ms", "COLD", "MEMORY", "ERRORS", "INSTANCES"];
    let mut table = Table::new(&headings, &[1, 2, 3, 4, 5, 6, 7, 8]);
    for f in functions {
        let p = f.total.duration.unwrap_or_default();
        let memory = match f.total.memory_peak_kb {
            0 => "-".to_owned(),
            kb => size(kb * 1024),
        };
        let instances = running.iter().find(|other| other.name == f.function);
        table.row([
            shown(&f.function, terminal),
            rate(f.total.invocations),
            ms(p.p50_us),
            ms(p.p95_us),
            ms(p.p99_us),
            format!("{:.1} %", cold(f)),
            memory,
            format!("{:.1} %", errors(f)),
            instances.map_or_else(|| "-".to_owned(), |f| f.instances.to_string()),
        ]);
    }
    text.push_str(&table.render());
    text
}

/// The screen that is drawn on, until it is dropped.
struct Screen(Output);

impl Screen {
    fn enter(output: Output) -> Result<Self> {
        output.bytes(ENTER.as_bytes())?;
        Ok(Self(output))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing put back.
        self.0.bytes(LEAVE.as_bytes()).unwrap_or_default();
    }
}

/// Keys as they are pressed, without Enter, until this is dropped.
struct Keys {
    before: Option<Termios>,
    quit: tokio::sync::Mutex<oneshot::Receiver<()>>,
}

impl Keys {
    fn take() -> Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut quiet = before.clone();
            quiet.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            tcsetattr(&stdin, OptionalActions::Now, &quiet)
                .map_err(|e| Failure::new("cannot read single keys from this terminal").because(&e))?;
        }
        let (tell, quit) = oneshot::channel();
        let on_terminal = before.is_some();
        // A thread that ends with the process: reading a terminal cannot be called off.
        std::thread::spawn(move || {
            let mut key = [0; 1];
            while on_terminal && matches!(std::io::stdin().lock().read(&mut key), Ok(1)) {
                if key == *b"q" {
                    tell.send(()).unwrap_or_default();
                    return;
                }
            }
            // No terminal, or none any more: only signals end it then.
            std::mem::forget(tell);
        });
        Ok(Self { before, quit: tokio::sync::Mutex::new(quit) })
    }

    async fn quit(&self) {
        // It is told, or never: the sender is not dropped.
        (&mut *self.quit.lock().await).await.unwrap_or_default();
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // There is nobody to tell, and nothing else to try.
            tcsetattr(std::io::stdin(), OptionalActions::Now, before).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use stratos_api::telemetry::{OwnTelemetry, Percentiles, Summary};

    use super::*;

    fn function(name: &str, invocations: u64, errors: u64, p99_us: u64) -> FunctionTelemetry {
        let duration = Some(Percentiles { p50_us: 500, p95_us: 900, p99_us, max_us: p99_us });
        let total = Summary { invocations, errors, duration, restored: 1, ..Summary::default() };
        FunctionTelemetry { function: name.into(), minutes: Vec::new(), total }
    }

    #[test]
    fn functions_are_shown_in_the_order_that_is_asked_for() {
        let telemetry = FunctionsTelemetry {
            range_minutes: 5,
            range_s: 250,
            functions: vec![
                function("a", 10, 5, 2_000),
                function("b", 1000, 0, 1_000),
                function("c", 10, 0, 900_000),
            ],
            own: OwnTelemetry { traces: 5, traces_dropped: 2, ..OwnTelemetry::default() },
        };
        let running = [FunctionSummary {
            name: "b".into(),
            runtime: "node24".into(),
            version: 1,
            deployed_at: String::new(),
            instances: 3,
            invocations: 0,
            errors: 0,
        }];
        let drawn = render(&telemetry, &running, SortBy::Rate, false);
        let want = "\
3 functions, 4.1 invocations/s, 5 errors in 5 min; 5 traces kept, 2 dropped

FUNCTION  RATE/s  P50 ms  P95 ms  P99 ms    COLD  MEMORY  ERRORS  INSTANCES
b            4.0    0.50    0.90    1.00   0.1 %       -   0.0 %          3
a            0.0    0.50    0.90    2.00  10.0 %       -  50.0 %          -
c            0.0    0.50    0.90   900.0  10.0 %       -   0.0 %          -
";
        assert_eq!(drawn, want, "\n{drawn}");
        for (sort, first) in [
            (SortBy::Name, "a"),
            (SortBy::Rate, "b"),
            (SortBy::P99, "c"),
            (SortBy::P50, "a"),
            (SortBy::Cold, "a"),
            (SortBy::Errors, "a"),
        ] {
            let drawn = render(&telemetry, &running, sort, false);
            assert!(drawn.lines().nth(3).unwrap().starts_with(first), "{sort:?}\n{drawn}");
        }
    }
}
