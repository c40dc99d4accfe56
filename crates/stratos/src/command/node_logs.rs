//! `stratos node logs`.

use std::io::IsTerminal as _;

use bytes::Bytes;
use http::Method;
use stratos_api::client::Call;
use stratos_api::node::NodeLogLine;
use stratos_api::path;

use crate::args::NodeLogsArgs;
use crate::failure::{Failure, Result};
use crate::node::Node;
use crate::output::{Output, reader_gone, shown};

/// Runs the command.
pub(crate) async fn run(args: &NodeLogsArgs, node: &Node, output: Output) -> Result<()> {
    tokio::select! {
        ended = print(args, node, output) => ended,
        () = reader_gone() => Ok(()),
    }
}

async fn print(args: &NodeLogsArgs, node: &Node, output: Output) -> Result<()> {
    let mut lines = node.stream(Call::new(Method::GET, path_of(args)?, Bytes::new())).await?;
    let terminal = std::io::stdout().is_terminal();
    while let Some(line) = lines.next::<NodeLogLine>().await? {
        match output.json {
            true => output.item(&line)?,
            false => output.line(&text(&line, terminal))?,
        }
    }
    Ok(())
}

fn path_of(args: &NodeLogsArgs) -> Result<String> {
    let mut path = format!("{}?tail={}&follow={}", path::NODE_LOGS, args.tail, args.follow);
    if let Some(source) = &args.source {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if source.is_empty() || !source.bytes().all(plain) {
            return Err(Failure::usage(format!("`{source}` is not the name of a source"))
                .hint("`stratos node status` lists the services; there are `init` and `kernel` besides"));
        }
        path.push_str(&format!("&source={source}"));
    }
    Ok(path)
}

fn text(line: &NodeLogLine, terminal: bool) -> String {
    let NodeLogLine { at, source, message } = line;
    shown(&format!("{at} {source:<10} {message}"), terminal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_plain_name() {
        let args =
            |source: Option<&str>| NodeLogsArgs { source: source.map(str::to_owned), follow: true, tail: 5 };
        assert_eq!(path_of(&args(None)).unwrap(), "/v1/node/logs?tail=5&follow=true");
        let path = path_of(&args(Some("stratosd"))).unwrap();
        assert_eq!(path, "/v1/node/logs?tail=5&follow=true&source=stratosd");
        for wrong in ["", "a&b", "a b", "é"] {
            assert!(path_of(&args(Some(wrong))).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_cannot_steer_the_terminal() {
        let line = NodeLogLine { at: "t".into(), source: "init".into(), message: "a\u{1b}[2Jb".into() };
        assert_eq!(text(&line, true), "t init       a\u{fffd}[2Jb");
    }
}
