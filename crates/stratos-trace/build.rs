//! Compiles the eBPF programs in `bpf/`, one object for each group, and what static libelf may lack.

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
    complete_libelf(&out);
}

/// Adds to libelf what some builds of it leave out.
fn complete_libelf(out: &Path) {
    println!("cargo::rerun-if-changed=native");
    let object = out.join("libelf.o");
    run(Command::new("cc")
        .args(["-O2", "-fPIC", "-Wall", "-Werror", "-c", "native/libelf.c", "-o"])
        .arg(&object));
    let library = out.join("libelf_rest.a");
    run(Command::new("ar").arg("crsD").arg(library).arg(object));
    println!("cargo::rustc-link-search=native={}", out.display());
    println!("cargo::rustc-link-lib=static=elf_rest");
}

fn run(command: &mut Command) {
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{command:?}: {status}"),
        Err(error) => panic!("{command:?} cannot be run: {error}; `make` installs it"),
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
