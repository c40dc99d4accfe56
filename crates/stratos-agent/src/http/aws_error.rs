//! Errors as AWS clients know them: an exception's name in `x-amzn-ErrorType` and a small JSON body.

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use stratos_api::{ApiError, Blame, ErrorCode, header as names};

use super::errors::RETRY_AFTER_S;
use super::sigv4::SignatureError;

const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// A failed call of the AWS API: the caller's mistake or the platform's. What the function did wrong is no error
/// of the call; see [`function_error`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AwsError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    /// The node's own code, where the failure has one.
    code: Option<ErrorCode>,
}

impl AwsError {
    pub(super) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), code: None }
    }

    pub(super) fn missing_token() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "MissingAuthenticationTokenException",
            "Missing Authentication Token",
        )
    }

    pub(super) fn invalid_content(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidRequestContentException", message)
    }

    pub(super) fn invalid_parameter(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "InvalidParameterValueException", message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "ResourceNotFoundException", message)
    }

    pub(super) fn into_response(self) -> Response {
        let who = if self.status.is_server_error() { "Service" } else { "User" };
        let body = json!({ "Type": who, "Message": self.message }).to_string();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ERROR_TYPE, HeaderValue::from_static(self.kind));
        if let Some(code) = self.code {
            headers.insert(names::ERROR, HeaderValue::from_static(code.as_str()));
        }
        let blame = if self.status.is_server_error() { "platform" } else { "client" };
        headers.insert(names::BLAME, HeaderValue::from_static(blame));
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        response
    }
}

impl From<ApiError> for AwsError {
    fn from(error: ApiError) -> Self {
        let (status, kind) = match error.code {
            ErrorCode::NotFound => (404, "ResourceNotFoundException"),
            ErrorCode::PayloadTooLarge => (413, "RequestTooLargeException"),
            ErrorCode::QueueFull => (429, "TooManyRequestsException"),
            ErrorCode::BadRequest => (400, "InvalidRequestContentException"),
            ErrorCode::RequestTimeout => (408, "RequestTimeoutException"),
            ErrorCode::Conflict => (409, "ResourceConflictException"),
            ErrorCode::Unauthorized => (403, "AccessDeniedException"),
            ErrorCode::Unavailable => (503, "ServiceUnavailableException"),
            _ => (500, "ServiceException"),
        };
        let status = StatusCode::from_u16(status).expect("the table holds valid statuses");
        let message = match &error.hint {
            Some(hint) => format!("{} ({hint})", error.message),
            None => error.message,
        };
        Self { status, kind, message, code: Some(error.code) }
    }
}

impl From<SignatureError> for AwsError {
    fn from(error: SignatureError) -> Self {
        let (status, kind) = match error {
            SignatureError::Incomplete { .. } => (StatusCode::BAD_REQUEST, "IncompleteSignatureException"),
            SignatureError::UnknownKey => (StatusCode::FORBIDDEN, "UnrecognizedClientException"),
            SignatureError::Expired | SignatureError::Mismatch => {
                (StatusCode::FORBIDDEN, "InvalidSignatureException")
            }
        };
        let message = match error {
            SignatureError::UnknownKey | SignatureError::Mismatch => format!(
                "{error}; the access key id is `{}`, the secret access key is the node's token",
                super::auth::ACCESS_KEY
            ),
            _ => error.to_string(),
        };
        Self::new(status, kind, message)
    }
}

/// What AWS answers, with status 200, when the function is to blame; `None` when it is not.
pub(super) fn function_error(error: &ApiError, request_id: &str, timeout_s: Option<f64>) -> Option<Value> {
    if error.blame != Blame::Function {
        return None;
    }
    // What the function said of itself is passed on as it is.
    let said =
        error.detail.as_ref().filter(|d| d.get("errorType").is_some() || d.get("errorMessage").is_some());
    if let Some(detail) = said {
        return Some(detail.clone());
    }
    let (kind, message) = match error.code {
        ErrorCode::FunctionTimeout => {
            let after = timeout_s.map(|s| format!(" after {s:.2} seconds")).unwrap_or_default();
            ("Sandbox.Timedout", format!("Task timed out{after}"))
        }
        ErrorCode::FunctionOutOfMemory => ("Runtime.OutOfMemory", error.message.clone()),
        ErrorCode::FunctionCrashed | ErrorCode::FunctionSyscallDenied | ErrorCode::FunctionLibraryMissing => {
            ("Runtime.ExitError", error.message.clone())
        }
        ErrorCode::FunctionInitFailed => ("Runtime.InitError", error.message.clone()),
        ErrorCode::FunctionBadResponse => ("Function.ResponseSizeTooLarge", error.message.clone()),
        _ => ("Runtime.Unknown", error.message.clone()),
    };
    Some(json!({ "errorType": kind, "errorMessage": format!("RequestId: {request_id} Error: {message}") }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platform_errors_are_exceptions() {
        for (code, status, kind) in [
            (ErrorCode::NotFound, 404, "ResourceNotFoundException"),
            (ErrorCode::PayloadTooLarge, 413, "RequestTooLargeException"),
            (ErrorCode::QueueFull, 429, "TooManyRequestsException"),
            (ErrorCode::BadRequest, 400, "InvalidRequestContentException"),
            (ErrorCode::QueueTimeout, 500, "ServiceException"),
            (ErrorCode::Internal, 500, "ServiceException"),
        ] {
            let error = ApiError::new(code, "m");
            assert_eq!(function_error(&error, "id", None), None);
            let response = AwsError::from(error).into_response();
            assert_eq!(
                (response.status().as_u16(), &response.headers()[ERROR_TYPE]),
                (status, &HeaderValue::from_static(kind))
            );
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), status == 429);
            assert_eq!(response.headers()[names::ERROR], code.as_str());
        }
    }

    #[test]
    fn function_errors_are_answers() {
        for (code, kind, message) in [
            (
                ErrorCode::FunctionTimeout,
                "Sandbox.Timedout",
                "RequestId: id Error: Task timed out after 3.00 seconds",
            ),
            (ErrorCode::FunctionCrashed, "Runtime.ExitError", "RequestId: id Error: m"),
            (ErrorCode::FunctionOutOfMemory, "Runtime.OutOfMemory", "RequestId: id Error: m"),
            (ErrorCode::FunctionInitFailed, "Runtime.InitError", "RequestId: id Error: m"),
            (ErrorCode::FunctionBadResponse, "Function.ResponseSizeTooLarge", "RequestId: id Error: m"),
        ] {
            let want = json!({ "errorType": kind, "errorMessage": message });
            assert_eq!(function_error(&ApiError::new(code, "m"), "id", Some(3.0)), Some(want));
        }
        let mut thrown = ApiError::new(ErrorCode::FunctionError, "m");
        thrown.detail = Some(json!({ "errorType": "Oops", "errorMessage": "no", "trace": ["a"] }));
        assert_eq!(function_error(&thrown, "id", None), thrown.detail);
    }
}
