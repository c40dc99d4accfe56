//! Reads paths, queries and bodies into types, with errors as this API says them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Query, RawPathParams};
use http::request::Parts;
use serde::de::DeserializeOwned;
use stratos_api::{ApiError, ErrorCode};
use stratos_store::StoreError;
use stratos_types::{FunctionKey, FunctionName, InvocationId, SecretName};

use super::Api;
use super::auth::{Caller, Peer};
use super::errors::{Failure, Result};
use crate::body;

/// Largest JSON body of a control request, in bytes.
const MAX_CONTROL_BODY: usize = 64 << 10;
const CONTROL_BODY_TIME: Duration = Duration::from_secs(10);

/// The function that `{name}` in the path stands for. Whether it exists is not looked up.
pub(super) struct Function(pub(super) FunctionKey);

impl FromRequestParts<Arc<Api>> for Function {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self> {
        let name = path_parameter(parts, "name").await?;
        // What is no name is the name of nothing.
        let name: FunctionName = name.parse().map_err(|_| unknown_function(&name))?;
        Ok(Self(FunctionKey { tenant: api.tenant.clone(), name }))
    }
}

/// The invocation that `{id}` in the path stands for.
pub(super) struct Invocation(pub(super) InvocationId);

impl FromRequestParts<Arc<Api>> for Invocation {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self> {
        let id = path_parameter(parts, "id").await?;
        let invocation =
            id.parse().map_err(|_| Failure::new(ErrorCode::NotFound, "there is no such invocation"));
        Ok(Self(invocation?))
    }
}

/// The secret that `{name}` in the path stands for, or why it is none.
pub(super) struct Secret(pub(super) Result<SecretName>);

impl FromRequestParts<Arc<Api>> for Secret {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self> {
        let name = path_parameter(parts, "name").await?;
        Ok(Self(name.parse().map_err(|error: stratos_types::name::NameError| {
            Failure::new(ErrorCode::BadRequest, error.to_string())
                .hint("choose a name such as `db-password`: 1 to 63 of a-z, 0-9 and -")
        })))
    }
}

/// What `{id}` in the path says.
pub(super) struct Id(pub(super) String);

impl FromRequestParts<Arc<Api>> for Id {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self> {
        Ok(Self(path_parameter(parts, "id").await?))
    }
}

async fn path_parameter(parts: &mut Parts, wanted: &str) -> Result<String> {
    let parameters = RawPathParams::from_request_parts(parts, &()).await;
    let parameters = parameters.map_err(|e| Failure::new(ErrorCode::BadRequest, e.to_string()))?;
    let found = parameters.iter().find(|(name, _)| *name == wanted);
    Ok(found.map(|(_, value)| value.to_owned()).unwrap_or_default())
}

/// The query, all of it known.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Api>> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self> {
        let query = Query::try_from_uri(&parts.uri);
        let Query(params) = query
            .map_err(|e| Failure::new(ErrorCode::BadRequest, format!("the query: {}", e.body_text())))?;
        Ok(Self(params))
    }
}

/// Who asks, and from where; [`super::auth::admit`] has found out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub(super) peer: Peer,
    pub(super) caller: Caller,
}

impl FromRequestParts<Arc<Api>> for Origin {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> std::result::Result<Self, Infallible> {
        // A request that came past `admit` is a stranger's from this machine: the least that can be assumed.
        let peer = parts.extensions.get().copied().unwrap_or(Peer::Unix);
        let caller = parts.extensions.get().copied().unwrap_or(Caller::Stranger);
        Ok(Self { peer, caller })
    }
}

/// Reads a small body of text.
pub(super) async fn text(body: Body) -> Result<String> {
    let bytes = body::read(body, MAX_CONTROL_BODY, CONTROL_BODY_TIME).await?;
    String::from_utf8(bytes.into()).map_err(|_| Failure::new(ErrorCode::BadRequest, "the body is not UTF-8"))
}

/// Reads a small JSON body; an empty one is the default.
pub(super) async fn json<T: DeserializeOwned + Default>(body: Body) -> Result<T> {
    let bytes = body::read(body, MAX_CONTROL_BODY, CONTROL_BODY_TIME).await?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes).map_err(|e| Failure::new(ErrorCode::BadRequest, format!("the body: {e}")))
}

/// Runs a call of the store where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> std::result::Result<T, StoreError> + Send + 'static,
) -> Result<T> {
    run_blocking(call).await
}

/// The same of any other call.
pub(super) async fn run_blocking<T: Send + 'static, E: Into<Failure> + Send + 'static>(
    call: impl FnOnce() -> std::result::Result<T, E> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(failed_here(&error)),
    }
}

/// Does work that is not to be left half done: it goes on when the client has gone, and with it the request's future.
pub(super) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(failed_here(&error)),
    }
}

fn failed_here(error: &tokio::task::JoinError) -> Failure {
    ApiError::new(ErrorCode::Internal, "the node failed at this request").caused_by(error).into()
}

pub(super) fn unknown_function(name: &str) -> Failure {
    let name: String = name.chars().take(80).collect();
    Failure::new(ErrorCode::NotFound, format!("there is no function `{name}`"))
        .hint("`stratos ls` lists the functions of this node; `stratos deploy` adds one")
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn what_was_begun_is_ended_although_nobody_waits() {
        let (go_on, gone) = tokio::sync::oneshot::channel::<()>();
        let (done, ended) = tokio::sync::oneshot::channel();
        let mut work = Box::pin(to_its_end(async move {
            gone.await.expect("it is told");
            done.send(()).expect("it is waited for");
            Ok(())
        }));
        // As when a client goes: the future was polled, and is dropped.
        assert!((&mut work).now_or_never().is_none());
        drop(work);
        go_on.send(()).expect("it goes on");
        ended.await.expect("it has ended");
    }
}
