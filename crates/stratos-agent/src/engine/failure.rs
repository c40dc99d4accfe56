//! Why a request failed, and who is to blame: every way a function or the node can fail, said in one place.

use serde_json::Value;
use stratos_api::{ApiError, ErrorCode};
use stratos_store::StoreError;
use stratos_types::{Entry, FunctionKey, FunctionSpec, MemorySize, SecretName, Version};

use super::release::MAX_GIVEN;

/// How an instance's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Death {
    pub(super) code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) out_of_memory: bool,
    /// Set when StratOS itself ended the instance.
    pub(super) ended_because: Option<EndReason>,
    /// The system call that it was killed for, where the kernel tells.
    pub(super) denied: Option<String>,
    /// The last lines the process wrote to stderr.
    pub(super) stderr: Vec<String>,
}

/// Why StratOS ends an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndReason {
    Idle,
    Retired,
    MemoryNeeded,
    OverMemory,
    StartFailed,
    Stopping,
    Timeout,
    Unwatched,
}

impl EndReason {
    /// Whether the node decided it for reasons of its own, which no request of the instance can be blamed for.
    fn is_the_nodes(self) -> bool {
        match self {
            Self::Idle | Self::Retired | Self::MemoryNeeded | Self::Stopping | Self::Unwatched => true,
            Self::OverMemory | Self::StartFailed | Self::Timeout => false,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "it was idle",
            Self::Retired => "others take its place",
            Self::MemoryNeeded => "its memory was needed for another function",
            Self::OverMemory => "it used more memory than its limit",
            Self::StartFailed => "its start failed",
            Self::Stopping => "the node is stopping",
            Self::Timeout => "a request ran out of time",
            Self::Unwatched => "it could not be watched",
        }
    }
}

/// V8 prints this before it aborts, and abort(3) is all the kernel then sees.
const V8_HEAP_MESSAGE: &str = "JavaScript heap out of memory";

/// Whether a line of stderr says why a process ended, so that it is not to be forgotten for those that follow: a stack
/// trace has more lines than are kept.
pub(super) fn is_last_word(line: &str) -> bool {
    line.contains(V8_HEAP_MESSAGE) || missing_library(line).is_some()
}

/// The shared library that a message of the loader says is missing: glibc's, also in what Python and Node.js say of an
/// extension, or musl's.
fn missing_library(text: &str) -> Option<&str> {
    let glibc = text.find(": cannot open shared object file").map(|end| &text[..end]);
    let glibc = glibc.and_then(|before| before.rsplit([' ', '"', '\n']).next());
    let musl = || text.split_once("Error loading shared library ")?.1.split(':').next();
    glibc.or_else(musl).filter(|name| !name.is_empty())
}

fn library_missing(library: &str) -> ApiError {
    let message = format!(
        "the function needs the shared library `{library}`, which is neither in its runtime nor in its package"
    );
    ApiError::new(ErrorCode::FunctionLibraryMissing, message).hint(
        "add it to the package and name its folder in LD_LIBRARY_PATH ([env] in stratos.toml), or link it statically",
    )
}

impl Death {
    fn is_out_of_memory(&self) -> bool {
        self.out_of_memory
            || self.code != Some(0) && self.stderr.iter().any(|line| line.contains(V8_HEAP_MESSAGE))
    }

    fn how(&self) -> String {
        match (self.ended_because, self.code, self.signal) {
            (Some(reason), ..) => format!("was ended because {}", reason.as_str()),
            (None, Some(code), _) => format!("exited with status {code}"),
            (None, None, Some(signal)) => format!("was killed by {}", signal_name(signal)),
            (None, None, None) => "ended".to_owned(),
        }
    }

    /// The shared library for want of which it exited. Many programs only warn of one, and go on: it must have been their
    /// first or their last word.
    fn library(&self, during: During) -> Option<&str> {
        const NOT_LOADED: i32 = 127;
        let code = self.code.filter(|code| *code != 0)?;
        let mut lines = self.stderr.iter().rev();
        if code != NOT_LOADED && matches!(during, During::Request) {
            return missing_library(lines.next()?);
        }
        lines.find_map(|line| missing_library(line))
    }

    /// The error of a request that the instance had when it died, or of the start that this death ended.
    pub(super) fn error(&self, during: During, memory: MemorySize) -> ApiError {
        let stderr = (!self.stderr.is_empty()).then(|| serde_json::json!({ "stderr": self.stderr }));
        let library = self.library(during);
        let mut error = if self.is_out_of_memory() {
            ApiError::new(
                ErrorCode::FunctionOutOfMemory,
                format!("the function used more than its {memory} of memory"),
            )
            .hint("raise `memory` in stratos.toml, or hold less at a time")
        } else if self.ended_because.is_some_and(EndReason::is_the_nodes) {
            ApiError::new(ErrorCode::Unavailable, format!("the instance {}", self.how()))
        } else if let Some(library) = library {
            library_missing(library)
        } else if self.signal == Some(SIGSYS) {
            self.syscall_denied(during)
        } else {
            let (code, hint) = match during {
                During::Init => (ErrorCode::FunctionInitFailed, "`stratos logs` shows what it printed"),
                During::Request => (
                    ErrorCode::FunctionCrashed,
                    "`stratos logs` shows what it printed; the request was not tried again",
                ),
            };
            let message = format!("the function's process {} {}", self.how(), during.when());
            ApiError::new(code, message).hint(hint)
        };
        error.detail = stderr;
        error
    }

    fn syscall_denied(&self, during: During) -> ApiError {
        let call = match &self.denied {
            Some(name) if name.contains(' ') => format!("a system call {name}"),
            Some(name) => format!("the system call `{name}`"),
            None => "a system call".to_owned(),
        };
        let message = format!(
            "the function's process was killed for {call}, which its profile forbids, {}",
            during.when()
        );
        ApiError::new(ErrorCode::FunctionSyscallDenied, message)
            .hint("do without it: docs/security.md tells what a function may ask of the kernel")
    }
}

/// What an instance was doing when it died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum During {
    Init,
    Request,
}

impl During {
    const fn when(self) -> &'static str {
        match self {
            Self::Init => "before it could take a request",
            Self::Request => "while it had this request",
        }
    }
}

pub(super) const SIGSYS: i32 = 31;

fn signal_name(signal: i32) -> String {
    let name = match signal {
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        SIGSYS => "SIGSYS",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// The handler threw, or init did: `detail` is what the bootstrap reported.
pub(super) fn reported(code: ErrorCode, detail: Value) -> ApiError {
    let (what, hint) = match code {
        ErrorCode::FunctionInitFailed => {
            // A library that a handler misses while it has a request is its own error.
            let text = detail.get("errorMessage").and_then(Value::as_str);
            if let Some(library) = text.and_then(missing_library) {
                let mut error = library_missing(library);
                error.detail = Some(detail);
                return error;
            }
            let hint =
                "the function's code failed before its first request; `stratos logs` shows what it printed";
            ("the function failed to initialize", Some(hint))
        }
        _ => ("the function returned an error", None),
    };
    let mut error = ApiError::new(code, format!("{what}: {}", said(&detail)));
    error.hint = hint.map(str::to_owned);
    error.detail = Some(detail);
    error
}

/// What a report says, in one line.
fn said(detail: &Value) -> String {
    let text = |key: &str| detail.get(key).and_then(Value::as_str).unwrap_or_default();
    match (text("errorType"), text("errorMessage")) {
        ("", "") => "no reason given".to_owned(),
        ("", message) => message.to_owned(),
        (kind, "") => kind.to_owned(),
        (kind, message) => format!("{kind}: {message}"),
    }
}

/// What a function runs around its checkpoint (SnapStart).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    BeforeSnapshot,
    AfterRestore,
}

impl Hook {
    /// What awslambdaric exits with when one fails.
    pub(super) const fn exit_code(self) -> i32 {
        match self {
            Self::BeforeSnapshot => 64,
            Self::AfterRestore => 65,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::BeforeSnapshot => "before-snapshot",
            Self::AfterRestore => "after-restore",
        }
    }
}

/// A hook threw: `detail` is what the client reported.
pub(super) fn hook_failed(hook: Hook, detail: Value) -> ApiError {
    let mut error = ApiError::new(
        ErrorCode::FunctionInitFailed,
        format!("one of the function's {} hooks failed: {}", hook.as_str(), said(&detail)),
    )
    .hint("`stratos logs` shows what it printed; checkpoint = \"off\" in stratos.toml does without");
    error.detail = Some(detail);
    error
}

pub(super) fn hooks_timed_out(hook: Hook, limit: std::time::Duration) -> ApiError {
    let message = format!("the function's {} hooks took longer than {limit:?}", hook.as_str());
    ApiError::new(ErrorCode::FunctionInitFailed, message)
        .hint("do less in them, or give them more time with --hook-limit of the node; the instance was ended")
}

/// Whether an error can come from a read of the runtime layer that failed: the process died (of SIGBUS, say, for a page
/// that could not be read), or says that a read failed.
pub(super) fn may_be_unreadable_layer(error: &ApiError) -> bool {
    match error.code {
        ErrorCode::FunctionInitFailed | ErrorCode::FunctionCrashed | ErrorCode::FunctionLibraryMissing => {
            true
        }
        ErrorCode::FunctionError => {
            let says =
                |text: &str| ["EIO", "I/O error", "Input/output error"].iter().any(|s| text.contains(s));
            says(&error.message) || error.detail.as_ref().is_some_and(|detail| says(&detail.to_string()))
        }
        _ => false,
    }
}

/// The layer's blocks are not what they should be. What the function said about it stays as the cause.
pub(super) fn damaged_layer(layer: &str, error: ApiError) -> ApiError {
    let message = format!("the runtime layer `{layer}` is damaged on this node's disk");
    let mut damaged = ApiError::new(ErrorCode::Internal, message).hint(
        "`stratos node logs --source kernel` names the blocks; write the node's image to its disk anew",
    );
    damaged.causes = std::iter::once(error.message).chain(error.causes).collect();
    damaged.detail = error.detail;
    damaged.invocation = error.invocation;
    damaged
}

pub(super) fn timed_out(spec: &FunctionSpec, during: During) -> ApiError {
    let what = match during {
        During::Init => "did not finish its initialization",
        During::Request => "did not answer",
    };
    let message = format!("the function {what} within its timeout of {}", spec.timeout);
    let hint = match (during, &spec.entry) {
        (During::Init, Entry::Client { .. }) => {
            "with both `handler` and `start`, the command must ask the Runtime API for requests; leave `handler` out \
             for a server on $PORT"
        }
        _ => "raise `timeout` in stratos.toml, or do less in one request; the instance was ended",
    };
    ApiError::new(ErrorCode::FunctionTimeout, message).hint(hint)
}

pub(super) fn queue_timed_out(spec: &FunctionSpec) -> ApiError {
    let message = format!("no instance became free within the timeout of {}", spec.timeout);
    ApiError::new(ErrorCode::QueueTimeout, message)
        .hint("raise `max_instances` or `concurrency` in stratos.toml, or give the node more memory")
}

pub(super) fn queue_full(limit: usize) -> ApiError {
    ApiError::new(ErrorCode::QueueFull, format!("{limit} requests wait for this function already"))
        .hint("try again after the time in Retry-After")
}

pub(super) fn unknown_function(key: &FunctionKey, version: Option<Version>) -> ApiError {
    match version {
        None => ApiError::new(ErrorCode::NotFound, format!("there is no function `{}`", key.name))
            .hint("`stratos ls` lists the functions of this node; `stratos deploy` adds one"),
        Some(version) => {
            ApiError::new(ErrorCode::NotFound, format!("function `{}` has no version {version}", key.name))
                .hint(format!("`stratos versions {}` lists its versions", key.name))
        }
    }
}

pub(super) fn secret_missing(key: &FunctionKey, secret: &SecretName) -> ApiError {
    let message =
        format!("function `{}` needs the secret `{secret}`, which this node does not have", key.name);
    ApiError::new(ErrorCode::SecretMissing, message).hint(format!(
        "set it with `stratos secret set {secret}`, or take it out of [secrets] in stratos.toml"
    ))
}

pub(super) fn environment_too_large(key: &FunctionKey, bytes: usize) -> ApiError {
    let message = format!(
        "the secrets of function `{}` and the node's variables have {bytes} bytes together, more than {MAX_GIVEN}",
        key.name
    );
    ApiError::new(ErrorCode::EnvironmentTooLarge, message)
        .hint("make the secrets shorter, or split the function; `stratos secret list` tells who uses which")
}

pub(crate) fn storage(error: &StoreError) -> ApiError {
    match error {
        StoreError::DiskFull { .. } => disk_full(error),
        _ => ApiError::new(ErrorCode::StorageFailed, "the node's state cannot be read or written")
            .caused_by(error),
    }
}

pub(crate) fn disk_full(error: &(dyn std::error::Error + 'static)) -> ApiError {
    ApiError::new(ErrorCode::StorageFailed, "the node's disk is full")
        .caused_by(error)
        .hint("free some space on the disk of the node's state, then try again")
}

pub(super) fn response_too_large(limit: usize) -> ApiError {
    ApiError::new(
        ErrorCode::FunctionBadResponse,
        format!("the function's answer is over {} MiB", limit >> 20),
    )
    .hint("stream the answer, or put large results elsewhere and answer with their address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_layer_is_the_nodes_fault() {
        let error = |code, message: &str| ApiError::new(code, message);
        for (error, may) in [
            (error(ErrorCode::FunctionInitFailed, "was killed by SIGBUS"), true),
            (error(ErrorCode::FunctionCrashed, "exited with status 1"), true),
            (error(ErrorCode::FunctionError, "OSError: [Errno 5] Input/output error"), true),
            (
                reported(ErrorCode::FunctionError, serde_json::json!({ "trace": ["EIO: i/o error, read"] })),
                true,
            ),
            (error(ErrorCode::FunctionError, "TypeError: no"), false),
            (error(ErrorCode::FunctionTimeout, "EIO"), false),
        ] {
            assert_eq!(may_be_unreadable_layer(&error), may, "{error}");
        }
        let told = damaged_layer("node24", error(ErrorCode::FunctionCrashed, "was killed by SIGBUS"));
        assert_eq!((told.code, told.blame), (ErrorCode::Internal, stratos_api::Blame::Platform));
        assert!(told.message.contains("`node24` is damaged") && told.causes == ["was killed by SIGBUS"]);
    }

    #[test]
    fn a_missing_library_is_told_by_name() {
        for (text, name) in [
            ("libx.so.2: cannot open shared object file: No such file or directory", Some("libx.so.2")),
            ("ImportError: liby.so: cannot open shared object file: No such file", Some("liby.so")),
            (
                "Error loading shared library libz.so.1: No such file or directory (needed by ./app)",
                Some("libz.so.1"),
            ),
            (": cannot open shared object file", None),
            ("cannot open file", None),
        ] {
            assert_eq!(missing_library(text), name, "{text}");
            assert_eq!(is_last_word(text), name.is_some());
        }
        let detail = serde_json::json!({"errorType": "ImportError",
            "errorMessage": "liby.so: cannot open shared object file: No such file or directory"});
        let error = reported(ErrorCode::FunctionInitFailed, detail.clone());
        assert_eq!((error.code, error.detail), (ErrorCode::FunctionLibraryMissing, Some(detail)));
    }

    #[test]
    fn each_death_has_its_own_error() {
        let death = Death {
            code: None,
            signal: None,
            out_of_memory: false,
            ended_because: None,
            denied: None,
            stderr: Vec::new(),
        };
        let memory = MemorySize::from_mib(128).unwrap();
        let cases = [
            (Death { code: Some(3), ..death.clone() }, During::Request, "function_crashed", "status 3"),
            (Death { code: Some(1), ..death.clone() }, During::Init, "function_init_failed", "status 1"),
            (Death { signal: Some(11), ..death.clone() }, During::Request, "function_crashed", "SIGSEGV"),
            (
                Death { signal: Some(9), out_of_memory: true, ..death.clone() },
                During::Request,
                "function_out_of_memory",
                "128MB",
            ),
            (
                Death {
                    signal: Some(6),
                    stderr: vec!["FATAL ERROR: Reached heap limit - JavaScript heap out of memory".into()],
                    ..death.clone()
                },
                During::Init,
                "function_out_of_memory",
                "128MB",
            ),
            (
                Death { signal: Some(31), denied: Some("mount".into()), ..death.clone() },
                During::Request,
                "function_syscall_denied",
                "`mount`",
            ),
            (Death { signal: Some(31), ..death.clone() }, During::Init, "function_syscall_denied", "a system call"),
            // It was warned of, long ago.
            (
                Death {
                    code: Some(1),
                    stderr: vec![
                        "libcuda.so.1: cannot open shared object file: No such file or directory".into(),
                        "Error: something else".into(),
                    ],
                    ..death.clone()
                },
                During::Request,
                "function_crashed",
                "status 1",
            ),
            (
                Death {
                    code: Some(127),
                    stderr: vec![
                        "./app: error while loading shared libraries: libfoo.so.1: cannot open shared object file: \
                         No such file or directory"
                            .into(),
                    ],
                    ..death.clone()
                },
                During::Init,
                "function_library_missing",
                "`libfoo.so.1`",
            ),
            (
                Death { ended_because: Some(EndReason::Timeout), signal: Some(9), ..death.clone() },
                During::Request,
                "function_crashed",
                "was ended because a request ran out of time",
            ),
            (
                Death { ended_because: Some(EndReason::Stopping), signal: Some(9), ..death },
                During::Request,
                "unavailable",
                "the node is stopping",
            ),
        ];
        for (death, during, code, says) in cases {
            let error = death.error(during, memory);
            assert_eq!(error.code.as_str(), code, "{death:?}");
            assert!(error.message.contains(says), "{}", error.message);
        }
    }
}
