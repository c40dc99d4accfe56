//! The Lambda Runtime API, served to one instance inside its network namespace.
//!
//! The interface is AWS's "Lambda runtime API" version 2018-06-01, so its existing clients run unchanged. Nothing
//! the instance sends is trusted: ids must be of requests it holds, bodies are limited, headers are data.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use stratos_api::{ApiError, ErrorCode};
use stratos_telemetry::Late;
use stratos_types::{InvocationId, TraceContext};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::error_report;
use super::failure::{self, Hook};
use super::lock;
use crate::body::MAX_PAYLOAD;

/// What a client may send beyond that (AWS's own allowance).
const BODY_SLACK: usize = 100;
/// Most bytes of an error report.
const MAX_ERROR_BYTES: usize = 256 << 10;
/// Chunks of a streaming answer that wait for a slow client before the function waits.
const STREAM_BACKLOG: usize = 16;

/// Connections of an instance beyond one for each request at a time; more wait in the kernel, at its own cost.
const SPARE_CONNECTIONS: usize = 16;
/// Read buffer of a connection in bytes, and so the largest head.
const MAX_HEAD: usize = 64 << 10;

const PREFIX: &str = "/2018-06-01/runtime/";
/// How a client names the kind of an error.
const ERROR_TYPE: &str = "lambda-runtime-function-error-type";
/// The kind of error that hooks before a snapshot end with.
const BEFORE_SNAPSHOT: &[u8] = b"Runtime.BeforeSnapshotError";
/// The answer to `restore/next`.
const RESTORED: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

/// One request on its way to a handler.
pub(super) struct Job {
    pub(super) id: InvocationId,
    pub(super) payload: Bytes,
    pub(super) deadline: Instant,
    pub(super) trace: TraceContext,
    pub(super) client_context: Option<String>,
    /// When the runtime took it.
    pub(super) taken: Arc<OnceLock<Instant>>,
    /// Told how long the runtime goes on after its answer.
    pub(super) late: Arc<Late>,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// A request that the instance holds.
struct Held {
    reply: oneshot::Sender<Reply>,
    late: Arc<Late>,
}

/// What a handler made of it.
pub(super) enum Reply {
    Event(Bytes),
    Stream {
        content_type: Option<HeaderValue>,
        /// What it sends.
        chunks: mpsc::Receiver<Result<Bytes, StreamError>>,
        /// Resolves when the handler has sent all of it, or cannot any more.
        ended: oneshot::Receiver<()>,
    },
    Failed(ApiError),
}

/// Why a streaming answer ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("the function reported an error in the middle of its answer: {0}")]
    Reported(String),
    #[error("the function's answer broke off")]
    Broken,
}

/// How far the instance's start has come.
#[derive(Debug, Clone)]
pub(super) enum InitState {
    Running,
    /// It asked for its first request at this time.
    Ready(Instant),
    /// Its client has run its hooks, and waits on the connection from this address to be restored (SnapStart).
    AwaitsRestore(SocketAddr),
    Failed(ApiError),
    /// Hooks of a restored instance failed.
    RestoreFailed(ApiError),
}

/// What an instance is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartedAs {
    /// To serve.
    Fresh,
    /// To be dumped while its client waits for the answer to `restore/next`.
    Original,
    /// To serve, from where such a one was dumped.
    Restored,
}

/// The state behind one instance's Runtime API.
pub(super) struct RuntimeApi {
    jobs: tokio::sync::Mutex<mpsc::UnboundedReceiver<Job>>,
    in_flight: Mutex<HashMap<InvocationId, Held>>,
    /// The last answer, while the runtime has not asked for more.
    answered: Mutex<Option<(Instant, Arc<Late>)>>,
    init: watch::Sender<InitState>,
    started_as: StartedAs,
    arn: HeaderValue,
}

impl RuntimeApi {
    /// The API of a new instance, the way to give it requests, and the way to learn that it is ready.
    pub(super) fn new(
        arn: &str,
        started_as: StartedAs,
    ) -> (Arc<Self>, mpsc::UnboundedSender<Job>, watch::Receiver<InitState>) {
        let (sender, jobs) = mpsc::unbounded_channel();
        let (init, ready) = watch::channel(InitState::Running);
        let arn = HeaderValue::from_str(arn).expect("a function's ARN is made of names");
        let jobs = tokio::sync::Mutex::new(jobs);
        let (in_flight, answered) = (Mutex::default(), Mutex::default());
        let api = Self { jobs, in_flight, answered, init, started_as, arn };
        (Arc::new(api), sender, ready)
    }

    /// Serves connections until the task is aborted.
    pub(super) async fn serve(self: Arc<Self>, listener: tokio::net::TcpListener, concurrency: u32) {
        // One for each request at a time, and some for clients that open a new one before they close the old.
        let places = Arc::new(Semaphore::new(concurrency as usize + SPARE_CONNECTIONS));
        // The first connection of a restored instance was made before any of its code ran. On it an answer is awaited to a
        // request that was sent before the checkpoint.
        let mut unanswered = self.started_as == StartedAs::Restored;
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let (mut stream, client) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: others may be closed meanwhile.
                    tracing::warn!(%error, "cannot accept an instance's connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "no TCP_NODELAY for an instance's connection");
            }
            let api = Arc::clone(&self);
            let service = hyper::service::service_fn(move |request| {
                let api = Arc::clone(&api);
                async move { Ok::<_, Infallible>(api.answer(request, client).await) }
            });
            let answer = std::mem::take(&mut unanswered).then_some(RESTORED);
            tokio::spawn(async move {
                if let Some(answer) = answer
                    && let Err(error) = stream.write_all(answer).await
                {
                    tracing::debug!(%error, "an instance's connection ended before it was told that it is restored");
                    return;
                }
                let connection = hyper::server::conn::http1::Builder::new()
                    // Never pipeline_flush: with it hyper writes nothing while half of another request is read, so a client
                    // that sends without reading would make it keep answers without bound.
                    .max_buf_size(MAX_HEAD)
                    .serve_connection(TokioIo::new(stream), service);
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "an instance's connection ended");
                }
                drop(place);
            });
        }
    }

    /// Tells all whose requests the instance holds that it died.
    pub(super) fn fail_all(&self, error: &ApiError) {
        for (_, held) in lock(&self.in_flight).drain() {
            // Whoever gave up waiting needs no answer.
            drop(held.reply.send(Reply::Failed(error.clone())));
        }
    }

    async fn answer(&self, request: Request<Incoming>, client: SocketAddr) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let Some(path) = head.uri.path().strip_prefix(PREFIX) else {
            return refusal(StatusCode::NOT_FOUND, "InvalidPath", "no such path in the Runtime API");
        };
        let parts: Vec<&str> = path.split('/').collect();
        match (&head.method, parts.as_slice()) {
            (&Method::GET, ["invocation", "next"]) => self.next().await,
            (&Method::POST, ["invocation", id, "response"]) => self.response(id, &head.headers, body).await,
            (&Method::POST, ["invocation", id, "error"]) => self.error(id, &head.headers, body).await,
            (&Method::POST, ["init", "error"]) => self.init_error(&head.headers, body).await,
            (&Method::GET, ["restore", "next"]) => self.restore_next(client).await,
            (&Method::POST, ["restore", "error"]) => self.restore_error(&head.headers, body).await,
            _ => refusal(StatusCode::NOT_FOUND, "InvalidPath", "no such path in the Runtime API"),
        }
    }

    async fn next(&self) -> Response<Full<Bytes>> {
        self.init.send_if_modified(|init| {
            let first = matches!(init, InitState::Running);
            if first {
                *init = InitState::Ready(Instant::now());
            }
            first
        });
        if let Some((at, late)) = lock(&self.answered).take() {
            late.posted(at.elapsed().as_micros() as u64);
        }
        let job = self.jobs.lock().await.recv().await;
        let Some(job) = job else {
            return refusal(StatusCode::GONE, "Shutdown", "the instance is being ended");
        };
        let deadline_ms = (SystemTime::now() + job.deadline.saturating_duration_since(Instant::now()))
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        let mut response = Response::new(Full::new(job.payload));
        let headers = response.headers_mut();
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set("lambda-runtime-aws-request-id", &job.id.to_string());
        set("lambda-runtime-deadline-ms", &deadline_ms.to_string());
        set("lambda-runtime-trace-id", &job.trace.xray());
        set("traceparent", &job.trace.traceparent());
        if let Some(state) = job.trace.tracestate() {
            set("tracestate", state);
        }
        if let Some(context) = &job.client_context {
            set("lambda-runtime-client-context", context);
        }
        set("content-type", "application/json");
        headers.insert("lambda-runtime-invoked-function-arn", self.arn.clone());
        job.taken.get_or_init(Instant::now);
        lock(&self.in_flight).insert(job.id, Held { reply: job.reply, late: job.late });
        response
    }

    async fn response(&self, id: &str, headers: &HeaderMap, body: Incoming) -> Response<Full<Bytes>> {
        let Some(Held { reply, late }) = self.take(id) else { return unknown_request() };
        let mode = headers.get("lambda-runtime-function-response-mode");
        if mode.is_some_and(|m| m.as_bytes().eq_ignore_ascii_case(b"streaming")) {
            let response = self.stream(reply, headers, body).await;
            self.answered(late);
            return response;
        }
        match read_answer(body).await {
            Ok(Some(answer)) => {
                self.answered(late);
                // The caller gave up when the receiver is gone; the function did its part.
                drop(reply.send(Reply::Event(answer)));
                accepted()
            }
            Ok(None) => {
                drop(reply.send(Reply::Failed(failure::response_too_large(MAX_PAYLOAD))));
                refusal(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", "the answer is over 6 MiB")
            }
            Err(_) => {
                let message = "the function broke off its answer";
                drop(reply.send(Reply::Failed(ApiError::new(ErrorCode::FunctionBadResponse, message))));
                refusal(StatusCode::BAD_REQUEST, "InvalidBody", "the body broke off")
            }
        }
    }

    async fn stream(
        &self,
        reply: oneshot::Sender<Reply>,
        headers: &HeaderMap,
        mut body: Incoming,
    ) -> Response<Full<Bytes>> {
        let (sender, chunks) = mpsc::channel(STREAM_BACKLOG);
        let content_type = headers.get(header::CONTENT_TYPE).cloned();
        // Dropped at the end of this function, however it ends.
        let (_sending, ended) = oneshot::channel();
        drop(reply.send(Reply::Stream { content_type, chunks, ended }));
        while let Some(frame) = body.frame().await {
            let item = match frame.map(http_body::Frame::into_data) {
                Ok(Ok(data)) => Ok(data),
                Ok(Err(trailers)) => match trailers.into_trailers().ok().as_ref().and_then(stream_error) {
                    Some(error) => Err(error),
                    None => continue,
                },
                Err(_) => Err(StreamError::Broken),
            };
            let last = item.is_err();
            // A client that went away does not stop the function: the rest is read and dropped.
            if sender.send(item).await.is_err() || last {
                continue;
            }
        }
        accepted()
    }

    async fn error(&self, id: &str, headers: &HeaderMap, body: Incoming) -> Response<Full<Bytes>> {
        let Some(Held { reply, late }) = self.take(id) else { return unknown_request() };
        let detail = error_detail(headers, body).await;
        self.answered(late);
        drop(reply.send(Reply::Failed(failure::reported(ErrorCode::FunctionError, detail))));
        accepted()
    }

    async fn init_error(&self, headers: &HeaderMap, body: Incoming) -> Response<Full<Bytes>> {
        if !matches!(*self.init.borrow(), InitState::Running) {
            return refusal(StatusCode::FORBIDDEN, "InvalidStateTransition", "init is over");
        }
        let detail = error_detail(headers, body).await;
        let named = headers.get(ERROR_TYPE).map(HeaderValue::as_bytes);
        let error = match self.started_as {
            StartedAs::Original if named == Some(BEFORE_SNAPSHOT) => {
                failure::hook_failed(Hook::BeforeSnapshot, detail)
            }
            _ => failure::reported(ErrorCode::FunctionInitFailed, detail),
        };
        self.init.send_replace(InitState::Failed(error));
        accepted()
    }

    /// The client can be dumped: the answer comes in each instance that is restored, where nobody asks for it.
    async fn restore_next(&self, client: SocketAddr) -> Response<Full<Bytes>> {
        let awaits = self.started_as == StartedAs::Original
            && self.init.send_if_modified(|init| {
                let first = matches!(init, InitState::Running);
                if first {
                    *init = InitState::AwaitsRestore(client);
                }
                first
            });
        match awaits {
            true => std::future::pending().await,
            false => refusal(StatusCode::FORBIDDEN, "InvalidStateTransition", "there is nothing to restore"),
        }
    }

    async fn restore_error(&self, headers: &HeaderMap, body: Incoming) -> Response<Full<Bytes>> {
        let restoring =
            || self.started_as == StartedAs::Restored && matches!(*self.init.borrow(), InitState::Running);
        if !restoring() {
            return refusal(StatusCode::FORBIDDEN, "InvalidStateTransition", "nothing is being restored");
        }
        let detail = error_detail(headers, body).await;
        self.init.send_replace(InitState::RestoreFailed(failure::hook_failed(Hook::AfterRestore, detail)));
        accepted()
    }

    /// The runtime has given an answer. While it works on others nobody can tell what it goes on with.
    fn answered(&self, late: Arc<Late>) {
        let alone = lock(&self.in_flight).is_empty();
        *lock(&self.answered) = alone.then(|| (Instant::now(), late));
    }

    fn take(&self, id: &str) -> Option<Held> {
        lock(&self.in_flight).remove(&id.parse().ok()?)
    }
}

/// A whole answer; `None` when it is too large. What is too much is read all the same and dropped, so that the
/// connection stays usable; the request's deadline bounds how long that takes.
async fn read_answer(mut body: Incoming) -> Result<Option<Bytes>, hyper::Error> {
    let mut answer = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if length == 0 && body.is_end_stream() {
            // Most answers come in one piece, which need not be copied.
            return Ok((data.len() <= MAX_PAYLOAD + BODY_SLACK).then_some(data));
        }
        length += data.len();
        if length <= MAX_PAYLOAD + BODY_SLACK {
            answer.extend_from_slice(&data);
        }
    }
    Ok((length <= MAX_PAYLOAD + BODY_SLACK).then(|| answer.into()))
}

/// What the function reported.
async fn error_detail(headers: &HeaderMap, body: Incoming) -> Value {
    let body = match Limited::new(body, MAX_ERROR_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    error_report::parse(headers.get(ERROR_TYPE), &body)
}

fn stream_error(trailers: &HeaderMap) -> Option<StreamError> {
    let kind = trailers.get(ERROR_TYPE)?;
    Some(StreamError::Reported(String::from_utf8_lossy(kind.as_bytes()).into_owned()))
}

fn accepted() -> Response<Full<Bytes>> {
    json_response(StatusCode::ACCEPTED, &json!({ "status": "OK" }))
}

fn unknown_request() -> Response<Full<Bytes>> {
    refusal(StatusCode::BAD_REQUEST, "InvalidRequestID", "this instance holds no request of that id")
}

fn refusal(status: StatusCode, kind: &str, message: &str) -> Response<Full<Bytes>> {
    json_response(status, &json!({ "errorType": kind, "errorMessage": message }))
}

fn json_response(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
