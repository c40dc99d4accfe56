//! `cargo xtask bench`: the bench crate in release mode, with what it compares to installed.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{Root, built, cargo, run, setup};

/// Runs a benchmark.
pub(crate) fn run_bench(name: &str, json: Option<&Path>, rest: &[String]) -> Result<()> {
    setup(false, "bench")?;
    // The programs that are measured, in the profile that is shipped.
    run(cargo(&[
        "build",
        "--release",
        "--locked",
        "-p",
        "stratos",
        "-p",
        "stratos-agent",
        "-p",
        "stratos-bench",
    ]))?;
    let mut layers = built("release", "stratos")?;
    layers.args(["layer", "build"]);
    run(layers)?;
    let bench = built("release", "stratos-bench")?;
    let mut command = match Root::find()? {
        Root::Already => bench,
        Root::Sudo => {
            let mut sudo = Command::new("sudo");
            // sudo sets a PATH of its own, without cargo, in spite of -E.
            let path = std::env::var("PATH").unwrap_or_default();
            sudo.arg("-E").arg("env").arg(format!("PATH={path}")).arg(bench.get_program());
            sudo
        }
        Root::No => bail!("benchmarks need root, and there is no sudo"),
    };
    command.arg(name);
    if let Some(json) = json {
        command.arg("--json").arg(json);
    }
    command.args(rest);
    // From where this was called: that is where the file is meant to be.
    command.current_dir(std::env::current_dir()?);
    run(command)
}
