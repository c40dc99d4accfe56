//! AWS Lambda's Invoke: boto3, the aws CLI and every AWS SDK reach functions here with an `endpoint_url`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use stratos_api::{ApiError, ErrorCode, LogLine};
use stratos_types::FunctionKey;
use tokio::sync::broadcast;

use super::Api;
use super::aws_error::{AwsError, function_error};
use super::aws_name::{AwsName, AwsNameError};
use super::errors::Failure;
use super::headers::span;
use super::invoke::{Call, checked, receive, with_meta};
use crate::body::{self, MAX_PAYLOAD, ReadError};
use crate::engine::{Answer, Outcome, Payload};

const INVOCATION_TYPE: &str = "x-amz-invocation-type";
const LOG_TYPE: &str = "x-amz-log-type";
const CLIENT_CONTEXT: &str = "x-amz-client-context";
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const EXECUTED_VERSION: HeaderName = HeaderName::from_static("x-amz-executed-version");
const LOG_RESULT: HeaderName = HeaderName::from_static("x-amz-log-result");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

/// Most of a log that an answer carries, in bytes: AWS's limit.
const LOG_TAIL: usize = 4 << 10;
/// Silence after which no more log lines of an answered invocation are expected: they cross a pipe of their own.
const LOG_SILENCE: Duration = Duration::from_millis(20);
/// Longest client context, in bytes of base64: AWS's limit.
const MAX_CLIENT_CONTEXT: usize = 3583;
/// How long a streamed answer may take to collect: longer than any function may run.
const COLLECT_TIME: Duration = Duration::from_secs(16 * 60);
/// Memory of answers that are being collected: their own, for functions may take long where clients may not.
static ANSWERS: body::Budget = body::Budget::new(256 << 20);

/// How an AWS client wants to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InvocationType {
    RequestResponse,
    Event,
    DryRun,
}

#[derive(Deserialize)]
struct Qualifier {
    #[serde(rename = "Qualifier")]
    qualifier: Option<String>,
}

/// AWS Lambda's Invoke.
#[utoipa::path(post, path = "/2015-03-31/functions/{name}/invocations", tag = "aws",
    params(("name" = String, Path, description = "Name, name:version, or ARN"),
           ("Qualifier" = Option<String>, Query, description = "`$LATEST` or a version's number"),
           ("X-Amz-Invocation-Type" = Option<String>, Header, description = "`RequestResponse`, `Event` or `DryRun`"),
           ("X-Amz-Log-Type" = Option<String>, Header, description = "`Tail`: the last 4 KiB of log in the answer"),
           ("X-Amz-Client-Context" = Option<String>, Header, description = "Base64 of JSON for the handler")),
    request_body(content = serde_json::Value, description = "The event, JSON of at most 6 MiB"),
    responses((status = 200, description = "The function's answer, or its error with `X-Amz-Function-Error`"),
              (status = 202, description = "`Event`: stored, to be run soon"),
              (status = 204, description = "`DryRun`: it could be invoked"),
              (status = 404, description = "ResourceNotFoundException"),
              (status = 413, description = "RequestTooLargeException"),
              (status = 429, description = "TooManyRequestsException"),
              (status = 500, description = "ServiceException")))]
pub(super) async fn invoke(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let call = Call::new(request.extensions());
    let mut response = match run(api, call, name, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    response.headers_mut().insert(REQUEST_ID, text(&call.id.to_string()));
    response
}

async fn run(api: Arc<Api>, call: Call, name: String, request: Request) -> Result<Response, AwsError> {
    let (parts, body) = request.into_parts();
    let asked = match Asked::read(&name, &parts) {
        Ok(asked) => asked,
        Err(error) => {
            body::discard(body);
            return Err(error);
        }
    };
    let key = FunctionKey { tenant: api.tenant.clone(), name: asked.name.name };
    let version = asked.name.version;
    let (kind, payload) = receive(&api.engine, &key, body).await.map_err(exception)?;
    let payload = checked(kind, payload).map_err(exception)?;
    let trace = span(&api.engine, &parts.headers, &payload);
    match asked.kind {
        InvocationType::DryRun => Ok(StatusCode::NO_CONTENT.into_response()),
        InvocationType::Event => {
            let request = call.stored(key, version, payload, &trace, asked.client_context);
            api.engine.invoke_async(request).await?;
            Ok(StatusCode::ACCEPTED.into_response())
        }
        InvocationType::RequestResponse => {
            let spec = api.engine.spec(&key).await?;
            let log = asked.wants_log.then(|| api.engine.log(&key).subscribe());
            let payload = Payload::Event(payload);
            let request = call.request(key, version, payload, trace, asked.client_context);
            let outcome = api.engine.invoke(request).await;
            let mut response = answer(outcome, spec.timeout.duration().as_secs_f64()).await?;
            if let Some(log) = log {
                let tail = log_tail(log, &call.id.to_string()).await;
                response.headers_mut().insert(LOG_RESULT, text(&STANDARD.encode(tail)));
            }
            Ok(response)
        }
    }
}

fn exception(failure: Failure) -> AwsError {
    failure.into_inner().into()
}

/// What a request asks for, besides its payload.
struct Asked {
    name: AwsName,
    kind: InvocationType,
    wants_log: bool,
    client_context: Option<String>,
}

impl Asked {
    fn read(name: &str, parts: &http::request::Parts) -> Result<Self, AwsError> {
        let query = axum::extract::Query::<Qualifier>::try_from_uri(&parts.uri);
        let query = query.map_err(|e| AwsError::invalid_parameter(e.body_text()))?;
        let name = AwsName::parse(name, query.0.qualifier.as_deref()).map_err(|error| {
            let name: String = name.chars().take(200).collect();
            match error {
                AwsNameError::Conflict => AwsError::invalid_parameter(format!("{name}: {error}")),
                _ => AwsError::not_found(format!("Function not found: {name} ({error})")),
            }
        })?;
        let kind = match header(&parts.headers, INVOCATION_TYPE)? {
            None | Some("RequestResponse") => InvocationType::RequestResponse,
            Some("Event") => InvocationType::Event,
            Some("DryRun") => InvocationType::DryRun,
            Some(_) => {
                let message = "X-Amz-Invocation-Type is none of RequestResponse, Event, DryRun";
                return Err(AwsError::invalid_parameter(message));
            }
        };
        let wants_log = match header(&parts.headers, LOG_TYPE)? {
            None | Some("None") => false,
            Some("Tail") => true,
            Some(_) => return Err(AwsError::invalid_parameter("X-Amz-Log-Type is neither None nor Tail")),
        };
        let client_context = header(&parts.headers, CLIENT_CONTEXT)?.map(client_context).transpose()?;
        Ok(Self { name, kind, wants_log, client_context })
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, AwsError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| AwsError::invalid_parameter(format!("{name} is not text")))
}

/// Base64 of JSON into JSON that fits into a header of the Runtime API: one line, ASCII.
fn client_context(encoded: &str) -> Result<String, AwsError> {
    let wrong = || AwsError::invalid_content("Client context must be a valid Base64-encoded JSON object.");
    if encoded.len() > MAX_CLIENT_CONTEXT {
        return Err(wrong());
    }
    let value: Map<String, Value> =
        STANDARD.decode(encoded).ok().and_then(|b| serde_json::from_slice(&b).ok()).ok_or_else(wrong)?;
    let json = Value::Object(value).to_string();
    let mut ascii = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            ' '..='~' => ascii.push(character),
            // Characters beyond ASCII stand in texts only, where JSON has an escape for them.
            _ => character
                .encode_utf16(&mut [0; 2])
                .iter()
                .for_each(|unit| ascii.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    Ok(ascii)
}

/// What the function returned, or its error as AWS says it. A failure that is not the function's is an exception.
async fn answer(outcome: Outcome, timeout_s: f64) -> Result<Response, AwsError> {
    let Outcome { meta, result } = outcome;
    let result = match result {
        Ok(answer) => collected(answer).await,
        Err(error) => Err(error),
    };
    let id = meta.id.to_string();
    let (payload, failed) = match result {
        Ok(payload) => (payload, false),
        Err(error) => match function_error(&error, &id, Some(timeout_s)) {
            Some(json) => (Bytes::from(json.to_string()), true),
            None => return Err(error.into()),
        },
    };
    let mut response = super::invoke::ok(HeaderValue::from_static("application/json"), Body::from(payload));
    if failed {
        response.headers_mut().insert(FUNCTION_ERROR, HeaderValue::from_static("Unhandled"));
    }
    let version = meta.version.map_or(HeaderValue::from_static("$LATEST"), HeaderValue::from);
    response.headers_mut().insert(EXECUTED_VERSION, version);
    Ok(with_meta(response, &meta))
}

/// Invoke answers with one payload. A `$PORT` function's answer is given as a handler would have returned it.
async fn collected(answer: Answer) -> Result<Bytes, ApiError> {
    match answer {
        Answer::Event(bytes) => Ok(bytes),
        Answer::EventStream { body, .. } => collect(body).await,
        Answer::Http(response) => {
            let (parts, body) = response.into_parts();
            let body = collect(body).await?;
            Ok(as_returned(parts.status, &parts.headers, &body).to_string().into())
        }
    }
}

async fn collect(body: body::BoxBody) -> Result<Bytes, ApiError> {
    let broke_off = || ApiError::new(ErrorCode::FunctionBadResponse, "the function's answer broke off");
    // The engine keeps the function's own deadline, and its error for that is more telling than one made here.
    match body::read_with(&ANSWERS, Body::new(body), MAX_PAYLOAD, COLLECT_TIME).await {
        Ok(bytes) => Ok(bytes),
        Err(ReadError::TooLarge { .. }) => {
            Err(ApiError::new(ErrorCode::FunctionBadResponse, "the function's answer is over 6 MiB"))
        }
        Err(ReadError::TimedOut { .. }) => {
            Err(ApiError::new(ErrorCode::FunctionTimeout, "the function's answer did not end"))
        }
        Err(ReadError::Broken { source }) => {
            let inner = source.downcast::<axum::Error>().map(|e| e.into_inner());
            Err(match inner.map(|e| e.downcast::<ApiError>()) {
                Ok(Ok(error)) => *error,
                Ok(Err(error)) => broke_off().caused_by(&*error),
                Err(error) => broke_off().caused_by(&*error),
            })
        }
    }
}

fn as_returned(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Value {
    let mut joined: Map<String, Value> = Map::new();
    for name in headers.keys().filter(|name| *name != http::header::SET_COOKIE) {
        let values: Vec<_> =
            headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect();
        joined.insert(name.to_string(), values.join(",").into());
    }
    let cookies: Vec<_> = headers
        .get_all(http::header::SET_COOKIE)
        .iter()
        .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
        .collect();
    let (body, encoded) = match std::str::from_utf8(body) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (STANDARD.encode(body), true),
    };
    json!({
        "statusCode": status.as_u16(),
        "headers": joined,
        "cookies": cookies,
        "body": body,
        "isBase64Encoded": encoded,
    })
}

/// The last of an invocation's log lines, as far as they were logged as its own.
async fn log_tail(mut lines: broadcast::Receiver<LogLine>, id: &str) -> Vec<u8> {
    let mut tail = Vec::new();
    loop {
        match tokio::time::timeout(LOG_SILENCE, lines.recv()).await {
            Ok(Ok(line)) if line.invocation.as_deref() == Some(id) => {
                tail.extend_from_slice(line.message.as_bytes());
                tail.push(b'\n');
                if tail.len() > 2 * LOG_TAIL {
                    cut(&mut tail);
                }
            }
            // Lines of others; or some were missed, which can only be early ones.
            Ok(Ok(_) | Err(broadcast::error::RecvError::Lagged(_))) => {}
            Ok(Err(broadcast::error::RecvError::Closed)) | Err(_) => break,
        }
    }
    cut(&mut tail);
    tail
}

fn cut(tail: &mut Vec<u8>) {
    tail.drain(..tail.len().saturating_sub(LOG_TAIL));
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("ids and base64 are header values")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(query: &str, headers: &[(&str, &str)]) -> Result<Asked, AwsError> {
        let mut request = http::Request::builder().uri(format!("/x{query}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Asked::read("hello", &request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn requests_are_read_as_aws_reads_them() {
        let plain = asked("", &[]).unwrap();
        assert_eq!((plain.kind, plain.wants_log), (InvocationType::RequestResponse, false));
        let full = [
            (INVOCATION_TYPE, "Event"),
            (LOG_TYPE, "Tail"),
            (CLIENT_CONTEXT, "eyJjdXN0b20iOiB7ImEiOiAiw7wifX0="),
        ];
        let full = asked("?Qualifier=7", &full).unwrap();
        assert_eq!((full.kind, full.wants_log, full.name.version), (InvocationType::Event, true, Some(7)));
        assert_eq!(full.client_context.as_deref(), Some("{\"custom\":{\"a\":\"\\u00fc\"}}"));
        for (query, headers, status) in [
            ("?Qualifier=prod", &[][..], 404),
            ("", &[(INVOCATION_TYPE, "Maybe")], 400),
            ("", &[(LOG_TYPE, "All")], 400),
            ("", &[(CLIENT_CONTEXT, "?")], 400),
            ("", &[(CLIENT_CONTEXT, "W10=")], 400),
        ] {
            let error = asked(query, headers).err().unwrap();
            assert_eq!(error.into_response().status().as_u16(), status, "{query} {headers:?}");
        }
    }

    #[test]
    fn a_servers_answer_looks_like_a_handlers() {
        let mut headers = HeaderMap::new();
        headers.append("a", HeaderValue::from_static("1"));
        headers.append("a", HeaderValue::from_static("2"));
        headers.append("set-cookie", HeaderValue::from_static("c=d"));
        let json = as_returned(StatusCode::CREATED, &headers, b"hi");
        let want = json!({ "statusCode": 201, "headers": { "a": "1,2" }, "cookies": ["c=d"], "body": "hi", "isBase64Encoded": false });
        assert_eq!(json, want);
        // And a function URL would make the same of it.
        let (head, body) = super::super::url_answer::parse(&json.to_string().into()).unwrap();
        assert_eq!((head.status.as_u16(), &body[..]), (201, &b"hi"[..]));
        assert_eq!(as_returned(StatusCode::OK, &headers, b"\xff")["isBase64Encoded"], true);
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_tail_is_this_invocations_last_4_kib() {
        let (sender, receiver) = broadcast::channel(64);
        let line = |invocation: Option<&str>, message: String| LogLine {
            at: String::new(),
            stream: "stdout".into(),
            instance: String::new(),
            invocation: invocation.map(str::to_owned),
            message,
        };
        for i in 0..20 {
            sender.send(line(Some("mine"), format!("{i:03} {}", "x".repeat(1000)))).unwrap();
            sender.send(line(Some("other"), "secret".into())).unwrap();
        }
        sender.send(line(Some("mine"), "last".into())).unwrap();
        let tail = String::from_utf8(log_tail(receiver, "mine").await).unwrap();
        assert_eq!(tail.len(), LOG_TAIL);
        assert!(tail.ends_with("\nlast\n") && tail.contains("019 ") && !tail.contains("secret"));
    }
}
