//! `stratos logs`.

use bytes::Bytes;
use http::Method;
use stratos_api::client::Call;
use stratos_api::{LogLine, path};
use stratos_types::FunctionName;

use crate::args::LogsArgs;
use crate::failure::Result;
use crate::node::{Lines, Node, path_of};
use crate::output::{Output, reader_gone};

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
    while let Some(line) = lines.next::<LogLine>().await? {
        if output.json {
            output.item(&line)?;
        } else {
            output.line(&render(&line))?;
        }
    }
    Ok(())
}

/// A function's log as a stream, `tail` old lines first.
pub(crate) async fn open(name: &FunctionName, tail: u32, follow: bool, node: &Node) -> Result<Lines> {
    let path = format!("{}?tail={tail}&follow={follow}", path_of(path::LOGS, name));
    node.stream(Call::new(Method::GET, path, Bytes::new())).await
}

/// A log line as text.
pub(crate) fn render(line: &LogLine) -> String {
    let LogLine { at, stream, instance, message, .. } = line;
    format!("{at} {instance} {stream:<8} {message}")
}
