//! What the node has kept about invocations: summaries over time, single traces, metrics for monitoring systems.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;
use stratos_api::telemetry::{FunctionsTelemetry, InvocationTrace};
use stratos_api::{ApiError, ErrorCode};
use stratos_telemetry::NodeFigures;
use stratos_telemetry::exposition::Format;
use stratos_telemetry::segments::SegmentError;

use super::Api;
use super::errors::{Failure, Result};
use super::extract::{Invocation, Params, run_blocking};
use crate::telemetry::MOST_MINUTES;

impl From<SegmentError> for Failure {
    fn from(error: SegmentError) -> Self {
        ApiError::new(ErrorCode::StorageFailed, "the node cannot read its telemetry").caused_by(&error).into()
    }
}

#[derive(Deserialize)]
pub(super) struct RangeParams {
    #[serde(default = "default_range")]
    minutes: u64,
}

fn default_range() -> u64 {
    60
}

/// All functions' invocations by the minute.
#[utoipa::path(get, path = "/v1/telemetry/functions", tag = "telemetry",
    params(("minutes" = Option<u64>, Query, description = "How many, up to now; 1 to 1440 [default: 60]")),
    responses((status = 200, description = "Functions with invocations in that time, by name. Those beyond 200 share the \
               row `_other`", body = FunctionsTelemetry),
              (status = 400, description = "`minutes` is out of range", body = ApiError)))]
pub(super) async fn functions(
    State(api): State<Arc<Api>>,
    Params(params): Params<RangeParams>,
) -> Result<Json<FunctionsTelemetry>> {
    if !(1..=MOST_MINUTES).contains(&params.minutes) {
        let message = format!("the query: `minutes` must be 1 to {MOST_MINUTES}");
        return Err(Failure::new(ErrorCode::BadRequest, message));
    }
    let recorder = Arc::clone(api.engine.recorder());
    run_blocking(move || Ok::<_, Failure>(recorder.functions(params.minutes))).await.map(Json)
}

/// One invocation in full.
#[utoipa::path(get, path = "/v1/invocations/{id}/trace", tag = "telemetry",
    params(("id" = String, Path, description = "The id that stands in `stratos-invocation`")),
    responses((status = 200, description = "Its record and spans", body = InvocationTrace),
              (status = 404, description = "It was not kept, or not for so long", body = ApiError)))]
pub(super) async fn trace(
    State(api): State<Arc<Api>>,
    Invocation(id): Invocation,
) -> Result<Json<InvocationTrace>> {
    let recorder = Arc::clone(api.engine.recorder());
    let found = run_blocking(move || recorder.trace(&id.to_string())).await?;
    found.map(Json).ok_or_else(|| {
        Failure::new(ErrorCode::NotFound, format!("the trace of invocation {id} is not kept")).hint(
            "kept are the last 100 of each function, and those that failed or took longer than its [slo]",
        )
    })
}

/// The node and its functions as metrics.
#[utoipa::path(get, path = "/metrics", tag = "telemetry",
    responses((status = 200, description = "Prometheus' text format, or OpenMetrics where `Accept` names it",
               body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(api): State<Arc<Api>>, headers: HeaderMap) -> Result<Response> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::accepted(accept);
    let engine = api.engine.clone();
    let text = run_blocking(move || {
        let health = engine.health();
        let node = NodeFigures {
            version: health.version,
            instances: health.instances.into(),
            queued: health.queued.into(),
            uptime_s: health.uptime_s,
            agent_bytes: health.agent_rss_kb * 1024,
            ..NodeFigures::default()
        };
        Ok::<_, Failure>(engine.recorder().metrics(node, format))
    });
    let content_type = HeaderValue::from_static(format.content_type());
    Ok(([(header::CONTENT_TYPE, content_type)], text.await?).into_response())
}
