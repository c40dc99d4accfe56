//! A function's log, as it is and as it grows.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header;
use serde::Deserialize;
use stratos_api::{ApiError, ErrorCode, LogLine};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;

use super::Api;
use super::deploy::{NDJSON, line};
use super::errors::Result;
use super::extract::{Function, Params};
use super::serve::stopped;
use crate::clock::rfc3339_ms;

/// Most lines given at once.
const MAX_TAIL: usize = 10_000;

#[derive(Deserialize)]
pub(super) struct LogParams {
    #[serde(default = "default_tail")]
    tail: usize,
    #[serde(default)]
    follow: bool,
}

fn default_tail() -> usize {
    100
}

/// A function's log lines.
#[utoipa::path(get, path = "/v1/functions/{name}/logs", tag = "functions",
    params(("name" = String, Path, description = "Function"),
           ("tail" = Option<u64>, Query, description = "Lines already there, at most 10,000 [default: 100]"),
           ("follow" = Option<bool>, Query, description = "Go on with lines as they come")),
    responses((status = 200, description = "Oldest first, one JSON object a line", body = LogLine,
               content_type = "application/x-ndjson"),
              (status = 404, description = "No such function", body = ApiError)))]
pub(super) async fn logs(
    State(api): State<Arc<Api>>,
    Function(key): Function,
    Params(params): Params<LogParams>,
) -> Result<Response> {
    api.engine.kind(&key).await?;
    let log = api.engine.log(&key);
    // Subscribed first, so that no line falls between the tail and what follows it.
    let followed = params.follow.then(|| log.subscribe());
    let count = params.tail.min(MAX_TAIL);
    let tail = tokio::task::spawn_blocking(move || log.tail(count)).await.map_err(|error| {
        ApiError::new(ErrorCode::Internal, "the node failed while it read the log").caused_by(&error)
    })?;
    let old: Vec<u8> = tail.iter().flat_map(line).collect();
    let body = match followed {
        None => Body::from(old),
        Some(receiver) => {
            let follow = Follow { receiver, tail, stop: api.stop.clone() };
            let new =
                stream::unfold(follow, |mut follow| async move { Some((follow.next().await?, follow)) });
            let all = stream::iter([old])
                .filter(|o| std::future::ready(!o.is_empty()))
                .chain(new.map(|l| line(&l)));
            Body::from_stream(all.map(|l| Ok::<_, std::convert::Infallible>(Bytes::from(l))))
        }
    };
    Ok(([(header::CONTENT_TYPE, NDJSON)], body).into_response())
}

/// New lines, until the function is removed or the node stops.
struct Follow {
    receiver: broadcast::Receiver<LogLine>,
    /// Lines already given; those of them that come again are left out once.
    tail: Vec<LogLine>,
    stop: watch::Receiver<bool>,
}

impl Follow {
    async fn next(&mut self) -> Option<LogLine> {
        loop {
            let received = tokio::select! {
                received = self.receiver.recv() => received,
                () = stopped(&mut self.stop) => return None,
            };
            match received {
                Ok(line) => match self.tail.iter().rposition(|old| *old == line) {
                    Some(at) => drop(self.tail.drain(..=at)),
                    None => return Some(line),
                },
                Err(RecvError::Closed) => return None,
                Err(RecvError::Lagged(missed)) => return Some(missed_line(missed)),
            }
        }
    }
}

fn missed_line(missed: u64) -> LogLine {
    LogLine {
        at: rfc3339_ms(crate::clock::now_ms()),
        stream: "platform".to_owned(),
        instance: "-".to_owned(),
        invocation: None,
        message: format!("{missed} lines are left out here: they came faster than they were read"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_line(message: &str) -> LogLine {
        LogLine { message: message.to_owned(), ..missed_line(0) }
    }

    #[tokio::test]
    async fn no_line_comes_twice_and_the_stop_ends_it() {
        let (sender, receiver) = broadcast::channel(4);
        let (stop, stopped) = watch::channel(false);
        let lines: Vec<_> = ["a", "b", "c"].map(log_line).into();
        // `b` and `c` were logged after the subscription and before the tail was read.
        sender.send(lines[1].clone()).unwrap();
        sender.send(lines[2].clone()).unwrap();
        sender.send(log_line("d")).unwrap();
        let mut follow = Follow { receiver, tail: lines, stop: stopped };
        assert_eq!(follow.next().await.unwrap().message, "d");
        for i in 0..6 {
            sender.send(log_line(&i.to_string())).unwrap();
        }
        assert!(follow.next().await.unwrap().message.starts_with("2 lines are left out"));
        assert_eq!(follow.next().await.unwrap().message, "2");
        stop.send(true).unwrap();
        while let Some(line) = follow.next().await {
            assert!(matches!(line.message.as_str(), "3" | "4" | "5"));
        }
    }
}
