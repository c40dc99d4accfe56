//! Invoking a function by the control API, and what all ways to invoke share.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use serde::de::IgnoredAny;
use stratos_api::{Accepted, ApiError, ErrorCode, header as names};
use stratos_store::AsyncRequest;
use stratos_types::{FunctionKey, InvocationId, TraceContext, Version};

use super::Api;
use super::auth::PAYLOAD_TIME;
use super::errors::{Failure, Result, respond};
use super::extract::{Function, Params};
use super::headers::{add_meta, span};
use super::timed::{Answered, Began};
use crate::body::{self, MAX_PAYLOAD};
use crate::clock::now_ms;
use crate::engine::{Answer, Engine, EntryKind, InvokeRequest, Meta, Outcome, Payload, Trigger};

/// How a caller waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Sync,
    Async,
}

#[derive(Deserialize)]
pub(super) struct InvokeParams {
    #[serde(default)]
    mode: Mode,
    version: Option<Version>,
}

/// Invokes a function.
#[utoipa::path(post, path = "/v1/functions/{name}/invoke", tag = "invocations",
    params(("name" = String, Path, description = "Function"),
           ("mode" = Option<String>, Query, description = "`sync` (default), or `async`: stored, answered 202, run soon"),
           ("version" = Option<u64>, Query, description = "A version other than the current one"),
           ("traceparent" = Option<String>, Header, description = "W3C trace context of the caller")),
    request_body(content = serde_json::Value, description = "The event, JSON of at most 6 MiB; for `$PORT` \
        functions the body of a POST to `/`"),
    responses((status = 200, description = "The function's answer; the headers `stratos-invocation`, \
               `stratos-start`, `stratos-version`, `server-timing` and `traceparent` tell how it was run"),
              (status = 202, description = "With `mode=async`: stored", body = Accepted),
              (status = 404, description = "No such function or version", body = ApiError),
              (status = 413, description = "The payload is over 6 MiB", body = ApiError),
              (status = 429, description = "The function's queue is full", body = ApiError),
              (status = 502, description = "The function failed: see `code`", body = ApiError),
              (status = 504, description = "It did not answer in time", body = ApiError)))]
pub(super) async fn invoke(
    State(api): State<Arc<Api>>,
    Function(key): Function,
    Params(params): Params<InvokeParams>,
    request: Request,
) -> Result<Response> {
    let call = Call::new(request.extensions());
    let (parts, body) = request.into_parts();
    let (kind, payload) = receive(&api.engine, &key, body).await?;
    let trace = span(&api.engine, &parts.headers, &payload);
    if params.mode == Mode::Async {
        let event = checked(kind, payload)?;
        let request = call.stored(key, params.version, event, &trace, None);
        api.engine.invoke_async(request).await?;
        return Ok(accepted(call.id));
    }
    let payload = match kind {
        EntryKind::Handler => Payload::Event(event(payload)?),
        EntryKind::Http => Payload::Http(Box::new(post(&parts, payload))),
    };
    let outcome = api.engine.invoke(call.request(key, params.version, payload, trace, None)).await;
    Ok(answer(outcome))
}

/// One invocation as it begins at the edge: its time counts from here.
#[derive(Clone, Copy)]
pub(super) struct Call {
    pub(super) id: InvocationId,
    began: Instant,
    arrived: Instant,
}

impl Call {
    /// The invocation that a request asks for; its extensions tell when it began to arrive.
    pub(super) fn new(extensions: &http::Extensions) -> Self {
        let arrived = Instant::now();
        let began = extensions.get().map_or(arrived, |Began(at)| *at);
        Self { id: InvocationId::random(), began, arrived }
    }

    pub(super) fn request(
        self,
        key: FunctionKey,
        version: Option<Version>,
        payload: Payload,
        trace: TraceContext,
        client_context: Option<String>,
    ) -> InvokeRequest {
        let Self { id, began, arrived } = self;
        let trigger = Trigger::Http;
        InvokeRequest { key, version, id, payload, trace, trigger, began, arrived, client_context }
    }

    pub(super) fn stored(
        self,
        key: FunctionKey,
        version: Option<Version>,
        payload: Bytes,
        trace: &TraceContext,
        client_context: Option<String>,
    ) -> AsyncRequest {
        AsyncRequest {
            id: self.id,
            key,
            version,
            payload: payload.into(),
            traceparent: trace.traceparent(),
            tracestate: trace.tracestate().map(str::to_owned),
            client_context,
            accepted_at_ms: now_ms(),
        }
    }
}

/// Finds the function, then reads the payload: nobody uploads 6 MiB to be told that a name is wrong.
pub(super) async fn receive(engine: &Engine, key: &FunctionKey, payload: Body) -> Result<(EntryKind, Bytes)> {
    match engine.kind(key).await {
        Ok(kind) => Ok((kind, body::read(payload, MAX_PAYLOAD, PAYLOAD_TIME).await?)),
        Err(error) => {
            body::discard(payload);
            Err(error.into())
        }
    }
}

/// An event as handlers get it: JSON; no payload is an empty object, as with AWS.
pub(super) fn event(payload: Bytes) -> Result<Bytes> {
    if payload.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    match serde_json::from_slice::<IgnoredAny>(&payload) {
        Ok(_) => Ok(payload),
        Err(error) => Err(Failure::new(ErrorCode::BadRequest, format!("the payload is not JSON: {error}"))
            .hint("handlers take JSON; a text is \"in quotes\"")),
    }
}

pub(super) fn checked(kind: EntryKind, payload: Bytes) -> Result<Bytes> {
    match kind {
        EntryKind::Handler => event(payload),
        EntryKind::Http => Ok(payload),
    }
}

/// The request that a `$PORT` function gets when it is invoked rather than called by its URL.
fn post(parts: &Parts, payload: Bytes) -> http::Request<body::BoxBody> {
    let mut request = http::Request::new(body::full(payload));
    *request.method_mut() = Method::POST;
    for name in [header::HOST, header::CONTENT_TYPE, header::ACCEPT, header::USER_AGENT] {
        if let Some(value) = parts.headers.get(&name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    request
}

fn accepted(id: InvocationId) -> Response {
    let invocation = id.to_string();
    let value = HeaderValue::from_str(&invocation).expect("an id is a header value");
    let name = HeaderName::from_static(names::INVOCATION);
    (StatusCode::ACCEPTED, [(name, value)], Json(Accepted { invocation })).into_response()
}

/// An outcome as it is: what a handler returned is the body, what a `$PORT` function answered is the answer.
fn answer(outcome: Outcome) -> Response {
    let Outcome { meta, result } = outcome;
    let response = match result {
        Ok(Answer::Event(bytes)) => ok(HeaderValue::from_static("application/json"), Body::from(bytes)),
        Ok(Answer::EventStream { content_type, body }) => {
            let octets = HeaderValue::from_static("application/octet-stream");
            ok(content_type.unwrap_or(octets), Body::new(body))
        }
        Ok(Answer::Http(response)) => response.map(Body::new),
        Err(error) => respond(&error),
    };
    with_meta(response, &meta)
}

pub(super) fn ok(content_type: HeaderValue, body: Body) -> Response {
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}

pub(super) fn with_meta(mut response: Response, meta: &Meta) -> Response {
    add_meta(response.headers_mut(), meta);
    if let Some((at, late)) = &meta.answered {
        response.extensions_mut().insert(Answered(*at, Arc::clone(late)));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_json() {
        for (payload, want) in
            [("", Some("{}")), ("{}", Some("{}")), (" [1] ", Some(" [1] ")), ("hi", None), ("{", None)]
        {
            match (event(Bytes::from_static(payload.as_bytes())), want) {
                (Ok(got), Some(want)) => assert_eq!(got, want),
                (Err(error), None) => assert_eq!(error.into_inner().code, ErrorCode::BadRequest),
                (got, _) => panic!("{payload}: {got:?}"),
            }
        }
        let any = Bytes::from_static(b"\xff");
        assert_eq!(checked(EntryKind::Http, any.clone()).unwrap(), any);
        assert!(checked(EntryKind::Handler, any).is_err());
    }
}
