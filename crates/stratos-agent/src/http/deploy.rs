//! Takes a package in and has it deployed.
//!
//! The upload goes to a file first; what then happens does not depend on the client staying: a deploy that has
//! begun ends as a new version or as nothing.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use stratos_api::{ApiError, DeployEvent, ErrorCode, VersionInfo};
use stratos_artifact::{MOST_BYTES, is_artifact};
use stratos_types::{FunctionKey, FunctionName};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Api;
use super::control::version_info;
use super::errors::{Failure, Result};
use super::extract::{self, Function, Params};
use crate::body;
use crate::deploy::Deployment;
use crate::engine::failure;

/// Largest package in bytes, compressed as it comes.
pub(super) const MAX_PACKAGE: u64 = 100 << 20;
/// Longest pause between two pieces of an upload.
const PIECE_TIME: Duration = Duration::from_secs(30);
/// Events a slow client may fall behind before it misses lines of output. A deploy never waits for its audience.
const EVENT_BACKLOG: usize = 1024;
/// Newline-delimited JSON.
pub(super) const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");

#[derive(Deserialize)]
pub(super) struct DeployParams {
    #[serde(default)]
    stream: bool,
}

/// Makes the spool folder and removes what a killed predecessor left in it.
pub(super) fn prepare_spool(spool: &Path) -> io::Result<()> {
    std::fs::create_dir_all(spool)?;
    for entry in std::fs::read_dir(spool)? {
        std::fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// Deploys under the name that the package's `stratos.toml` gives.
#[utoipa::path(post, path = "/v1/functions", tag = "functions",
    params(("stream" = Option<bool>, Query, description = "Answer with the deploy's events as they happen (also by \
        `Accept: application/x-ndjson`); the last one is `done` or `failed`")),
    request_body(content = Vec<u8>, content_type = "application/x-tar",
                 description = "The function's folder as a tar archive, plain, gzip or zstd, at most 100 MiB; or an artifact"),
    responses((status = 201, description = "The new version is current", body = VersionInfo),
              (status = 200, description = "With `stream`: one JSON object a line", body = DeployEvent,
               content_type = "application/x-ndjson"),
              (status = 413, description = "The package is too large", body = ApiError),
              (status = 422, description = "Package, configuration or dependencies are wrong", body = ApiError)))]
pub(super) async fn deploy(
    State(api): State<Arc<Api>>,
    Params(params): Params<DeployParams>,
    request: Request,
) -> Result<Response> {
    receive(api, None, params, request).await
}

/// Deploys a new version of the function that the path names.
#[utoipa::path(post, path = "/v1/functions/{name}/versions", tag = "functions",
    params(("name" = String, Path, description = "Function; the package may leave its name out, not change it"),
           ("stream" = Option<bool>, Query, description = "Answer with the deploy's events as they happen (also by \
        `Accept: application/x-ndjson`); the last one is `done` or `failed`")),
    request_body(content = Vec<u8>, content_type = "application/x-tar",
                 description = "The function's folder as a tar archive, plain, gzip or zstd, at most 100 MiB; or an artifact"),
    responses((status = 201, description = "The new version is current", body = VersionInfo),
              (status = 200, description = "With `stream`: one JSON object a line", body = DeployEvent,
               content_type = "application/x-ndjson"),
              (status = 413, description = "The package is too large", body = ApiError),
              (status = 422, description = "Package, configuration or dependencies are wrong", body = ApiError)))]
pub(super) async fn deploy_named(
    State(api): State<Arc<Api>>,
    Function(key): Function,
    Params(params): Params<DeployParams>,
    request: Request,
) -> Result<Response> {
    receive(api, Some(key.name), params, request).await
}

async fn receive(
    api: Arc<Api>,
    name: Option<FunctionName>,
    params: DeployParams,
    request: Request,
) -> Result<Response> {
    let streamed = params.stream || accepts_ndjson(request.headers());
    let archive = spool(&api.spool, request.into_body(), MOST_BYTES).await?;
    let (sender, mut events) = mpsc::channel(EVENT_BACKLOG);
    // A task of its own: it goes on when the client has gone.
    let deploy = tokio::spawn(run(api, name, archive, sender));
    if !streamed {
        let (_, version, _) = ended(deploy).await?;
        return Ok((StatusCode::CREATED, Json(version)).into_response());
    }
    match events.recv().await {
        Some(first) => Ok(stream_events(first, events, deploy)),
        // It ended before anything happened: the status can still tell.
        None => {
            let (name, version, took_ms) = ended(deploy).await?;
            let done = DeployEvent::Done { name: name.to_string(), version: Box::new(version), took_ms };
            Ok(([(header::CONTENT_TYPE, NDJSON)], line(&done)).into_response())
        }
    }
}

pub(super) fn accepts_ndjson(headers: &HeaderMap) -> bool {
    let accepts = |value: &HeaderValue| value.to_str().is_ok_and(|v| v.contains("application/x-ndjson"));
    headers.get_all(header::ACCEPT).iter().any(accepts)
}

type Deployed = (FunctionName, VersionInfo, u64);

async fn run(
    api: Arc<Api>,
    name: Option<FunctionName>,
    archive: NamedTempFile,
    events: mpsc::Sender<DeployEvent>,
) -> Result<Deployed> {
    let began = Instant::now();
    let _turn = api.deploys.acquire().await.expect("the semaphore is never closed");
    let (deployer, tenant) = (Arc::clone(&api.deployer), api.tenant.clone());
    let deploy = move || {
        let mut progress = |event| match event {
            // How it ended is said once, below, when the engine knows of it.
            DeployEvent::Done { .. } | DeployEvent::Failed { .. } => {}
            // A client that does not read, or has gone, misses lines.
            event => events.try_send(event).unwrap_or_default(),
        };
        deployer.deploy(&tenant, name.as_ref(), archive.path(), &mut progress)
    };
    let Deployment { spec, record, checkpoint } = match tokio::task::spawn_blocking(deploy).await {
        Ok(result) => result.map_err(ApiError::from)?,
        Err(error) => {
            return Err(ApiError::new(ErrorCode::Internal, "the deploy failed in the node")
                .caused_by(&error)
                .into());
        }
    };
    let key = FunctionKey { tenant: api.tenant.clone(), name: spec.name.clone() };
    api.engine.function_changed(&key);
    let is_taken = checkpoint.is_some();
    if let Some(taken) = checkpoint {
        // Now that nobody looks for the checkpoint of the version before.
        let (engine, key, version) = (api.engine.clone(), key.clone(), record.version);
        extract::run_blocking(move || {
            engine.keep_checkpoint(&key, version, taken);
            Ok::<_, Failure>(())
        })
        .await?;
    }
    api.engine.prepare_checkpoint(&key).await;
    if is_taken {
        api.engine.checkpoint_read(&key).await;
    }
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok((spec.name, version_info(&api, &record, true), took_ms))
}

async fn ended(deploy: JoinHandle<Result<Deployed>>) -> Result<Deployed> {
    match deploy.await {
        Ok(result) => result,
        Err(error) => {
            Err(ApiError::new(ErrorCode::Internal, "the deploy failed in the node").caused_by(&error).into())
        }
    }
}

fn stream_events(
    first: DeployEvent,
    events: mpsc::Receiver<DeployEvent>,
    deploy: JoinHandle<Result<Deployed>>,
) -> Response {
    let progress = stream::unfold(events, |mut events| async move { Some((events.recv().await?, events)) });
    let last = async move {
        match ended(deploy).await {
            Ok((name, version, took_ms)) => {
                DeployEvent::Done { name: name.to_string(), version: Box::new(version), took_ms }
            }
            Err(error) => DeployEvent::Failed { error: Box::new(error.into_inner()) },
        }
    };
    let all = stream::iter([first]).chain(progress).chain(stream::once(last));
    let lines = all.map(|event| Ok::<_, std::convert::Infallible>(Bytes::from(line(&event))));
    ([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response()
}

/// One line of newline-delimited JSON.
pub(super) fn line(value: &impl serde::Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("wire types are JSON");
    line.push(b'\n');
    line
}

/// Writes an upload to a file, which is gone when the result is dropped. What is left of a refused one is read, for
/// most clients look for an answer only when they have sent everything. `most` bytes may be in an artifact.
pub(super) async fn spool(dir: &Path, mut body: Body, most: u64) -> Result<NamedTempFile> {
    let spooled = write_all(dir, &mut body, most).await;
    if spooled.is_err() {
        body::discard(body);
    }
    spooled
}

async fn write_all(dir: &Path, body: &mut Body, most: u64) -> Result<NamedTempFile> {
    let too_large = |limit: u64| {
        Failure::new(ErrorCode::PayloadTooLarge, format!("the package is over {} MiB", limit >> 20))
            .hint("leave out what the function does not need: a .stratosignore file names it")
    };
    let announced = http_body::Body::size_hint(body).lower();
    let archive = NamedTempFile::new_in(dir).map_err(|e| disk(&e))?;
    let mut file = tokio::fs::File::from_std(archive.reopen().map_err(|e| disk(&e))?);
    let (mut size, mut limit) = (0, None);
    // What is larger than a package may be must begin as an artifact does.
    let mut head = Vec::new();
    loop {
        let piece = tokio::time::timeout(PIECE_TIME, body.frame()).await;
        let slow = |_| Failure::new(ErrorCode::RequestTimeout, "the upload stalled");
        let Some(piece) = piece.map_err(slow)? else { break };
        let piece = piece.map_err(|_| Failure::new(ErrorCode::BadRequest, "the upload broke off"))?;
        let Ok(bytes) = piece.into_data() else { continue };
        size += bytes.len() as u64;
        head.extend(bytes.iter().take(8 - head.len()));
        if limit.is_none() && head.len() == 8 {
            limit = Some(if is_artifact(&head) { most } else { MAX_PACKAGE });
        }
        if let Some(limit) = limit
            && size.max(announced) > limit
        {
            return Err(too_large(limit));
        }
        file.write_all(&bytes).await.map_err(|e| disk(&e))?;
    }
    file.flush().await.map_err(|e| disk(&e))?;
    Ok(archive)
}

fn disk(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => failure::disk_full(error).into(),
        _ => ApiError::new(ErrorCode::StorageFailed, "the upload cannot be stored").caused_by(error).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn uploads_are_spooled_whole_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("left-over"), "x").unwrap();
        prepare_spool(dir.path()).unwrap();
        let pieces = stream::iter(["ab", "", "cd"].map(|p| Ok::<_, io::Error>(Bytes::from(p))));
        let archive = spool(dir.path(), Body::from_stream(pieces), 0).await.unwrap();
        assert_eq!(std::fs::read(archive.path()).unwrap(), b"abcd");
        drop(archive);
        let broken = stream::iter([Ok(Bytes::from("ab")), Err(io::Error::other("gone"))]);
        let error = spool(dir.path(), Body::from_stream(broken), 0).await.unwrap_err().into_inner();
        assert_eq!(error.code, ErrorCode::BadRequest);
        let piece = Bytes::from(vec![0; 1 << 20]);
        let endless = stream::repeat_with(move || Ok::<_, io::Error>(piece.clone()));
        let error = spool(dir.path(), Body::from_stream(endless), 0).await.unwrap_err().into_inner();
        assert_eq!(
            (error.code, error.message.as_str()),
            (ErrorCode::PayloadTooLarge, "the package is over 100 MiB")
        );
        // What begins as an artifact may be larger, but not of any size either.
        let piece = Bytes::from([&b"STRATART"[..], &[0; 1 << 20]].concat());
        let endless = stream::repeat_with(move || Ok::<_, io::Error>(piece.clone()));
        let error = spool(dir.path(), Body::from_stream(endless), 120 << 20).await.unwrap_err().into_inner();
        assert_eq!(error.message, "the package is over 120 MiB");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
