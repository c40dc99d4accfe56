//! The node as a machine: how it is, its processes, its boots, its log, and its end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use stratos_api::node::{BootRecord, InitRequest, NodeLogLine, NodeStatus, ProcessInfo, ShuttingDown};
use stratos_api::{ApiError, ErrorCode, boot_chart};
use tokio::sync::watch;

use super::Api;
use super::deploy::{NDJSON, line};
use super::errors::{Failure, Result};
use super::extract::Params;
use super::serve::stopped;
use crate::machine::{InitError, LogRequest, MAX_TAIL, Machine, NodeLog};

/// How often the log is looked at while it is followed.
const FOLLOW_POLL: Duration = Duration::from_millis(300);
/// Longest name of a log's source.
const MAX_SOURCE: usize = 64;

/// Looks at the machine where that may block.
async fn blocking<T: Send + 'static, E: Into<Failure> + Send + 'static>(
    api: &Api,
    look: impl FnOnce(&Machine) -> std::result::Result<T, E> + Send + 'static,
) -> Result<T> {
    let machine = Arc::clone(&api.machine);
    match tokio::task::spawn_blocking(move || look(&machine)).await {
        Ok(looked) => looked.map_err(Into::into),
        Err(error) => {
            let message = "the node failed while it looked at its machine";
            Err(ApiError::new(ErrorCode::Internal, message).caused_by(&error).into())
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        ApiError::new(ErrorCode::Internal, "the node cannot read what its machine tells")
            .caused_by(&error)
            .into()
    }
}

impl From<InitError> for Failure {
    fn from(error: InitError) -> Self {
        match error {
            InitError::NotManaged => Self::new(ErrorCode::Unsupported, error.to_string())
                .hint("use what runs it, such as `systemctl reboot`"),
            InitError::Refused { .. } => Self::new(ErrorCode::Conflict, error.to_string()),
            InitError::Ask { .. } | InitError::Answer { .. } => {
                ApiError::new(ErrorCode::Internal, "the node's PID 1 did not do it").caused_by(&error).into()
            }
        }
    }
}

/// How the machine is.
#[utoipa::path(get, path = "/v1/node", tag = "node",
    responses((status = 200, description = "Memory, disk, and what PID 1 tells where it is StratOS's own",
               body = NodeStatus)))]
pub(super) async fn status(State(api): State<Arc<Api>>) -> Result<Json<NodeStatus>> {
    blocking(&api, Machine::status).await.map(Json)
}

/// The machine's processes.
#[utoipa::path(get, path = "/v1/node/tree", tag = "node",
    responses((status = 200, description = "All of them (at most 8,192), by id", body = Vec<ProcessInfo>)))]
pub(super) async fn tree(State(api): State<Arc<Api>>) -> Result<Json<Vec<ProcessInfo>>> {
    let running = api.engine.running();
    blocking(&api, move |machine| machine.tree(&running)).await.map(Json)
}

/// The last boots.
#[utoipa::path(get, path = "/v1/node/boots", tag = "node",
    responses((status = 200, description = "Newest first, at most 10; empty on a machine with another PID 1",
               body = Vec<BootRecord>)))]
pub(super) async fn boots(State(api): State<Arc<Api>>) -> Result<Json<Vec<BootRecord>>> {
    blocking(&api, Machine::boots).await.map(Json)
}

#[derive(Deserialize)]
pub(super) struct BootParams {
    boot: Option<u64>,
}

/// One boot as a chart.
#[utoipa::path(get, path = "/v1/node/boot.svg", tag = "node",
    params(("boot" = Option<u64>, Query, description = "Which; the newest without")),
    responses((status = 200, description = "Its phases over time", body = String, content_type = "image/svg+xml"),
              (status = 404, description = "No such boot is known (any more)", body = ApiError)))]
pub(super) async fn boot_svg(
    State(api): State<Arc<Api>>,
    Params(params): Params<BootParams>,
) -> Result<Response> {
    let records = blocking(&api, Machine::boots).await?;
    let wanted = |record: &&BootRecord| params.boot.is_none_or(|number| number == record.number);
    let Some(record) = records.iter().find(wanted) else {
        let known: Vec<_> = records.iter().map(|record| record.number.to_string()).collect();
        let hint = match known.is_empty() {
            true => "boots are recorded where StratOS's own PID 1 runs the machine".to_owned(),
            false => format!("its boots: {}", known.join(", ")),
        };
        return Err(Failure::new(ErrorCode::NotFound, "there is no record of this boot").hint(hint));
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("image/svg+xml")),
        // Opened by itself it is a page: one that loads and runs nothing.
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'"),
        ),
    ];
    Ok((headers, boot_chart::svg(record)).into_response())
}

#[derive(Deserialize)]
pub(super) struct LogParams {
    source: Option<String>,
    #[serde(default = "default_tail")]
    tail: usize,
    #[serde(default)]
    follow: bool,
}

fn default_tail() -> usize {
    100
}

/// The node's own log: PID 1, services, kernel.
#[utoipa::path(get, path = "/v1/node/logs", tag = "node",
    params(("source" = Option<String>, Query, description = "`init`, `kernel` or a service; all of them without"),
           ("tail" = Option<u64>, Query, description = "Lines already there, at most 10,000 [default: 100]"),
           ("follow" = Option<bool>, Query, description = "Go on with lines as they come")),
    responses((status = 200, description = "Oldest first, one JSON object a line", body = NodeLogLine,
               content_type = "application/x-ndjson")))]
pub(super) async fn logs(State(api): State<Arc<Api>>, Params(params): Params<LogParams>) -> Result<Response> {
    if params.source.as_ref().is_some_and(|source| source.is_empty() || source.len() > MAX_SOURCE) {
        return Err(Failure::new(ErrorCode::BadRequest, "the query: `source` is not the name of one"));
    }
    let request = LogRequest { source: params.source, tail: params.tail.min(MAX_TAIL) };
    let (tail, log) = blocking(&api, move |machine| machine.log(request)).await?;
    let old: Vec<u8> = tail.iter().flat_map(line).collect();
    let body = match params.follow {
        false => Body::from(old),
        true => {
            let follow = Follow { log: Some(log), ready: old, stop: api.stop.clone() };
            let lines =
                stream::unfold(follow, |mut follow| async move { Some((follow.next().await?, follow)) });
            Body::from_stream(futures_util::StreamExt::map(lines, |text| {
                Ok::<_, Infallible>(Bytes::from(text))
            }))
        }
    };
    Ok(([(header::CONTENT_TYPE, NDJSON)], body).into_response())
}

/// New lines, until the node stops or its log cannot be read.
struct Follow {
    /// Elsewhere while it is read.
    log: Option<NodeLog>,
    /// Lines that are to be given next.
    ready: Vec<u8>,
    stop: watch::Receiver<bool>,
}

impl Follow {
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if !self.ready.is_empty() {
                return Some(std::mem::take(&mut self.ready));
            }
            tokio::select! {
                () = tokio::time::sleep(FOLLOW_POLL) => {}
                () = stopped(&mut self.stop) => return None,
            }
            let mut log = self.log.take()?;
            let read = tokio::task::spawn_blocking(move || log.new_lines().map(|lines| (lines, log))).await;
            match read {
                Ok(Ok((lines, log))) => {
                    self.ready = lines.iter().flat_map(line).collect();
                    self.log = Some(log);
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the node's log cannot be followed any more");
                    return None;
                }
                Err(error) => {
                    tracing::error!(%error, "following the node's log failed");
                    return None;
                }
            }
        }
    }
}

/// Shuts the machine down and starts it again.
#[utoipa::path(post, path = "/v1/node/reboot", tag = "node",
    responses((status = 202, description = "The shutdown has begun", body = ShuttingDown),
              (status = 409, description = "PID 1 refuses, for it is upgrading, say", body = ApiError),
              (status = 501, description = "The machine is not run by StratOS's own PID 1", body = ApiError)))]
pub(super) async fn reboot(State(api): State<Arc<Api>>) -> Result<(StatusCode, Json<ShuttingDown>)> {
    shut_down(&api, InitRequest::Reboot).await
}

/// Shuts the machine down and switches it off.
#[utoipa::path(post, path = "/v1/node/poweroff", tag = "node",
    responses((status = 202, description = "The shutdown has begun", body = ShuttingDown),
              (status = 409, description = "PID 1 refuses, for it is upgrading, say", body = ApiError),
              (status = 501, description = "The machine is not run by StratOS's own PID 1", body = ApiError)))]
pub(super) async fn power_off(State(api): State<Arc<Api>>) -> Result<(StatusCode, Json<ShuttingDown>)> {
    shut_down(&api, InitRequest::PowerOff).await
}

async fn shut_down(api: &Api, request: InitRequest) -> Result<(StatusCode, Json<ShuttingDown>)> {
    let shutting_down = blocking(api, move |machine| machine.shut_down(request)).await?;
    tracing::info!("{} was asked for over the API", shutting_down.action);
    Ok((StatusCode::ACCEPTED, Json(shutting_down)))
}
