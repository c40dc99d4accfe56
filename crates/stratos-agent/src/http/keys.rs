//! Keys whose signature of an artifact this node believes: list, enroll, remove.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use http::StatusCode;
use stratos_api::{ApiError, ErrorCode, KeyInfo};
use stratos_artifact::{KeyId, PublicKey};

use super::Api;
use super::errors::{Failure, Result};
use super::extract::{self, Id, run_blocking};
use crate::clock::rfc3339_ms;
use crate::keys::{Enrolled, KeysError};

/// All enrolled keys.
#[utoipa::path(get, path = "/v1/keys", tag = "keys",
    responses((status = 200, description = "Keys whose signature of an artifact is believed", body = Vec<KeyInfo>)))]
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Json<Vec<KeyInfo>>> {
    let keys = api.keys.clone();
    let enrolled = run_blocking(move || keys.list()).await?;
    Ok(Json(enrolled.iter().map(info).collect()))
}

/// Enrolls a key: checkpoints of artifacts that it has signed are used from now on.
#[utoipa::path(post, path = "/v1/keys", tag = "keys",
    request_body(content = String, content_type = "application/x-pem-file", description = "An Ed25519 public key, PEM"),
    responses((status = 201, description = "It is enrolled", body = KeyInfo),
              (status = 400, description = "It is no such key", body = ApiError),
              (status = 409, description = "The node's folder of keys cannot be used", body = ApiError)))]
pub(super) async fn enroll(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<(StatusCode, Json<KeyInfo>)> {
    let pem = extract::text(request.into_body()).await?;
    let key = PublicKey::from_pem(&pem).map_err(|error| {
        Failure::new(ErrorCode::BadRequest, format!("the body is not a public key: {error}"))
            .hint("send the NAME.pub that `stratos key generate` wrote")
    })?;
    let keys = api.keys.clone();
    let enrolled = run_blocking(move || keys.enroll(&key)).await?;
    tracing::info!(key = %key.id(), "a key was enrolled");
    Ok((StatusCode::CREATED, Json(info(&enrolled))))
}

/// Removes a key: no checkpoint that came with an artifact of its is used any more.
#[utoipa::path(delete, path = "/v1/keys/{id}", tag = "keys",
    params(("id" = String, Path, description = "The key's id")),
    responses((status = 204, description = "It is not believed any more, and its checkpoints are gone"),
              (status = 404, description = "There is no such key", body = ApiError),
              (status = 409, description = "The node's folder of keys cannot be used", body = ApiError)))]
pub(super) async fn remove(State(api): State<Arc<Api>>, Id(id): Id) -> Result<StatusCode> {
    let id: KeyId = id.parse().map_err(|error: stratos_artifact::KeyError| {
        Failure::new(ErrorCode::NotFound, error.to_string())
            .hint("`stratos key list` lists the keys of this node")
    })?;
    extract::to_its_end(async move {
        let keys = api.keys.clone();
        let removal = run_blocking(move || {
            let removed = keys.remove(id);
            // It may be gone although that failed, or before.
            let is_gone = removed.is_ok() || !keys.is_trusted(id);
            Ok::<_, Failure>((removed, is_gone))
        });
        let (removed, is_gone) = removal.await?;
        if is_gone {
            api.engine.key_removed(id).await;
        }
        removed?;
        tracing::info!(key = %id, "a key was removed");
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

fn info(enrolled: &Enrolled) -> KeyInfo {
    KeyInfo {
        id: enrolled.key.id().to_string(),
        enrolled_at: rfc3339_ms(enrolled.enrolled_at_ms),
        public_key: enrolled.key.to_pem(),
    }
}

impl From<KeysError> for Failure {
    fn from(error: KeysError) -> Self {
        let text = error.to_string();
        let answer = match &error {
            KeysError::Unknown { .. } => ApiError::new(ErrorCode::NotFound, text)
                .hint("`stratos key list` lists the keys of this node"),
            KeysError::Writable { .. } => ApiError::new(ErrorCode::Conflict, text)
                .hint("make it root's own, without write permission for others"),
            KeysError::Taken { .. } => ApiError::new(ErrorCode::Conflict, text).hint("generate another key"),
            KeysError::Key { source, .. } => ApiError::new(ErrorCode::Internal, text).caused_by(source),
            KeysError::Io { source, .. } => ApiError::new(ErrorCode::StorageFailed, text)
                .caused_by(source)
                .hint("where the folder is read-only, its owner decides (--trusted-keys)"),
        };
        answer.into()
    }
}
