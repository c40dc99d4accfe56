//! Compiles the eBPF programs in `bpf/`, one object for each group.

use std::path::{Path, PathBuf};
use std::process::Command;

const FOLDER: &str = "bpf";
const OBJECTS: [&str; 6] = ["maps", "lifecycle", "scheduler", "faults", "network", "syscalls"];

fn main() {
    println!("cargo::rerun-if-changed={FOLDER}");
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let (out, headers) = (PathBuf::from(variable("OUT_DIR")), variable("DEP_BPF_INCLUDE"));
    let architecture = match variable("CARGO_CFG_TARGET_ARCH").as_str() {
        "x86_64" => "x86",
        "aarch64" => "arm64",
        "riscv64" => "riscv",
        other => panic!("no eBPF programs for {other}"),
    };
    for object in OBJECTS {
        compile(object, architecture, &headers, &out);
    }
}

/// Paths are told relative to the crate's folder, so that the object does not depend on where that is.
fn compile(object: &str, architecture: &str, headers: &str, out: &Path) {
    let mut clang = Command::new("clang");
    clang
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-fno-ident"])
        .arg("-fdebug-compilation-dir=.")
        .arg(format!("-ffile-prefix-map={headers}=include"))
        .arg(format!("-D__TARGET_ARCH_{architecture}"))
        .args(["-isystem", headers, "-c"])
        .arg(Path::new(FOLDER).join(format!("{object}.bpf.c")))
        .arg("-o")
        .arg(out.join(format!("{object}.bpf.o")));
    match clang.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("clang could not compile {object}.bpf.c: {status}"),
        Err(error) => {
            panic!("clang, which compiles the eBPF programs, cannot be run: {error}; `make` installs it")
        }
    }
}
