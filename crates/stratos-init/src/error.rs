//! What can go wrong in a phase.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The kernel or a disk refused something.
    #[error("cannot {operation}")]
    System {
        /// What was tried, with its names.
        operation: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file could not be used.
    #[error("cannot {verb} {path}")]
    File {
        /// What was tried, such as `read`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something that has to be there is not.
    #[error("{what} is missing")]
    Missing {
        /// What.
        what: String,
    },
    /// Something did not come in time.
    #[error("{what} did not come within {after:?}")]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },
    /// Something says what makes no sense.
    #[error("{what}: {problem}")]
    Invalid {
        /// What was read.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A TOML document is not as it has to be.
    #[error("{path} cannot be read")]
    Toml {
        /// The document.
        path: PathBuf,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// A JSON document is not as it has to be.
    #[error("{path} cannot be read")]
    Json {
        /// The document.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The node's configuration is not as it has to be.
    #[error("the configuration from {place} is refused")]
    Config {
        /// Where it was found.
        place: String,
        /// What is wrong.
        source: stratos_types::node_config::NodeConfigError,
    },
    /// The network could not be set up.
    #[error("the network is not set up")]
    Network {
        /// What the kernel said.
        #[from]
        source: stratos_sys::netlink::NetlinkError,
    },
    /// A program could not be started.
    #[error("cannot start {program}")]
    Spawn {
        /// The program.
        program: String,
        /// Which step failed.
        source: stratos_sys::spawn::SpawnError,
    },
}

impl InitError {
    /// The kernel refused `operation`.
    pub fn system(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { operation: operation.into(), source: source.into() }
    }

    /// `verb` was refused on a file.
    pub fn file(verb: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self::File { verb, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// `what` is not there.
    pub fn missing(what: impl Into<String>) -> Self {
        Self::Missing { what: what.into() }
    }

    /// `what` makes no sense.
    pub fn invalid(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), problem: problem.into() }
    }

    /// The error and its causes in one line.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string does not fail.
        let written = write!(text, ": {error}");
        debug_assert!(written.is_ok());
        cause = error.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_its_causes_in_one_line() {
        let error = InitError::file("read", "/etc/x", io::Error::from_raw_os_error(2));
        assert_eq!(error.chain(), "cannot read /etc/x: No such file or directory (os error 2)");
    }
}
