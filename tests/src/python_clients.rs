//! AWS's own clients for Python, boto3 and the aws CLI, installed once a build folder.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::pip;

/// Every package at the version that this suite was written against.
const REQUIREMENTS: &str = "\
awscli==1.46.3
boto3==1.44.5
botocore==1.44.5
colorama==0.4.6
docutils==0.19
jmespath==1.1.0
pyasn1==0.6.5
python-dateutil==2.9.0.post0
pyyaml==6.0.3
rsa==4.7.2
s3transfer==0.19.3
six==1.17.0
urllib3==2.8.0
";

/// A command `python3 ARGUMENTS` that finds the clients and nothing of this machine's own AWS settings.
///
/// # Panics
/// When they cannot be installed; pip's words are in the message.
pub fn python(arguments: &[&str]) -> Command {
    static CLIENTS: OnceLock<PathBuf> = OnceLock::new();
    let mut command = Command::new("python3");
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("PYTHONPATH", CLIENTS.get_or_init(|| pip::install("python-clients", REQUIREMENTS)))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("LANG", "C.UTF-8")
        .env("HOME", "/nonexistent")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_DEFAULT_REGION", "local");
    command
}
