//! What the kernel tells: what the node can see, and windows of system calls.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use stratos_api::{ApiError, ErrorCode, NodeFeatures, SyscallTrace};
use stratos_types::Timeout;

use super::Api;
use super::errors::{Failure, Result};
use super::extract::{Function, Params};

/// Longest window.
const LONGEST: Duration = Duration::from_secs(300);

/// What the node can see and enforce, and what it lacks.
#[utoipa::path(get, path = "/v1/node/features", tag = "node",
    responses((status = 200, description = "Groups of eBPF programs, each with the kernel's reason where it is refused; \
        what the machine lacks beside that", body = NodeFeatures)))]
pub(super) async fn features(State(api): State<Arc<Api>>) -> Json<NodeFeatures> {
    Json(api.engine.features())
}

#[derive(Deserialize)]
pub(super) struct WindowParams {
    #[serde(rename = "for", default = "default_time")]
    time: String,
}

fn default_time() -> String {
    "10s".to_owned()
}

/// Counts and times every system call of a function's instances. While the window is open, each system call of any
/// process of the machine takes a fraction of a microsecond longer.
#[utoipa::path(post, path = "/v1/functions/{name}/trace", tag = "functions",
    params(("name" = String, Path, description = "Function"),
           ("for" = Option<String>, Query, description = "How long, such as `30s`; at most `5m` [default: 10s]")),
    responses((status = 200, description = "What was counted, at the end of the window. A client that goes ends it",
               body = SyscallTrace),
              (status = 400, description = "Not a time", body = ApiError),
              (status = 404, description = "No such function", body = ApiError),
              (status = 409, description = "A window of this function is open", body = ApiError),
              (status = 501, description = "The kernel does not let system calls be traced", body = ApiError)))]
pub(super) async fn open(
    State(api): State<Arc<Api>>,
    Function(key): Function,
    Params(params): Params<WindowParams>,
) -> Result<Json<SyscallTrace>> {
    let time = params.time.parse::<Timeout>().ok().map(|time| time.duration());
    let time = time.filter(|time| *time <= LONGEST).ok_or_else(|| {
        Failure::new(ErrorCode::BadRequest, "the query: `for` is not a time up to 5m")
            .hint("write `for=30s`, say")
    })?;
    let told = api.engine.trace(&key, time).await?;
    match told.await {
        Ok(trace) => Ok(Json(trace)),
        Err(_) => {
            Err(Failure::new(ErrorCode::Internal, "the window could not be read; the node's log tells why"))
        }
    }
}

/// The last window of a function.
#[utoipa::path(get, path = "/v1/functions/{name}/trace", tag = "functions",
    params(("name" = String, Path, description = "Function")),
    responses((status = 200, description = "What was counted in the last window that has ended, asked for or opened because \
                errors repeated", body = SyscallTrace),
              (status = 404, description = "No such function, or no window of it has ended since the node started",
               body = ApiError)))]
pub(super) async fn last(State(api): State<Arc<Api>>, Function(key): Function) -> Result<Json<SyscallTrace>> {
    api.engine.kind(&key).await?;
    api.engine.last_trace(&key).map(Json).ok_or_else(|| {
        let message = format!("`{}` was not traced since the node started", key.name);
        Failure::new(ErrorCode::NotFound, message)
            .hint(format!("`stratos trace {}` opens a window", key.name))
    })
}

/// Ends a function's open window now; who opened it is answered with what was counted.
#[utoipa::path(delete, path = "/v1/functions/{name}/trace", tag = "functions",
    params(("name" = String, Path, description = "Function")),
    responses((status = 204, description = "It ends"),
              (status = 404, description = "No such function, or no window of it is open", body = ApiError)))]
pub(super) async fn end(State(api): State<Arc<Api>>, Function(key): Function) -> Result<StatusCode> {
    api.engine.kind(&key).await?;
    match api.engine.end_trace(&key) {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Failure::new(ErrorCode::NotFound, format!("no window of `{}` is open", key.name))),
    }
}
