//! The one place where an error becomes an HTTP answer.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use stratos_api::{ApiError, ErrorCode, header as names};
use stratos_store::StoreError;

use crate::body::{MAX_PAYLOAD, ReadError};
use crate::engine::failure;

/// Seconds after which a client may try again when a queue was full or the node is stopping.
pub(super) const RETRY_AFTER_S: &str = "1";

/// An error on its way out of a handler. Boxed: it is large, and results are mostly good.
#[derive(Debug)]
pub(super) struct Failure(Box<ApiError>);

pub(super) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        ApiError::new(code, message).into()
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        self.0.hint(hint).into()
    }

    pub(super) fn into_inner(self) -> ApiError {
        *self.0
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(Box::new(error))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { .. } => Self::new(ErrorCode::NotFound, error.to_string()),
            StoreError::Exists { .. } | StoreError::State { .. } => {
                Self::new(ErrorCode::Conflict, error.to_string())
            }
            StoreError::Closed { .. } => Self::new(ErrorCode::Unavailable, "the node is stopping"),
            _ => failure::storage(&error).into(),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::TooLarge { limit: MAX_PAYLOAD } => {
                Self::new(ErrorCode::PayloadTooLarge, "the payload is over 6 MiB")
                    .hint("put large data elsewhere and send its address")
            }
            ReadError::TooLarge { limit } => {
                let message = format!("the body is over its limit of {} KiB", limit >> 10);
                Self::new(ErrorCode::PayloadTooLarge, message)
            }
            ReadError::TimedOut { .. } => Self::new(ErrorCode::RequestTimeout, error.to_string()),
            ReadError::Broken { .. } => {
                ApiError::new(ErrorCode::BadRequest, "the request's body broke off").into()
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        respond(&self.0)
    }
}

/// The answer that says `error`: its status, its code and who is to blame in headers, all of it as JSON.
pub(super) fn respond(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.code.status()).expect("codes have valid statuses");
    let body = serde_json::to_vec(error).expect("an ApiError is JSON");
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(names::ERROR, HeaderValue::from_static(error.code.as_str()));
    let blame = match error.blame {
        stratos_api::Blame::Client => "client",
        stratos_api::Blame::Function => "function",
        stratos_api::Blame::Platform => "platform",
    };
    headers.insert(names::BLAME, HeaderValue::from_static(blame));
    match error.code {
        ErrorCode::QueueFull | ErrorCode::Unavailable => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        ErrorCode::Unauthorized => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    response
}

/// Answers a path that is not of this API.
pub(super) async fn not_found(uri: http::Uri) -> Failure {
    let path: String = uri.path().chars().take(200).collect();
    Failure::new(ErrorCode::NotFound, format!("there is nothing at {path}"))
        .hint(format!("{} lists the paths; function URLs are /f/NAME/", stratos_api::path::OPENAPI))
}

/// Answers a method that the path does not have; the router adds `Allow`.
pub(super) async fn method_not_allowed(method: http::Method, uri: http::Uri) -> Failure {
    let path: String = uri.path().chars().take(200).collect();
    Failure::new(ErrorCode::MethodNotAllowed, format!("{path} does not take {method}"))
        .hint("the Allow header names the methods it takes")
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn every_code_has_its_answer() {
        for code in ErrorCode::ALL {
            let response = respond(&ApiError::new(*code, "what happened").hint("what to do"));
            assert_eq!(response.status(), code.status());
            assert_eq!(response.headers()[names::ERROR], code.as_str());
            assert_eq!(response.headers()[names::BLAME], code.blame().to_string());
            let retry = matches!(code, ErrorCode::QueueFull | ErrorCode::Unavailable);
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), retry);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let error: ApiError = serde_json::from_slice(&body).unwrap();
            assert_eq!((error.code, error.hint.as_deref()), (*code, Some("what to do")));
        }
    }

    #[test]
    fn sizes_are_named_in_the_unit_people_use() {
        for (limit, says) in [(MAX_PAYLOAD, "over 6 MiB"), (64 << 10, "of 64 KiB")] {
            let error = Failure::from(ReadError::TooLarge { limit }).into_inner();
            assert!(error.message.contains(says), "{}", error.message);
            assert_eq!(error.code, ErrorCode::PayloadTooLarge);
        }
    }
}
