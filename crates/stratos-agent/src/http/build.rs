//! Builds artifacts of packages, and keeps them until they are fetched. Nothing of what is built is deployed here.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use stratos_api::{ApiError, BuildEvent, BuildInfo, DeployEvent, ErrorCode, FileBody, LayerInfo};
use stratos_artifact::{ArtifactError, CheckpointPart, Code, Manifest, RuntimePart, Sources};
use stratos_checkpoint::image::Image;
use stratos_checkpoint::machine::cpu_flags;
use stratos_types::{CheckpointMode, Digest, FunctionKey, FunctionName, InstanceId};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use super::Api;
use super::deploy::{MAX_PACKAGE, NDJSON, accepts_ndjson, line, spool};
use super::errors::{Failure, Result};
use super::extract::{Id, Params, run_blocking};
use crate::deploy::{DeployError, Made};
use crate::engine::{Built, chain};

/// How long an artifact is kept, and how many are.
const KEPT: (Duration, usize) = (Duration::from_secs(600), 4);
/// Events a slow client may fall behind before it misses lines of output.
const EVENT_BACKLOG: usize = 1024;
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/vnd.stratos.artifact");

#[derive(Deserialize)]
pub(super) struct BuildParams {
    name: Option<String>,
    #[serde(default = "yes")]
    runtime: bool,
    #[serde(default = "yes")]
    checkpoint: bool,
    #[serde(default)]
    stream: bool,
}

fn parse_name(text: &str) -> Result<FunctionName> {
    text.parse::<FunctionName>().map_err(|error| Failure::new(ErrorCode::BadRequest, error.to_string()))
}

fn yes() -> bool {
    true
}

/// Artifacts that wait to be fetched.
#[derive(Default)]
pub(super) struct Builds(Mutex<HashMap<String, Kept>>);

struct Kept {
    file: Arc<NamedTempFile>,
    since: Instant,
}

impl Builds {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an artifact for a while; gives its id.
    fn keep(self: &Arc<Self>, file: NamedTempFile) -> String {
        let id = InstanceId::random().to_string();
        let mut all = self.lock();
        while all.len() >= KEPT.1 {
            let oldest = all.iter().min_by_key(|(_, kept)| kept.since).map(|(id, _)| id.clone());
            drop(oldest.and_then(|id| all.remove(&id)));
        }
        all.insert(id.clone(), Kept { file: Arc::new(file), since: Instant::now() });
        drop(all);
        let (builds, forgotten) = (Arc::downgrade(self), id.clone());
        tokio::spawn(async move {
            tokio::time::sleep(KEPT.0).await;
            drop(builds.upgrade().and_then(|builds| builds.lock().remove(&forgotten)));
        });
        id
    }

    fn find(&self, id: &str) -> Result<Arc<NamedTempFile>> {
        self.lock().get(id).map(|kept| Arc::clone(&kept.file)).ok_or_else(|| unknown(id))
    }
}

fn unknown(id: &str) -> Failure {
    let id: String = id.chars().take(80).collect();
    Failure::new(ErrorCode::NotFound, format!("there is no build `{id}`"))
        .hint("a built artifact is kept for ten minutes; build it again")
}

/// Builds an artifact of a package.
#[utoipa::path(post, path = "/v1/builds", tag = "builds",
    params(("name" = Option<String>, Query, description = "The function's name, where the package leaves it out"),
           ("runtime" = Option<bool>, Query, description = "Whether the runtime layer is put in; default true"),
           ("checkpoint" = Option<bool>, Query, description = "Whether a checkpoint is put in; default true"),
           ("stream" = Option<bool>, Query, description = "Answer with the build's events as they happen (also by \
        `Accept: application/x-ndjson`); the last one is `done` or `failed`")),
    request_body(content = Vec<u8>, content_type = "application/x-tar",
                 description = "The function's folder as a tar archive, plain, gzip or zstd, at most 100 MiB"),
    responses((status = 201, description = "It can be fetched for ten minutes", body = BuildInfo),
              (status = 200, description = "With `stream`: one JSON object a line", body = BuildEvent,
               content_type = "application/x-ndjson"),
              (status = 413, description = "The package is too large", body = ApiError),
              (status = 422, description = "Package, configuration or dependencies are wrong", body = ApiError)))]
pub(super) async fn build(
    State(api): State<Arc<Api>>,
    Params(params): Params<BuildParams>,
    request: Request,
) -> Result<Response> {
    let streamed = params.stream || accepts_ndjson(request.headers());
    let name: Option<FunctionName> = match &params.name {
        Some(name) => Some(parse_name(name)?),
        None => None,
    };
    let archive = spool(&api.spool, request.into_body(), MAX_PACKAGE).await?;
    let (sender, events) = mpsc::channel(EVENT_BACKLOG);
    let began = Instant::now();
    let work = async move {
        let built = tokio::spawn(run(api, name, params, archive, sender)).await;
        built.unwrap_or_else(|error| Err(failed_here(&error)))
    };
    if !streamed {
        drop(events);
        return Ok((StatusCode::CREATED, Json(work.await?)).into_response());
    }
    let work = tokio::spawn(work);
    let progress = stream::unfold(events, |mut events| async move { Some((events.recv().await?, events)) });
    let last = async move {
        match work.await.unwrap_or_else(|error| Err(failed_here(&error))) {
            Ok(build) => {
                let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                BuildEvent::Done { build: Box::new(build), took_ms }
            }
            Err(error) => BuildEvent::Failed { error: Box::new(error.into_inner()) },
        }
    };
    let lines = progress.chain(stream::once(last));
    let lines = lines.map(|event| Ok::<_, std::convert::Infallible>(Bytes::from(line(&event))));
    Ok(([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response())
}

/// A built artifact.
#[utoipa::path(get, path = "/v1/builds/{id}", tag = "builds",
    params(("id" = String, Path, description = "The build")),
    responses((status = 200, description = "The artifact", body = Vec<u8>, content_type = "application/vnd.stratos.artifact"),
              (status = 404, description = "It was not built, or not kept", body = ApiError)))]
pub(super) async fn fetch(State(api): State<Arc<Api>>, Id(id): Id) -> Result<Response> {
    let kept = api.builds.find(&id)?;
    let body = run_blocking(move || FileBody::new(kept.reopen()?).map_err(Unreadable)).await?;
    Ok(([(header::CONTENT_TYPE, MEDIA_TYPE)], Body::new(body)).into_response())
}

/// Deletes a built artifact.
#[utoipa::path(delete, path = "/v1/builds/{id}", tag = "builds",
    params(("id" = String, Path, description = "The build")),
    responses((status = 204, description = "It is gone"),
              (status = 404, description = "It was not built, or not kept", body = ApiError)))]
pub(super) async fn remove(State(api): State<Arc<Api>>, Id(id): Id) -> Result<StatusCode> {
    let removed = api.builds.lock().remove(&id);
    removed.map(|_| StatusCode::NO_CONTENT).ok_or_else(|| unknown(&id))
}

/// What was written cannot be read.
struct Unreadable(io::Error);

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl From<Unreadable> for Failure {
    fn from(Unreadable(error): Unreadable) -> Self {
        ApiError::new(ErrorCode::StorageFailed, "the artifact cannot be read").caused_by(&error).into()
    }
}

impl From<DeployError> for Failure {
    fn from(error: DeployError) -> Self {
        ApiError::from(error).into()
    }
}

fn failed_here(error: &(dyn std::error::Error + 'static)) -> Failure {
    ApiError::new(ErrorCode::Internal, "the build failed in the node").caused_by(error).into()
}

async fn run(
    api: Arc<Api>,
    name: Option<FunctionName>,
    params: BuildParams,
    archive: NamedTempFile,
    events: mpsc::Sender<BuildEvent>,
) -> Result<BuildInfo> {
    let _turn = api.deploys.acquire().await.expect("the semaphore is never closed");
    // A client that does not read, or has gone, misses lines.
    let tell = move |event: BuildEvent| events.try_send(event).unwrap_or_default();
    let step = |step: &str| BuildEvent::Step { step: step.to_owned() };
    let (deployer, telling) = (Arc::clone(&api.deployer), tell.clone());
    let (made, code, image, digest) = run_blocking(move || {
        let mut progress = |event| match event {
            DeployEvent::Step { step } => telling(BuildEvent::Step { step }),
            DeployEvent::Output { line } => telling(BuildEvent::Output { line }),
            DeployEvent::Done { .. } | DeployEvent::Failed { .. } => {}
        };
        let made = deployer.make(name.as_ref(), archive.path(), &mut progress)?;
        progress(DeployEvent::Step { step: "packing the code".into() });
        let code = deployer.pack(&made)?;
        let (image, digest) = made.image()?;
        let image = image.to_owned();
        Ok::<_, DeployError>((made, code, image, digest))
    })
    .await?;

    let checkpoint = match params.checkpoint {
        true => {
            tell(step("making the checkpoint"));
            checkpoint(&api, &made, image, digest).await
        }
        false => Err("it was built without one (--no-checkpoint)".to_owned()),
    };
    if let Err(reason) = &checkpoint
        && made.spec.checkpoint == CheckpointMode::Required
        && params.checkpoint
    {
        let message = format!("the function requires a checkpoint, and none can be made: {reason}");
        return Err(Failure::new(ErrorCode::FunctionInitFailed, message)
            .hint("change what stands in the way, or write checkpoint = \"auto\" in stratos.toml"));
    }
    tell(step("writing the artifact"));
    let (deployer, spool) = (Arc::clone(&api.deployer), api.spool.clone());
    let (file, manifest) = run_blocking(move || {
        let runtime = match params.runtime {
            true => Some(
                deployer
                    .layers()
                    .open_image(&made.layer)
                    .map_err(|source| DeployError::Layer { what: "the function's runtime", source })?,
            ),
            false => None,
        };
        write(&spool, &made, &code, digest, runtime.as_ref(), checkpoint)
    })
    .await?;
    let bytes = file.as_file().metadata().map_err(Unreadable)?.len();
    Ok(info(api.builds.keep(file), bytes, manifest))
}

async fn checkpoint(
    api: &Api,
    made: &Made,
    image: PathBuf,
    digest: Digest,
) -> std::result::Result<PathBuf, String> {
    let key = FunctionKey { tenant: api.tenant.clone(), name: made.spec.name.clone() };
    let built = Built { key, spec: made.spec.clone(), layer: Arc::clone(&made.layer), image, digest };
    api.engine.checkpoint_of(built, made.scratch()).await
}

fn write(
    spool: &Path,
    made: &Made,
    code: &File,
    image: Digest,
    runtime: Option<&File>,
    checkpoint: std::result::Result<PathBuf, String>,
) -> std::result::Result<(NamedTempFile, Manifest), DeployError> {
    let nothing = Digest::of(b"");
    let (part, no_checkpoint) = match &checkpoint {
        Ok(path) => {
            let image = Image::open(path).map_err(|error| {
                let source = io::Error::other(chain(&error));
                ArtifactError::Io { operation: "read the checkpoint for", source }
            })?;
            let machine = image.checkpoint().machine.clone();
            let cpu_flags =
                cpu_flags().map_err(|source| ArtifactError::Io { operation: "describe", source })?;
            let part = CheckpointPart {
                bytes: 0,
                digest: nothing,
                kernel: machine.kernel,
                processor: machine.processor,
                cpu_flags,
            };
            (Some((part, path)), None)
        }
        Err(reason) => (None, Some(reason.clone())),
    };
    let checkpoint = part.as_ref().map(|(_, path)| File::open(path));
    let checkpoint =
        checkpoint.transpose().map_err(|source| ArtifactError::Io { operation: "read a part of", source })?;
    let layer = &made.layer.manifest;
    let manifest = Manifest {
        function: made.spec.name.to_string(),
        spec: made.spec.to_toml(),
        code: Code { bytes: 0, digest: nothing, image, dependencies: made.dependencies.clone() },
        runtime: RuntimePart {
            name: layer.name.clone(),
            version: layer.version.clone(),
            inputs_digest: layer.inputs_digest,
            image_digest: layer.image_digest,
            size: layer.size,
            included: runtime.is_some(),
        },
        checkpoint: part.map(|(part, _)| part),
        no_checkpoint,
        built_at: crate::clock::rfc3339(std::time::SystemTime::now()),
        built_by: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let mut file =
        NamedTempFile::new_in(spool).map_err(|source| ArtifactError::Io { operation: "write", source })?;
    let sources = Sources { code, runtime, checkpoint: checkpoint.as_ref() };
    let manifest = stratos_artifact::write(file.as_file_mut(), manifest, &sources)?;
    Ok((file, manifest))
}

fn info(id: String, bytes: u64, manifest: Manifest) -> BuildInfo {
    BuildInfo {
        id,
        name: manifest.function,
        bytes,
        layer: LayerInfo {
            name: manifest.runtime.name,
            version: manifest.runtime.version,
            digest: manifest.runtime.image_digest.to_string(),
        },
        runtime: manifest.runtime.included,
        checkpoint_bytes: manifest.checkpoint.map(|part| part.bytes),
        no_checkpoint: manifest.no_checkpoint,
    }
}
