//! Errors as a client sees them: a code, who is to blame, what to do.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who has to act so that the error goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// The request was wrong.
    Client,
    /// The function's code or configuration was wrong.
    Function,
    /// The node could not do its part.
    Platform,
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Function => "function",
            Self::Platform => "platform",
        })
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $blame:ident;)*) => {
        /// Every kind of failure, each with its HTTP status and who is to blame.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The HTTP status it is answered with.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// Who is to blame.
            pub const fn blame(self) -> Blame {
                match self { $(Self::$name => Blame::$blame,)* }
            }

            /// The code as it stands in JSON and in the `stratos-error` header.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

codes! {
    /// The request is malformed.
    BadRequest = "bad_request", 400, Client;
    /// No token, or a wrong one.
    Unauthorized = "unauthorized", 401, Client;
    /// No such function, version, invocation or path.
    NotFound = "not_found", 404, Client;
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", 405, Client;
    /// The request's body did not arrive in time.
    RequestTimeout = "request_timeout", 408, Client;
    /// Another change of the same function is under way, or the state forbids it.
    Conflict = "conflict", 409, Client;
    /// The payload is over 6 MiB, or the package over its limit.
    PayloadTooLarge = "payload_too_large", 413, Client;
    /// The function's package or configuration is wrong.
    InvalidFunction = "invalid_function", 422, Client;
    /// The function's dependencies cannot be resolved.
    DependencyFailed = "dependency_failed", 422, Function;
    /// The function's queue is full; try again after `Retry-After`.
    QueueFull = "queue_full", 429, Client;
    /// The node cannot do this yet, such as passing on a protocol upgrade.
    Unsupported = "unsupported", 501, Platform;
    /// The handler threw or returned an error.
    FunctionError = "function_error", 502, Function;
    /// The function failed before it could take a request.
    FunctionInitFailed = "function_init_failed", 502, Function;
    /// The function's process ended while it had a request.
    FunctionCrashed = "function_crashed", 502, Function;
    /// The function's process was ended for using more memory than its limit.
    FunctionOutOfMemory = "function_out_of_memory", 502, Function;
    /// The function's process was killed for a system call that its profile forbids.
    FunctionSyscallDenied = "function_syscall_denied", 502, Function;
    /// The function's program needs a shared library that is not there.
    FunctionLibraryMissing = "function_library_missing", 502, Function;
    /// The node does not have a secret that the function names.
    SecretMissing = "secret_missing", 502, Function;
    /// The function's secrets and the node's variables are more than an instance can be given.
    EnvironmentTooLarge = "environment_too_large", 502, Function;
    /// The answer is over 6 MiB, or is not HTTP.
    FunctionBadResponse = "function_bad_response", 502, Function;
    /// The function did not answer before its timeout; its instance was ended.
    FunctionTimeout = "function_timeout", 504, Function;
    /// No instance became free before the timeout; the function never saw the request.
    QueueTimeout = "queue_timeout", 504, Platform;
    /// The node is stopping.
    Unavailable = "unavailable", 503, Platform;
    /// The node's disk is full or its state cannot be written.
    StorageFailed = "storage_failed", 507, Platform;
    /// An instance could not be started for a reason that lies in the node.
    Internal = "internal", 500, Platform;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The body of every answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of failure.
    pub code: ErrorCode,
    /// Who is to blame.
    pub blame: Blame,
    /// What happened, one sentence, lower case.
    pub message: String,
    /// What led to it, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The file that is wrong, relative to the function's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The key in that file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The invocation this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<String>,
    /// For a function error: what the function itself said (`errorType`, `errorMessage`, its trace).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub detail: Option<serde_json::Value>,
}

impl ApiError {
    /// An error of a kind, with a message.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            blame: code.blame(),
            message: message.into(),
            causes: Vec::new(),
            hint: None,
            file: None,
            key: None,
            invocation: None,
            detail: None,
        }
    }

    /// The same error with a hint.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same error, said to be about an invocation.
    #[must_use]
    pub fn for_invocation(self, id: impl fmt::Display) -> Self {
        Self { invocation: Some(id.to_string()), ..self }
    }

    /// The same error with the chain of sources of `error` as its causes.
    #[must_use]
    pub fn caused_by(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(cause) = next {
            self.causes.push(cause.to_string());
            next = cause.source();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_read_as_they_are_written() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{code}\""));
            assert!((400..600).contains(&code.status()));
        }
    }
}
