//! `stratos invoke`: sends a payload, prints the answer to stdout and how long it took to stderr.

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Map, Value, json};
use stratos_api::client::{Call, ClientError};
use stratos_api::{Accepted, LogLine, header, path};
use stratos_types::FunctionName;

use crate::args::InvokeArgs;
use crate::command::logs;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::node::{Node, path_of};
use crate::output::{Output, note};

/// How long `--log` waits for the invocation's last line. Lines cross a pipe, the answer does not wait for them.
const LOG_LIMIT: Duration = Duration::from_secs(2);
/// Silence after the node's closing line: the function's own lines cross a pipe, and may come after it.
const LOG_SILENCE: Duration = Duration::from_millis(100);
/// How many lines back `--log` looks: those of other requests may lie between.
const LOG_TAIL: u32 = 1000;

/// Runs the command.
pub(crate) async fn run(args: InvokeArgs, node: &Node, output: Output) -> Result<()> {
    let payload = payload(args.data.as_deref(), args.file.as_deref())?;
    let mut query = Vec::new();
    if args.asynchronous {
        query.push("mode=async".to_owned());
    }
    query.extend(args.version.map(|v| format!("version={v}")));
    let mut path = path_of(path::INVOKE, &args.name);
    if !query.is_empty() {
        path = format!("{path}?{}", query.join("&"));
    }
    let call = Call::new(Method::POST, path, payload).header("content-type", "application/json");
    if args.asynchronous {
        let accepted: Accepted = node.json(call).await?;
        return match output.json {
            true => output.document(&accepted),
            false => output.line(&accepted.invocation),
        };
    }
    let response = node.send(call).await?;
    let headers = response.headers().clone();
    let result = answer(response, node, output).await;
    // Without a version nothing was run: the time that the node took to say so is of no interest.
    if !output.json && headers.contains_key(header::VERSION) {
        note(&timing(&headers));
    }
    if let Some(id) = args.log.then(|| text(&headers, header::INVOCATION)).flatten() {
        print_log(&args.name, id, node).await?;
    }
    result
}

/// Prints the answer, or makes a failure of it.
async fn answer(response: Response<Incoming>, node: &Node, output: Output) -> Result<()> {
    let status = response.status();
    // A server function may answer with an error status of its own; that is an answer. The node marks its errors.
    if !status.is_success()
        && (response.headers().contains_key(header::ERROR) || is_from_node(response.headers()))
    {
        node.collect(response).await?;
        return Err(Failure::new(format!("the node answered {status} and called it a success")));
    }
    if output.json {
        let headers = response.headers().clone();
        let body = whole(response, node).await?;
        output.document(&document(status, &headers, &body))?;
    } else {
        let ended = copy(response, node, output).await?;
        // The prompt of a shell belongs on a line of its own; a file or a pipe gets the answer as it is.
        if !ended && std::io::stdout().is_terminal() {
            output.line("")?;
        }
    }
    if status.is_server_error() {
        let failure = Failure::new(format!("the function answered {status}"));
        return Err(Failure { exit: Exit::Function, printed: true, ..failure });
    }
    Ok(())
}

/// An answer without an invocation's id never was an invocation.
fn is_from_node(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::INVOCATION)
}

async fn whole(response: Response<Incoming>, node: &Node) -> Result<Bytes> {
    let body = response.into_body().collect().await;
    Ok(body.map_err(|source| ClientError::Broken { endpoint: node.endpoint().clone(), source })?.to_bytes())
}

/// Writes a body to stdout as it comes; true when it ended with a line end or was empty.
async fn copy(response: Response<Incoming>, node: &Node, output: Output) -> Result<bool> {
    let mut body = response.into_body();
    let mut last = None;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|source| ClientError::Broken { endpoint: node.endpoint().clone(), source })?;
        if let Some(data) = frame.data_ref() {
            output.bytes(data)?;
            last = data.last().copied().or(last);
        }
    }
    Ok(last.is_none_or(|byte| byte == b'\n'))
}

fn payload(data: Option<&str>, file: Option<&Path>) -> Result<Vec<u8>> {
    let mut stdin = std::io::stdin();
    let from_stdin = |stdin: &mut std::io::Stdin| {
        let mut payload = Vec::new();
        match stdin.read_to_end(&mut payload) {
            Ok(_) => Ok(payload),
            Err(e) => Err(Failure::new("cannot read the payload from stdin").because(&e)),
        }
    };
    match (data, file) {
        (Some(data), _) => Ok(data.into()),
        (None, Some(file)) if file == Path::new("-") => from_stdin(&mut stdin),
        (None, Some(file)) => std::fs::read(file)
            .map_err(|e| Failure::new(format!("cannot read the payload {}", file.display())).because(&e)),
        (None, None) if stdin.is_terminal() => Ok(b"{}".to_vec()),
        (None, None) => {
            let payload = from_stdin(&mut stdin)?;
            Ok(if payload.is_empty() { b"{}".to_vec() } else { payload })
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `cold`, `warm`, or nothing when no instance was reached.
fn start(headers: &HeaderMap) -> Option<&'static str> {
    text(headers, header::START).map(|start| match start {
        "fresh" => "cold",
        "restored" => "restored",
        _ => "warm",
    })
}

/// The phases of a `Server-Timing` header: name and milliseconds.
fn phases(headers: &HeaderMap) -> Vec<(&str, f64)> {
    let entry = |entry: &'_ str| {
        let (name, parameters) = entry.trim().split_once(';')?;
        let duration = parameters.split(';').find_map(|p| p.trim().strip_prefix("dur="))?;
        Some((name.len(), duration.parse::<f64>().ok()?))
    };
    // A server function may have timings of its own; the node appends its to them.
    let value = headers
        .get_all(header::SERVER_TIMING)
        .iter()
        .next_back()
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    value.split(',').filter_map(|e| entry(e).map(|(len, duration)| (&e.trim()[..len], duration))).collect()
}

/// One line about an invocation: `cold 41.2 ms (queue 0.0, sandbox 3.1, ...), version 2, ID`.
fn timing(headers: &HeaderMap) -> String {
    let phases = phases(headers);
    let total = phases.iter().find(|(name, _)| *name == "total").map(|(_, ms)| format!("{ms:.1} ms"));
    let parts: Vec<String> = phases
        .iter()
        .filter(|(name, ms)| *name != "total" && *ms > 0.0)
        .map(|(n, ms)| format!("{n} {ms:.1}"))
        .collect();
    let mut words = Vec::new();
    words.extend(start(headers).map(str::to_owned));
    words.extend(total);
    if !parts.is_empty() {
        words.push(format!("({})", parts.join(", ")));
    }
    words.extend(text(headers, header::VERSION).map(|v| format!("version {v}")));
    words.extend(text(headers, header::INVOCATION).map(str::to_owned));
    words.join("  ")
}

/// What `--json` prints about an answer. A body that is not JSON is given as text, one that is not text as base64.
fn document(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Value {
    let (key, answer) = match (serde_json::from_slice::<Value>(body), std::str::from_utf8(body)) {
        (Ok(value), _) => ("answer", value),
        (Err(_), Ok(text)) => ("answer_text", text.into()),
        (Err(_), Err(_)) => ("answer_base64", base64::engine::general_purpose::STANDARD.encode(body).into()),
    };
    let phases: Map<String, Value> =
        phases(headers).into_iter().map(|(n, ms)| (n.to_owned(), ms.into())).collect();
    let version = text(headers, header::VERSION).and_then(|v| v.parse::<u64>().ok());
    json!({
        "invocation": text(headers, header::INVOCATION),
        "version": version,
        "start": start(headers),
        "status": status.as_u16(),
        "phases_ms": phases,
        key: answer,
    })
}

/// Prints an invocation's log lines to stderr, up to the node's own line that closes it and what comes right after.
async fn print_log(name: &FunctionName, id: &str, node: &Node) -> Result<()> {
    let print = async {
        let mut lines = logs::open(name, LOG_TAIL, true, node).await?;
        let mut closed = false;
        loop {
            let next = lines.next::<LogLine>();
            let line = match closed {
                false => next.await?,
                true => match tokio::time::timeout(LOG_SILENCE, next).await {
                    Ok(line) => line?,
                    Err(_) => return Ok(()),
                },
            };
            let Some(line) = line else { return Ok(()) };
            if line.invocation.as_deref() == Some(id) {
                note(&logs::render(&line));
                closed |= line.stream == "platform";
            }
        }
    };
    // A last line that never comes was lost to the log's limit on size.
    tokio::time::timeout(LOG_LIMIT, print).await.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (header::INVOCATION, "id"),
            (header::START, "fresh"),
            (header::VERSION, "2"),
            (
                header::SERVER_TIMING,
                "queue;dur=0, sandbox;dur=3.14;desc=x, odd, handler;dur=1, total;dur=41.21",
            ),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn timing_is_one_line() {
        assert_eq!(timing(&headers()), "cold  41.2 ms  (sandbox 3.1, handler 1.0)  version 2  id");
        assert_eq!(timing(&HeaderMap::new()), "");
    }

    #[test]
    fn every_body_fits_into_the_document() {
        for (body, key, value) in [
            (&b"{\"a\":1}"[..], "answer", json!({"a": 1})),
            (b"plain", "answer_text", "plain".into()),
            (b"", "answer_text", "".into()),
            (b"\xff", "answer_base64", "/w==".into()),
        ] {
            let document = document(StatusCode::OK, &headers(), body);
            assert_eq!(document[key], value);
            assert_eq!(document["phases_ms"]["total"], 41.21);
            assert_eq!((&document["start"], &document["version"]), (&json!("cold"), &json!(2)));
        }
    }
}
