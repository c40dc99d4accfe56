//! AWS's own clients for Python, boto3 and the aws CLI, installed once a build folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

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
        .env("PYTHONPATH", CLIENTS.get_or_init(install))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("LANG", "C.UTF-8")
        .env("HOME", "/nonexistent")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_DEFAULT_REGION", "local");
    command
}

fn install() -> PathBuf {
    let program = crate::program("stratosd");
    let target = program.ancestors().nth(2).expect("programs are in a folder of the build folder");
    let clients = target.join("python-clients");
    let installed = clients.join("requirements.txt");
    if std::fs::read_to_string(&installed).is_ok_and(|text| text == REQUIREMENTS) {
        return clients;
    }
    // Beside its place and moved there whole: a run that is broken off leaves nothing that looks finished.
    let new = tempfile::Builder::new().prefix("python-clients-").tempdir_in(target).expect("a folder");
    let requirements = new.path().join("requirements.txt");
    std::fs::write(&requirements, REQUIREMENTS).expect("the folder is writable");
    pip_install(new.path(), &requirements);
    match std::fs::remove_dir_all(&clients) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            panic!("{}: {error}", clients.display())
        }
        _ => {}
    }
    std::fs::rename(new.keep(), &clients).expect("both are in the build folder");
    clients
}

fn pip_install(target: &Path, requirements: &Path) {
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"])
        .args(["--disable-pip-version-check", "--no-input", "--no-compile"])
        .arg("--target")
        .arg(target)
        .arg("--requirement")
        .arg(requirements)
        .output()
        .expect("python3 is there: scripts/setup.sh test installs it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pip cannot install boto3 and the aws CLI:\n{said}");
}
