//! `stratos trace`: the system calls of a function's instances.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use stratos_api::client::Call;
use stratos_api::{SyscallCount, SyscallTrace, path};

use super::signals::Signals;
use crate::args::TraceArgs;
use crate::failure::Result;
use crate::node::{Node, path_of};
use crate::output::{Output, Table};
use crate::progress::Progress;

/// Columns of a histogram's longest bar.
const BAR: u64 = 40;

/// Runs the command.
pub(crate) async fn run(args: &TraceArgs, node: &Node, output: Output) -> Result<()> {
    let path = path_of(path::TRACE, &args.name);
    if args.stop {
        node.fetch(Call::new(Method::DELETE, path, Bytes::new())).await?;
        return match output.json {
            true => output.document(&serde_json::json!({ "stopped": args.name.as_str() })),
            false => output.line(&format!("stopped the window of {}", args.name)),
        };
    }
    let trace: SyscallTrace = match args.last {
        true => node.get(path).await?,
        false => window(args, &path, node, output).await?,
    };
    match output.json {
        true => output.document(&trace),
        false => output.bytes(render(&trace, args.histogram).as_bytes()),
    }
}

/// Opens a window and waits for its end, which a signal brings about.
async fn window(args: &TraceArgs, path: &str, node: &Node, output: Output) -> Result<SyscallTrace> {
    let mut signals = Signals::new()?;
    let progress = Progress::new(output.json);
    progress.step(&format!("counting the system calls of {} for {}", args.name, args.time));
    let call = Call::new(Method::POST, format!("{path}?for={}", args.time), Bytes::new());
    let counted = node.json::<SyscallTrace>(call);
    let mut counted = std::pin::pin!(counted);
    let (begun, mut tick) = (Instant::now(), tokio::time::interval(Duration::from_secs(1)));
    loop {
        tokio::select! {
            trace = &mut counted => return trace,
            _ = tick.tick() => {
                let seconds = begun.elapsed().as_secs();
                progress.detail(&format!("{seconds} s, Ctrl-C ends it"));
            }
            () = signals.any() => break,
        }
    }
    // When that fails, because the window has ended meanwhile, its result is on the way all the same.
    let end = node.fetch(Call::new(Method::DELETE, path, Bytes::new())).await;
    tokio::select! {
        trace = &mut counted => trace,
        // A second one does not wait any more.
        () = signals.any() => Err(end.err().unwrap_or_else(|| crate::failure::Failure::new("interrupted"))),
    }
}

fn render(trace: &SyscallTrace, histogram: bool) -> String {
    let seconds = trace.duration_ms as f64 / 1000.0;
    let why = if trace.trigger == "errors" { ", opened because errors repeated" } else { "" };
    let mut text = format!(
        "{}: {} invocations in {seconds:.1} s, {} instances{why}\n",
        trace.function, trace.invocations, trace.instances
    );
    if trace.dropped > 0 {
        text += &format!("{} system calls were not counted, for their place was full\n", trace.dropped);
    }
    if trace.calls.is_empty() {
        return text + "no system call was made\n";
    }
    let mut table = Table::new(
        &["SYSTEM CALL", "COUNT", "ERRORS", "DENIED", "TOTAL", "P50", "P95", "MAX"],
        &[1, 2, 3, 4, 5, 6, 7],
    );
    for call in &trace.calls {
        table.row([
            call.name.clone(),
            call.count.to_string(),
            call.errors.to_string(),
            call.denied.to_string(),
            duration(call.total_ns),
            duration(call.p50_ns),
            duration(call.p95_ns),
            duration(call.max_ns),
        ]);
    }
    text = text + "\n" + &table.render();
    if histogram {
        trace.calls.iter().filter(|call| call.total_ns > 0).for_each(|call| text += &draw(call));
    }
    text
}

/// One line for each bucket from the first to the last that holds any.
fn draw(call: &SyscallCount) -> String {
    let mut text = format!("\n{}\n", call.name);
    let filled = |count: &u64| *count > 0;
    let first = call.buckets.iter().position(filled).unwrap_or(0);
    let last = call.buckets.iter().rposition(filled).unwrap_or(0);
    let most = call.buckets.iter().max().copied().unwrap_or(0).max(1);
    for (i, count) in call.buckets.iter().enumerate().take(last + 1).skip(first) {
        // What is not nothing has at least a dot.
        let bar = match count * BAR / most {
            0 if *count > 0 => ".".to_owned(),
            length => "#".repeat(length as usize),
        };
        let low = if i == 0 { 0 } else { 1 << i };
        text += format!("{:>9}  {count:>10}  {bar}", duration(low)).trim_end();
        text.push('\n');
    }
    text
}

/// Nanoseconds for people, with three digits at most: `240 ns`, `1.5 us`, `12 ms`, `3.4 s`.
fn duration(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    if value < 10.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_a_table_and_bars() {
        let mut buckets = vec![0; 36];
        (buckets[8], buckets[9], buckets[11]) = (400, 100, 1);
        let call = SyscallCount {
            name: "read".into(),
            number: 0,
            count: 501,
            errors: 2,
            denied: 0,
            total_ns: 180_000,
            p50_ns: 416,
            p95_ns: 900,
            max_ns: 4096,
            buckets,
        };
        let exit = SyscallCount { name: "exit".into(), count: 1, total_ns: 0, buckets: vec![0; 36], ..call };
        let mut trace = SyscallTrace {
            function: "hello".into(),
            trigger: "request".into(),
            began_at: "t".into(),
            duration_ms: 2040,
            instances: 1,
            invocations: 7,
            dropped: 0,
            calls: vec![call, exit],
        };
        assert_eq!(
            render(&trace, true),
            "\
hello: 7 invocations in 2.0 s, 1 instances

SYSTEM CALL  COUNT  ERRORS  DENIED   TOTAL     P50     P95     MAX
read           501       2       0  180 us  416 ns  900 ns  4.1 us
exit             1       2       0    0 ns  416 ns  900 ns  4.1 us

read
   256 ns         400  ########################################
   512 ns         100  ##########
   1.0 us           0
   2.0 us           1  .
"
        );
        trace.calls.clear();
        trace.dropped = 3;
        trace.trigger = "errors".into();
        assert_eq!(
            render(&trace, true),
            "hello: 7 invocations in 2.0 s, 1 instances, opened because errors repeated\n\
             3 system calls were not counted, for their place was full\nno system call was made\n"
        );
    }

    #[test]
    fn durations_read_well() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_540, "1.5 us"),
            (12_400_000, "12 ms"),
            (3_400_000_000, "3.4 s"),
            (90_000_000_000, "90 s"),
        ] {
            assert_eq!(duration(ns), text);
        }
    }
}
