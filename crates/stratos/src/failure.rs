//! What the program prints when it fails: `error:`, the causes, `hint:`.

use std::error::Error;
use std::fmt;

use stratos_api::client::ClientError;
use stratos_api::{ApiError, ErrorCode};

use crate::exit::Exit;

/// A failure, ready to be printed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code it leads to.
    pub(crate) exit: Exit,
    /// What happened, one lower-case sentence.
    pub(crate) message: String,
    /// What led to it, outermost first.
    pub(crate) causes: Vec<String>,
    /// What to do about it.
    pub(crate) hint: Option<String>,
    /// The node's own words, for `--json`.
    pub(crate) answer: Option<Box<ApiError>>,
    /// Nothing is printed: the reader of stdout went away.
    pub(crate) quiet: bool,
    /// stdout holds a JSON document about it already.
    pub(crate) printed: bool,
}

/// What most functions here return.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure on this side.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        let (exit, message) = (Exit::Failed, message.into());
        Self { exit, message, causes: Vec::new(), hint: None, answer: None, quiet: false, printed: false }
    }

    /// A failure on this side that `error` and its sources tell completely.
    pub(crate) fn from_chain(error: &dyn Error) -> Self {
        Self { causes: chain(error), ..Self::new(error.to_string()) }
    }

    /// A wrong command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, ..Self::new(message) }
    }

    /// The reader of stdout has what it wanted and is gone.
    pub(crate) fn closed_pipe() -> Self {
        Self { exit: Exit::Ok, quiet: true, ..Self::new("") }
    }

    /// The same failure with the chain of `error` as its causes.
    #[must_use]
    pub(crate) fn because(mut self, error: &dyn Error) -> Self {
        self.causes.push(error.to_string());
        self.causes.extend(chain(error));
        self
    }

    /// The same failure with a hint.
    #[must_use]
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// An error that the node answered with.
    pub(crate) fn answered(error: Box<ApiError>) -> Self {
        let place = match (&error.file, &error.key) {
            (Some(file), Some(key)) => format!("{file}: {key}: "),
            (Some(file), None) => format!("{file}: "),
            (None, Some(key)) => format!("{key}: "),
            (None, None) => String::new(),
        };
        // Some messages name their place themselves.
        let message = match error.message.starts_with(&place) {
            true => error.message.clone(),
            false => place + &error.message,
        };
        let hint = match error.code {
            // The node speaks of a header, which is not what a person types.
            ErrorCode::Unauthorized => {
                Some("give the node's token with --token, --token-file or STRATOS_TOKEN".into())
            }
            _ => error.hint.clone(),
        };
        let mut causes = error.causes.clone();
        let thrown = error.detail.as_ref().map(thrown).unwrap_or_default();
        // Most often the message says already what was thrown.
        causes.extend(thrown.into_iter().filter(|line| !error.message.ends_with(line.as_str())));
        Self {
            exit: Exit::of(error.code, error.blame),
            causes,
            hint,
            answer: Some(error),
            ..Self::new(message)
        }
    }

    /// The failure as the document that `--json` prints in place of a result.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.answer {
            Some(answer) => serde_json::json!({ "error": answer }),
            None => serde_json::json!({ "error": {
                "code": if self.exit == Exit::Unreachable { "unreachable" } else { "failed" },
                "message": self.message,
                "causes": self.causes,
                "hint": self.hint,
            }}),
        }
    }
}

/// What lies under `error`, outermost first.
fn chain(error: &dyn Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes
}

/// What a function threw, as lines: its type and message, then its trace.
fn thrown(detail: &serde_json::Value) -> Vec<String> {
    let text = |key: &str| detail.get(key).and_then(serde_json::Value::as_str);
    let mut lines = match (text("errorType"), text("errorMessage")) {
        (Some(kind), Some(message)) => vec![format!("{kind}: {message}")],
        (Some(one), None) | (None, Some(one)) => vec![one.to_owned()],
        (None, None) => Vec::new(),
    };
    // The Node bootstrap of AWS says `trace`, its Python one `stackTrace`.
    let trace = ["trace", "stackTrace"].iter().find_map(|key| detail.get(*key)?.as_array());
    let trace = trace.into_iter().flatten().filter_map(serde_json::Value::as_str);
    // Node's trace begins with the line that was just printed.
    let fresh = trace
        .flat_map(str::lines)
        .map(str::trim_end)
        .filter(|l| Some(*l) != lines.first().map(String::as_str));
    let fresh: Vec<String> = fresh.map(str::to_owned).collect();
    lines.extend(fresh);
    lines
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Api(answer) => Self::answered(answer),
            ClientError::Connect { .. } => Self { exit: Exit::Unreachable, ..Self::from_chain(&error) }
                .hint("start a node with `make dev`, or name one with --node URL or STRATOS_NODE"),
            ClientError::Broken { .. } => Self { exit: Exit::Unreachable, ..Self::from_chain(&error) },
            ClientError::Unexpected { .. } => Self { exit: Exit::Platform, ..Self::from_chain(&error) }
                .hint("is this the address of a StratOS node, of a version that fits?"),
            ClientError::Request(_) | ClientError::Tls(_) => Self::from_chain(&error),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        for line in self.causes.iter().flat_map(|cause| cause.lines()) {
            write!(f, "\n  {line}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_printed_with_their_place_causes_and_hint() {
        let mut error =
            ApiError::new(ErrorCode::InvalidFunction, "`1TB` is not an amount").hint("write \"128MB\"");
        error.file = Some("stratos.toml".into());
        error.key = Some("memory".into());
        assert_eq!(
            Failure::answered(Box::new(error.clone())).to_string(),
            "error: stratos.toml: memory: `1TB` is not an amount\nhint: write \"128MB\""
        );
        error.message = "stratos.toml: memory: is odd".into();
        assert!(
            Failure::answered(Box::new(error)).to_string().starts_with("error: stratos.toml: memory: is odd")
        );
    }

    #[test]
    fn what_a_function_threw_is_shown_once() {
        let mut error = ApiError::new(ErrorCode::FunctionError, "the handler threw an error");
        error.detail = Some(serde_json::json!({
            "errorType": "TypeError", "errorMessage": "no", "trace": ["TypeError: no", "    at f (index.js:1:1)"]
        }));
        let failure = Failure::answered(Box::new(error));
        assert_eq!(failure.exit, Exit::Function);
        assert_eq!(
            failure.to_string(),
            "error: the handler threw an error\n  TypeError: no\n      at f (index.js:1:1)"
        );
        let mut error =
            ApiError::new(ErrorCode::FunctionError, "the function returned an error: KeyError: 'x'");
        error.detail = Some(serde_json::json!({ "errorType": "KeyError", "errorMessage": "'x'" }));
        assert_eq!(
            Failure::answered(Box::new(error)).to_string(),
            "error: the function returned an error: KeyError: 'x'"
        );
    }
}
