//! `stratos invocations`: the last ones of a function, those that failed, and one in full.

use stratos_api::telemetry::{InvocationTrace, Span};
use stratos_api::{InvocationRecord, path};
use stratos_types::{FunctionName, InvocationId};

use super::functions::invocations;
use crate::args::InvocationsArgs;
use crate::failure::{Failure, Result};
use crate::node::{Node, path_of};
use crate::output::{Output, ms, note, shown, when};

/// Columns of the drawing of a trace.
const BAR: u64 = 40;

/// Runs the command.
pub(crate) async fn run(args: &InvocationsArgs, node: &Node, output: Output) -> Result<()> {
    if let Some(id) = args.trace {
        return trace(&args.name, id, node, output).await;
    }
    let path = path_of(path::INVOCATIONS, &args.name);
    let errors = if args.errors { "&errors=true" } else { "" };
    let records: Vec<InvocationRecord> = node.get(format!("{path}?limit={}{errors}", args.limit)).await?;
    if output.json {
        return output.document(&records);
    }
    if records.is_empty() {
        let what = if args.errors { "failed invocations" } else { "invocations" };
        note(&format!("no {what} of {} are remembered", args.name));
        return Ok(());
    }
    output.bytes(invocations(&records).render().as_bytes())
}

async fn trace(name: &FunctionName, id: InvocationId, node: &Node, output: Output) -> Result<()> {
    let path = path::INVOCATION_TRACE.replace("{id}", &id.to_string());
    let trace: InvocationTrace = node.get(path).await?;
    if trace.record.function != name.as_str() {
        let message = format!("{id} is not an invocation of {name} but of {}", trace.record.function);
        return Err(Failure::new(message));
    }
    match output.json {
        true => output.document(&trace),
        false => output.bytes(render(&trace).as_bytes()),
    }
}

fn render(trace: &InvocationTrace) -> String {
    let r = &trace.record;
    let outcome = match &r.blame {
        Some(blame) => format!("{} ({blame})", r.outcome),
        None => r.outcome.clone(),
    };
    let error = trace.spans.first().and_then(|span| span.attributes.get("exception.message"));
    let instance = r.instance.as_deref().unwrap_or("none");
    let mut text = String::new();
    let mut field = |name: &str, value: &str| text.push_str(&format!("{name:<12}{}\n", shown(value, true)));
    field("invocation", &r.id);
    field("function", &format!("{}, version {}, instance {instance}", r.function, r.version));
    field("started", &format!("{} ({})", when(&r.started_at), r.start()));
    field("outcome", &outcome);
    error.into_iter().for_each(|error| field("error", error));
    field("trace", &r.trace_id);
    let until =
        trace.spans.iter().map(|span| span.start_us.saturating_add(span.duration_us)).max().unwrap_or(0);
    text.push_str(&format!("\n{:<10}{:>10}{:>13}\n", "SPAN", "START ms", "DURATION ms"));
    for span in &trace.spans {
        let (start, duration) = (ms(span.start_us), ms(span.duration_us));
        text.push_str(&format!(
            "{:<10}{start:>10}{duration:>13}  {}\n",
            shown(&span.name, true),
            bar(span, until)
        ));
    }
    text
}

/// A span on the line of time; however short it is, something is to be seen of it.
fn bar(span: &Span, until: u64) -> String {
    let column = |us: u64| us.saturating_mul(BAR).checked_div(until).unwrap_or(0);
    let from = column(span.start_us).min(BAR - 1);
    let to = column(span.start_us.saturating_add(span.duration_us)).clamp(from + 1, BAR);
    format!("{}{}", " ".repeat(from as usize), "█".repeat((to - from) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_drawn_over_time() {
        let record: InvocationRecord = serde_json::from_value(serde_json::json!({
            "id": "5f0c9c1e", "function": "hello", "version": 3, "instance": "ab", "started_at": "2026-01-02T03:04:05.678Z",
            "cold": true, "restored": true, "request_bytes": 0, "response_bytes": 0, "outcome": "function_error",
            "blame": "function", "trace_id": "4bf9",
            "phases": {"queue_us": 0, "sandbox_us": 0, "runtime_us": 0, "init_us": 0, "handler_us": 0, "total_us": 0},
        }))
        .unwrap();
        let span = |name: &str, start_us, duration_us| Span {
            name: name.into(),
            span_id: String::new(),
            parent_span_id: None,
            start_us,
            duration_us,
            attributes: [("exception.message".to_owned(), "no\u{1b}[2J".to_owned())].into(),
        };
        let spans = vec![
            span("gateway", 0, 8000),
            span("restore", 100, 3900),
            span("handler", 4000, 4000),
            span("post", 8000, 1),
        ];
        let drawn = render(&InvocationTrace { record, kept: "error".into(), spans });
        let want = "\
invocation  5f0c9c1e
function    hello, version 3, instance ab
started     2026-01-02 03:04:05 (restored)
outcome     function_error (function)
error       no\u{fffd}[2J
trace       4bf9

SPAN        START ms  DURATION ms
gateway         0.00         8.00  ███████████████████████████████████████
restore         0.10         3.90  ███████████████████
handler         4.00         4.00                     ████████████████████
post            8.00         0.00                                         █
";
        assert_eq!(drawn.replace(" \n", "\n"), want, "\n{drawn}");
        let nothing = span("gateway", 0, 0);
        assert_eq!(bar(&nothing, 0), "█");
    }
}
