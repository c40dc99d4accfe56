//! Builds the freestanding program with the compiler that builds the crate.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

fn main() {
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let out = PathBuf::from(variable("OUT_DIR")).join("restorer");
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    println!("cargo::rerun-if-changed=program");
    println!("cargo::rerun-if-changed=src/abi.rs");
    let arch = variable("CARGO_CFG_TARGET_ARCH");
    if arch != "x86_64" {
        println!("cargo::warning=no restorer for {arch}: checkpoints cannot be restored there");
        fs::write(&out, []).expect("the output folder is writable");
        return;
    }
    let mut rustc = Command::new(variable("RUSTC"));
    // The program lies at fixed addresses and has no library: nothing of the crate's own flags applies to it.
    rustc.current_dir(&here).env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    rustc.args(["--crate-name", "restorer", "--crate-type", "bin", "--edition", "2024"]);
    rustc.args(["--target", &variable("TARGET")]);
    for option in [
        "opt-level=2",
        "codegen-units=1",
        "panic=abort",
        "debuginfo=0",
        "strip=symbols",
        "relocation-model=static",
        // The addresses are above 4 GiB.
        "code-model=large",
        "target-feature=+crt-static",
        "force-unwind-tables=no",
        "link-arg=-nostdlib",
        "link-arg=-nostartfiles",
        "link-arg=-no-pie",
        "link-arg=-Wl,--build-id=none,-z,noexecstack,--no-dynamic-linker,--gc-sections",
        "link-arg=-Wl,-T,program/layout.ld",
    ] {
        rustc.args(["-C", option]);
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    // Paths of the build machine must not get into the program.
    rustc.arg(format!("--remap-path-prefix={}=.", here.display()));
    rustc.arg("-o").arg(&out).arg("program/main.rs");
    let status = rustc.status().unwrap_or_else(|error| panic!("cannot run {rustc:?}: {error}"));
    assert!(status.success(), "the restorer does not compile");
}
