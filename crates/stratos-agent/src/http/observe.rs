//! What the node knows about itself and about invocations: health, records, asynchronous invocations.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use stratos_api::{ApiError, AsyncInvocation, ErrorCode, Health, InvocationRecord, Liveness};
use stratos_store::{AsyncRecord, AsyncState};
use stratos_types::{FunctionKey, InvocationId};

use super::Api;
use super::errors::{Failure, Result};
use super::extract::{Function, Invocation, Origin, Params, blocking, run_blocking};
use crate::clock::rfc3339_ms;

/// How the node is. Without a token only that it is, and its version.
#[utoipa::path(get, path = "/v1/health", tag = "node",
    responses((status = 200, description = "It answers. Callers without the token get `status` and `version` only",
               body = Health)))]
pub(super) async fn health(State(api): State<Arc<Api>>, origin: Origin) -> Response {
    match origin.caller.is_known() {
        true => Json(api.engine.health()).into_response(),
        false => {
            Json(Liveness { status: "ok".into(), version: env!("CARGO_PKG_VERSION").into() }).into_response()
        }
    }
}

#[derive(Deserialize)]
pub(super) struct RecordParams {
    #[serde(default = "default_limit")]
    limit: usize,
    #[serde(default)]
    errors: bool,
}

/// Most failed invocations in one answer: each is read from a file.
const MOST_ERRORS: usize = 1000;

fn default_limit() -> usize {
    20
}

/// The last invocations of a function.
#[utoipa::path(get, path = "/v1/functions/{name}/invocations", tag = "invocations",
    params(("name" = String, Path, description = "Function"),
           ("limit" = Option<u64>, Query, description = "Most records; the node remembers 100 [default: 20]"),
           ("errors" = Option<bool>, Query, description = "Those that failed alone, which are remembered longer")),
    responses((status = 200, description = "Newest first", body = Vec<InvocationRecord>),
              (status = 404, description = "No such function", body = ApiError)))]
pub(super) async fn invocations(
    State(api): State<Arc<Api>>,
    Function(key): Function,
    Params(params): Params<RecordParams>,
) -> Result<Json<Vec<InvocationRecord>>> {
    api.engine.kind(&key).await?;
    if !params.errors {
        return Ok(Json(api.engine.records(&key, params.limit)));
    }
    let recorder = Arc::clone(api.engine.recorder());
    let limit = params.limit.min(MOST_ERRORS);
    run_blocking(move || recorder.errors(key.name.as_str(), limit)).await.map(Json)
}

/// State of one asynchronous invocation.
#[utoipa::path(get, path = "/v1/invocations/{id}", tag = "invocations",
    params(("id" = String, Path, description = "The id that the 202 gave")),
    responses((status = 200, description = "Its state", body = AsyncInvocation),
              (status = 404, description = "None of that id is known (any more)", body = ApiError)))]
pub(super) async fn invocation(
    State(api): State<Arc<Api>>,
    Invocation(id): Invocation,
) -> Result<Json<AsyncInvocation>> {
    Ok(Json(shown(&stored(&api, id).await?)))
}

/// Asynchronous invocations of a function that failed for good.
#[utoipa::path(get, path = "/v1/functions/{name}/dead-letters", tag = "invocations",
    params(("name" = String, Path, description = "Function")),
    responses((status = 200, description = "Oldest first", body = Vec<AsyncInvocation>)))]
pub(super) async fn dead_letters(
    State(api): State<Arc<Api>>,
    Function(key): Function,
) -> Result<Json<Vec<AsyncInvocation>>> {
    // Those of a removed function stay until they are forgotten, so its name need not exist.
    let store = api.engine.store().clone();
    let records = blocking(move || store.dead_letters(&key)).await?;
    Ok(Json(records.iter().map(shown).collect()))
}

/// Queues a dead letter again.
#[utoipa::path(post, path = "/v1/functions/{name}/dead-letters/{id}", tag = "invocations",
    params(("name" = String, Path, description = "Function"), ("id" = String, Path, description = "Invocation")),
    responses((status = 202, description = "It is queued", body = AsyncInvocation),
              (status = 404, description = "No such dead letter", body = ApiError),
              (status = 409, description = "It is not dead", body = ApiError)))]
pub(super) async fn requeue(
    State(api): State<Arc<Api>>,
    Function(key): Function,
    Invocation(id): Invocation,
) -> Result<(StatusCode, Json<AsyncInvocation>)> {
    dead_letter(&api, &key, id, "queued again").await?;
    let (store, tenant) = (api.engine.store().clone(), api.tenant.clone());
    blocking(move || store.requeue(&tenant, id)).await?;
    api.engine.wake_async();
    Ok((StatusCode::ACCEPTED, Json(shown(&stored(&api, id).await?))))
}

/// Forgets a dead letter.
#[utoipa::path(delete, path = "/v1/functions/{name}/dead-letters/{id}", tag = "invocations",
    params(("name" = String, Path, description = "Function"), ("id" = String, Path, description = "Invocation")),
    responses((status = 204, description = "It is forgotten"),
              (status = 404, description = "No such dead letter", body = ApiError),
              (status = 409, description = "It is not dead", body = ApiError)))]
pub(super) async fn forget(
    State(api): State<Arc<Api>>,
    Function(key): Function,
    Invocation(id): Invocation,
) -> Result<StatusCode> {
    dead_letter(&api, &key, id, "forgotten").await?;
    let (store, tenant) = (api.engine.store().clone(), api.tenant.clone());
    blocking(move || store.forget(&tenant, id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn stored(api: &Api, id: InvocationId) -> Result<AsyncRecord> {
    let (store, tenant) = (api.engine.store().clone(), api.tenant.clone());
    let record = blocking(move || store.async_record(&tenant, id)).await?;
    record.ok_or_else(|| {
        Failure::new(ErrorCode::NotFound, format!("no asynchronous invocation {id} is known"))
            .hint("the node remembers the last 10,000 that succeeded, and all others")
    })
}

/// Makes sure that an invocation is one of this function that failed for good, and may so be `changed`.
async fn dead_letter(api: &Api, key: &FunctionKey, id: InvocationId, changed: &str) -> Result<()> {
    let record = stored(api, id).await?;
    if record.request.key != *key {
        let message = format!("{id} is not an invocation of `{}`", key.name);
        return Err(Failure::new(ErrorCode::NotFound, message));
    }
    if record.state != AsyncState::Dead {
        let message = format!("invocation {id} is not dead but {}", state_name(record.state));
        let hint = format!("only invocations that failed for good can be {changed}");
        return Err(Failure::new(ErrorCode::Conflict, message).hint(hint));
    }
    Ok(())
}

fn state_name(state: AsyncState) -> &'static str {
    match state {
        AsyncState::Queued { .. } => "queued",
        AsyncState::Running => "running",
        AsyncState::Succeeded => "succeeded",
        AsyncState::Dead => "dead",
    }
}

fn shown(record: &AsyncRecord) -> AsyncInvocation {
    // The engine stores errors as this API says them; a text from elsewhere is shown as it is.
    let error = |text: &String| {
        serde_json::from_str(text).unwrap_or_else(|_| ApiError::new(ErrorCode::Internal, text.clone()))
    };
    let next = match record.state {
        AsyncState::Queued { not_before_ms } => Some(rfc3339_ms(not_before_ms)),
        _ => None,
    };
    AsyncInvocation {
        id: record.request.id.to_string(),
        function: record.request.key.name.to_string(),
        state: state_name(record.state).to_owned(),
        attempts: record.attempts,
        accepted_at: rfc3339_ms(record.request.accepted_at_ms),
        next_attempt_at: next,
        last_error: record.last_error.as_ref().map(error),
    }
}

#[cfg(test)]
mod tests {
    use stratos_store::AsyncRequest;

    use super::*;

    #[test]
    fn records_are_shown_with_what_comes_next() {
        let error = serde_json::to_string(&ApiError::new(ErrorCode::FunctionError, "no")).unwrap();
        let record = AsyncRecord {
            request: AsyncRequest {
                id: InvocationId::random(),
                key: FunctionKey::of_default_tenant("hello".parse().unwrap()),
                version: None,
                payload: Vec::new(),
                traceparent: String::new(),
                tracestate: None,
                client_context: None,
                accepted_at_ms: 0,
            },
            state: AsyncState::Queued { not_before_ms: 1500 },
            attempts: 2,
            last_error: Some(error),
        };
        let queued = shown(&record);
        assert_eq!((queued.state.as_str(), queued.attempts), ("queued", 2));
        assert_eq!(queued.next_attempt_at.as_deref(), Some("1970-01-01T00:00:01.500Z"));
        assert_eq!(queued.last_error.unwrap().code, ErrorCode::FunctionError);
        let dead = shown(&AsyncRecord { state: AsyncState::Dead, last_error: Some("odd".into()), ..record });
        assert_eq!((dead.state.as_str(), dead.next_attempt_at), ("dead", None));
        assert_eq!(dead.last_error.unwrap().message, "odd");
    }
}
