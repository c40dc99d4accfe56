//! Packages of the Python package index, installed once a build folder.

use std::path::PathBuf;
use std::process::Command;

/// Installs packages, as lines of a requirements.txt, into a folder of this name below the build folder; gives its path.
///
/// # Panics
/// When they cannot be installed; pip's words are in the message.
pub(crate) fn install(name: &str, requirements: &str) -> PathBuf {
    let program = crate::program("stratosd");
    let target = program.ancestors().nth(2).expect("programs are in a folder of the build folder");
    let packages = target.join(name);
    let installed = packages.join("requirements.txt");
    if std::fs::read_to_string(&installed).is_ok_and(|text| text == requirements) {
        return packages;
    }
    // Beside its place and moved there whole: a run that is broken off leaves nothing that looks finished.
    let new = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(target).expect("a folder");
    let list = new.path().join("requirements.txt");
    std::fs::write(&list, requirements).expect("the folder is writable");
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"])
        .args(["--disable-pip-version-check", "--no-input", "--no-compile"])
        .arg("--target")
        .arg(new.path())
        .arg("--requirement")
        .arg(&list)
        .output()
        .expect("python3 is there: scripts/setup.sh test installs it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pip cannot install {requirements}:\n{said}");
    match std::fs::remove_dir_all(&packages) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            panic!("{}: {error}", packages.display())
        }
        _ => {}
    }
    std::fs::rename(new.keep(), &packages).expect("both are in the build folder");
    packages
}
