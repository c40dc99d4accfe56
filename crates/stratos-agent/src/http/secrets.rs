//! The node's secrets: set, list, remove. No answer has a value.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use http::StatusCode;
use serde::Deserialize;
use stratos_api::{ErrorCode, SecretInfo};
use stratos_store::{MAX_SECRET_BYTES, SecretRecord, SecretValue, Store, StoreError};
use stratos_types::spec::Inferred;
use stratos_types::{FunctionSpec, SecretName, TenantId};

use super::Api;
use super::errors::{Failure, Result};
use super::extract::{self, Params, Secret, blocking};
use crate::body;
use crate::clock::rfc3339_ms;

/// How long a value may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Sets a secret. Functions see the new value from their next invocation on.
#[utoipa::path(put, path = "/v1/secrets/{name}", tag = "secrets",
    params(("name" = String, Path, description = "Secret: 1 to 63 of `a-z`, `0-9`, `-`")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream",
                 description = "The value, exactly: UTF-8 without NUL, 1 byte to 32 KiB"),
    responses((status = 200, description = "It is stored", body = SecretInfo),
              (status = 400, description = "Name or value cannot be a secret's", body = stratos_api::ApiError),
              (status = 413, description = "The value is over 32 KiB", body = stratos_api::ApiError)))]
pub(super) async fn set(
    State(api): State<Arc<Api>>,
    Secret(name): Secret,
    request: Request,
) -> Result<Json<SecretInfo>> {
    let name = name?;
    let bytes = body::read(request.into_body(), MAX_SECRET_BYTES, BODY_TIME).await?;
    // The bytes themselves where nobody else holds them.
    let value = SecretValue::new(bytes.into()).map_err(|error| {
        Failure::new(ErrorCode::BadRequest, format!("the value of secret `{name}` {error}"))
            .hint("what is not text can be kept as base64, and decoded by the function")
    })?;
    let (store, tenant) = (api.engine.store().clone(), api.tenant.clone());
    let record = changed(&api, name.clone(), move |store, tenant| store.secrets().set(tenant, &name, &value));
    let record = record.await?;
    tracing::info!(secret = %record.name, "a secret was set");
    let users = blocking(move || users(&store, &tenant)).await?;
    Ok(Json(info(record, &users)))
}

/// All secrets, without their values.
#[utoipa::path(get, path = "/v1/secrets", tag = "secrets",
    responses((status = 200, description = "All secrets, by name, without their values", body = Vec<SecretInfo>)))]
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Json<Vec<SecretInfo>>> {
    let (store, tenant) = (api.engine.store().clone(), api.tenant.clone());
    let list = move || Ok((store.secrets().list(&tenant)?, users(&store, &tenant)?));
    let (records, users) = blocking(list).await?;
    Ok(Json(records.into_iter().map(|record| info(record, &users)).collect()))
}

#[derive(Deserialize)]
pub(super) struct RemoveParams {
    #[serde(default)]
    force: bool,
}

/// Removes a secret.
#[utoipa::path(delete, path = "/v1/secrets/{name}", tag = "secrets",
    params(("name" = String, Path, description = "Secret"),
           ("force" = Option<bool>, Query, description = "Also when functions use it, which then fail")),
    responses((status = 204, description = "It is gone"),
              (status = 404, description = "There is none of that name", body = stratos_api::ApiError),
              (status = 409, description = "A function's current version uses it", body = stratos_api::ApiError)))]
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Secret(name): Secret,
    Params(params): Params<RemoveParams>,
) -> Result<StatusCode> {
    // What is no name is the name of nothing.
    let name = name.map_err(|_| Failure::new(ErrorCode::NotFound, "there is no such secret"))?;
    let (store, tenant, wanted) = (api.engine.store().clone(), api.tenant.clone(), name.clone());
    let used = blocking(move || Ok(users(&store, &tenant)?.remove(&wanted))).await?;
    if let (Some(functions), false) = (used, params.force) {
        let message = format!("secret `{name}` is used by {}", functions.join(", "));
        return Err(Failure::new(ErrorCode::Conflict, message)
            .hint("deploy these without it first, or remove it with --force (?force=true): they fail then"));
    }
    let wanted = name.clone();
    let removed = changed(&api, name.clone(), move |store, tenant| store.secrets().remove(tenant, &wanted));
    if !removed.await? {
        return Err(Failure::new(ErrorCode::NotFound, format!("there is no secret `{name}`"))
            .hint("`stratos secret list` lists the secrets of this node"));
    }
    tracing::info!(secret = %name, "a secret was removed");
    Ok(StatusCode::NO_CONTENT)
}

/// Changes a secret and lets no instance keep the old value: also when the client goes meanwhile, and when the change
/// failed, for it may have got as far as the disk.
async fn changed<T: Send + 'static>(
    api: &Arc<Api>,
    name: SecretName,
    change: impl FnOnce(&Store, &TenantId) -> std::result::Result<T, StoreError> + Send + 'static,
) -> Result<T> {
    let api = Arc::clone(api);
    extract::to_its_end(async move {
        let (store, tenant) = (api.engine.store().clone(), api.tenant.clone());
        let changed = blocking(move || change(&store, &tenant)).await;
        api.engine.secret_changed(&api.tenant, &name);
        changed
    })
    .await
}

/// Which functions use which secret in their current versions.
fn users(
    store: &Store,
    tenant: &TenantId,
) -> std::result::Result<BTreeMap<SecretName, Vec<String>>, StoreError> {
    let mut users = BTreeMap::<SecretName, Vec<String>>::new();
    for function in store.functions(tenant)? {
        // One that a newer agent wrote cannot be run by this one either.
        let spec = FunctionSpec::parse(&function.current_version().spec_toml, &Inferred::default());
        let mut secrets: Vec<_> = spec.map(|spec| spec.secrets.into_values().collect()).unwrap_or_default();
        secrets.sort();
        secrets.dedup();
        for secret in secrets {
            users.entry(secret).or_default().push(function.key.name.to_string());
        }
    }
    Ok(users)
}

fn info(record: SecretRecord, users: &BTreeMap<SecretName, Vec<String>>) -> SecretInfo {
    SecretInfo {
        updated_at: rfc3339_ms(record.updated_at_ms),
        used_by: users.get(&record.name).cloned().unwrap_or_default(),
        name: record.name.to_string(),
    }
}
