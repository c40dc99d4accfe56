//! OpenTelemetry's own library for Python, installed once a build folder.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::pip;

/// Every package at the version that this suite was written against.
const REQUIREMENTS: &str = "\
opentelemetry-proto==1.45.2
protobuf==7.36.2
";

/// A command `python3 ARGUMENTS` that finds the messages of OTLP.
///
/// # Panics
/// When they cannot be installed; pip's words are in the message.
pub fn python(arguments: &[&str]) -> Command {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    let mut command = Command::new("python3");
    command
        .args(arguments)
        .env("PYTHONPATH", LIBRARY.get_or_init(|| pip::install("python-otlp", REQUIREMENTS)))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}
