//! `stratos logs`.

use std::io::IsTerminal as _;

use bytes::Bytes;
use http::Method;
use stratos_api::client::Call;
use stratos_api::{LogLine, path};
use stratos_types::FunctionName;

use crate::args::LogsArgs;
use crate::failure::Result;
use crate::node::{Lines, Node, path_of};
use crate::output::{Output, reader_gone, shown};

/// Runs the command.
pub(crate) async fn run(args: &LogsArgs, node: &Node, output: Output) -> Result<()> {
    tokio::select! {
        ended = print(&args.name, args.tail, args.follow, node, output) => ended,
        () = reader_gone() => Ok(()),
    }
}

/// Prints a function's log, `tail` old lines first, to its end.
pub(crate) async fn print(
    name: &FunctionName,
    tail: u32,
    follow: bool,
    node: &Node,
    output: Output,
) -> Result<()> {
    let mut lines = open(name, tail, follow, node).await?;
    let terminal = std::io::stdout().is_terminal();
    while let Some(line) = lines.next::<LogLine>().await? {
        if output.json {
            output.item(&line)?;
        } else {
            output.line(&text(&line, terminal))?;
        }
    }
    Ok(())
}

/// A function's log as a stream, `tail` old lines first.
pub(crate) async fn open(name: &FunctionName, tail: u32, follow: bool, node: &Node) -> Result<Lines> {
    let path = format!("{}?tail={tail}&follow={follow}", path_of(path::LOGS, name));
    node.stream(Call::new(Method::GET, path, Bytes::new())).await
}

/// A log line as text for stderr.
pub(crate) fn render(line: &LogLine) -> String {
    text(line, std::io::stderr().is_terminal())
}

/// A log line as text. On a terminal it must not be able to move the cursor, set the title or worse: what a function
/// writes is its author's, and often its callers'.
fn text(line: &LogLine, terminal: bool) -> String {
    let LogLine { at, stream, instance, message, .. } = line;
    shown(&format!("{at} {instance} {stream:<8} {message}"), terminal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_steer_the_terminal() {
        let line: LogLine = serde_json::from_value(serde_json::json!({
            "at": "t", "stream": "stdout", "instance": "i", "message": "a\tb\u{1b}]0;title\u{7}\r\u{9b}2Jé"
        }))
        .unwrap();
        assert_eq!(text(&line, true), "t i stdout   a\tb\u{fffd}]0;title\u{fffd}\u{fffd}\u{fffd}2Jé");
        assert!(text(&line, false).contains('\u{1b}'));
    }
}
