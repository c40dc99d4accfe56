//! Functions and their versions: list, show, roll back, remove.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use http::StatusCode;
use stratos_api::{
    ArtifactInfo, Dependency, ErrorCode, FunctionDetail, FunctionSummary, LayerInfo, RollbackRequest,
    VersionInfo,
};
use stratos_store::{ArtifactCheckpoint, FromArtifact, FunctionRecord, VersionRecord};
use stratos_types::spec::Inferred;
use stratos_types::{FunctionKey, FunctionSpec};

use super::Api;
use super::errors::{Failure, Result};
use super::extract::{self, Function, blocking, unknown_function};
use crate::clock::rfc3339_ms;

/// Invocations that [`show`] tells about.
const RECENT: usize = 10;

/// All functions.
#[utoipa::path(get, path = "/v1/functions", tag = "functions",
    responses((status = 200, description = "All functions, by name", body = Vec<FunctionSummary>)))]
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Json<Vec<FunctionSummary>>> {
    let store = api.engine.store().clone();
    let tenant = api.tenant.clone();
    let functions = blocking(move || store.functions(&tenant)).await?;
    let summary = |record: &FunctionRecord| {
        let current = record.current_version();
        let stats = api.engine.stats(&record.key);
        FunctionSummary {
            name: record.key.name.to_string(),
            runtime: current.layer_name.clone(),
            version: record.current,
            deployed_at: rfc3339_ms(current.deployed_at_ms),
            instances: stats.instances,
            invocations: stats.invocations,
            errors: stats.errors,
        }
    };
    Ok(Json(functions.iter().map(summary).collect()))
}

/// One function.
#[utoipa::path(get, path = "/v1/functions/{name}", tag = "functions",
    params(("name" = String, Path, description = "Function")),
    responses((status = 200, description = "The function", body = FunctionDetail),
              (status = 404, description = "There is none of that name", body = stratos_api::ApiError)))]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Function(key): Function,
) -> Result<Json<FunctionDetail>> {
    let record = record(&api, &key).await?;
    let stats = api.engine.stats(&key);
    Ok(Json(FunctionDetail {
        name: key.name.to_string(),
        current: version_info(&api, record.current_version(), true),
        instances: api.engine.instances(&key),
        queued: stats.queued,
        invocations: stats.invocations,
        errors: stats.errors,
        cold_starts: stats.cold_starts,
        checkpoint: api.engine.checkpoint(&key),
        url_path: format!("/f/{}/", key.name),
        recent: api.engine.records(&key, RECENT),
    }))
}

/// A function's versions.
#[utoipa::path(get, path = "/v1/functions/{name}/versions", tag = "functions",
    params(("name" = String, Path, description = "Function")),
    responses((status = 200, description = "Versions the node still has, newest first", body = Vec<VersionInfo>),
              (status = 404, description = "There is none of that name", body = stratos_api::ApiError)))]
pub(super) async fn versions(
    State(api): State<Arc<Api>>,
    Function(key): Function,
) -> Result<Json<Vec<VersionInfo>>> {
    let record = record(&api, &key).await?;
    let info = |version: &VersionRecord| version_info(&api, version, version.version == record.current);
    Ok(Json(record.versions.iter().rev().map(info).collect()))
}

/// Makes an earlier version the current one.
#[utoipa::path(post, path = "/v1/functions/{name}/rollback", tag = "functions",
    params(("name" = String, Path, description = "Function")),
    request_body(content = RollbackRequest, description = "Which version; an empty body means the one before"),
    responses((status = 200, description = "The version that is current now", body = VersionInfo),
              (status = 404, description = "No such function or version", body = stratos_api::ApiError),
              (status = 409, description = "There is no earlier version", body = stratos_api::ApiError)))]
pub(super) async fn rollback(
    State(api): State<Arc<Api>>,
    Function(key): Function,
    request: Request,
) -> Result<Json<VersionInfo>> {
    let wanted: RollbackRequest = extract::json(request.into_body()).await?;
    let record = record(&api, &key).await?;
    let version = match wanted.version {
        Some(version) => record.version(version).ok_or_else(|| {
            Failure::new(ErrorCode::NotFound, format!("function `{}` has no version {version}", key.name))
                .hint(format!("its versions: {}", numbers(&record)))
        })?,
        None => record.versions.iter().rev().find(|v| v.version < record.current).ok_or_else(|| {
            let message = format!("version {} of `{}` is the oldest there is", record.current, key.name);
            Failure::new(ErrorCode::Conflict, message).hint(format!("its versions: {}", numbers(&record)))
        })?,
    };
    let (store, number, changed) = (api.engine.store().clone(), version.version, key.clone());
    blocking(move || store.set_current(&changed, number)).await?;
    api.engine.function_changed(&key);
    api.engine.prepare_checkpoint(&key).await;
    Ok(Json(version_info(&api, version, true)))
}

/// Removes a function with all its versions.
#[utoipa::path(delete, path = "/v1/functions/{name}", tag = "functions",
    params(("name" = String, Path, description = "Function")),
    responses((status = 204, description = "It is gone; requests it is working on are still answered"),
              (status = 404, description = "There is none of that name", body = stratos_api::ApiError)))]
pub(super) async fn remove(State(api): State<Arc<Api>>, Function(key): Function) -> Result<StatusCode> {
    let (store, removed) = (api.engine.store().clone(), key.clone());
    let record = blocking(move || store.remove(&removed)).await?;
    record.ok_or_else(|| unknown_function(key.name.as_str()))?;
    api.engine.function_removed(&key);
    // The function is gone whether or not its images go now; the next deploy tries again.
    let store = api.engine.store().clone();
    let collect = tokio::task::spawn_blocking(move || store.blobs().collect_garbage());
    if let Ok(Err(error)) = collect.await {
        tracing::warn!(function = %key, %error, "a removed function's images are still there");
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn record(api: &Api, key: &FunctionKey) -> Result<FunctionRecord> {
    let (store, wanted) = (api.engine.store().clone(), key.clone());
    let record = blocking(move || store.function(&wanted)).await?;
    record.ok_or_else(|| unknown_function(key.name.as_str()))
}

fn numbers(record: &FunctionRecord) -> String {
    let numbers: Vec<_> = record.versions.iter().map(|v| v.version.to_string()).collect();
    numbers.join(", ")
}

/// A version as it is shown to clients.
pub(super) fn version_info(api: &Api, record: &VersionRecord, current: bool) -> VersionInfo {
    let spec = FunctionSpec::parse(&record.spec_toml, &Inferred::default());
    let kind = match &spec {
        Ok(spec) if spec.entry.is_http() => "http",
        Ok(_) => "handler",
        // Written by a newer agent: it can still be shown, and rolled back from.
        Err(_) => "unknown",
    };
    let dependency = |(name, version, digest): &(String, String, String)| Dependency {
        name: name.clone(),
        version: version.clone(),
        digest: digest.clone(),
    };
    VersionInfo {
        version: record.version,
        current,
        deployed_at: rfc3339_ms(record.deployed_at_ms),
        digest: record.image.to_string(),
        size: record.image_size,
        spec: record.spec_toml.clone(),
        runtime: record.layer_name.clone(),
        kind: kind.to_owned(),
        layer: LayerInfo {
            name: record.layer_name.clone(),
            version: record.layer_version.clone(),
            digest: record.layer_digest.to_string(),
        },
        dependencies: record.dependencies.iter().map(dependency).collect(),
        notes: spec.map(|spec| api.engine.notes(&api.tenant, &spec)).unwrap_or_default(),
        artifact: record.artifact.as_ref().map(artifact_info),
    }
}

fn artifact_info(from: &FromArtifact) -> ArtifactInfo {
    let (checkpoint, reason, hint) = match from.checkpoint.clone() {
        ArtifactCheckpoint::Taken => ("taken", None, None),
        ArtifactCheckpoint::Dropped { reason, hint } => ("dropped", Some(reason), hint),
        ArtifactCheckpoint::None { reason } => ("none", reason, None),
    };
    ArtifactInfo { signed_by: from.signed_by.clone(), checkpoint: checkpoint.to_owned(), reason, hint }
}
