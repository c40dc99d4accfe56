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
        // The first process of a virtual machine that a benchmark runs in.
        "-p",
        "stratos-tests",
    ]))?;
    let mut layers = built("release", "stratos")?;
    layers.args(["layer", "build"]);
    run(layers)?;
    for kernel in kernels(name, rest) {
        let mut image = built("release", "stratos")?;
        image.args(["image", "build", "--kernel", kernel]);
        run(image)?;
    }
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

/// The kernels of the images that a benchmark boots.
fn kernels<'a>(name: &str, rest: &'a [String]) -> Vec<&'a str> {
    match name {
        "boot" => vec!["debian", "stratos"],
        "memory" | "isolation" => {
            let given = rest.iter().zip(rest.iter().skip(1)).find(|(option, _)| *option == "--kernel");
            let joined = rest.iter().find_map(|option| option.strip_prefix("--kernel="));
            vec![given.map(|(_, kernel)| kernel.as_str()).or(joined).unwrap_or("debian")]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_built_for_those_that_boot_them() {
        let rest = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for (name, given, expected) in [
            ("warm", "--n 5", &[] as &[&str]),
            ("boot", "--n 5", &["debian", "stratos"]),
            ("memory", "", &["debian"]),
            ("memory", "--n 1 --kernel stratos", &["stratos"]),
            ("isolation", "--kernel=stratos", &["stratos"]),
        ] {
            assert_eq!(kernels(name, &rest(given)), expected, "{name} {given}");
        }
    }
}
