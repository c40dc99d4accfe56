//! `cargo xtask ci` and `lint`: tables of steps, each timed.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::process::{Root, built, cargo, read, run};
use crate::{licences, tidy};

/// A named step.
struct Step {
    name: &'static str,
    run: fn() -> Result<()>,
}

/// What needs no root and no layers; the quick ones first.
const LINT: &[Step] = &[
    Step { name: "format", run: || run(cargo(&["fmt", "--all", "--check"])) },
    Step { name: "tidy", run: tidy::run },
    Step { name: "licences", run: licences::run },
    Step { name: "clippy", run: clippy },
];

/// What follows in CI.
const TEST: &[Step] = &[
    // All of it, so that tests find the programs they start beside their own. Everything is built once, in the
    // development profile, whose dependencies are optimised.
    Step { name: "build", run: || run(cargo(&["build", "--workspace", "--all-targets", "--locked"])) },
    Step { name: "layers", run: || stratos(&["layer", "build"]) },
    // What the tests boot: the debug layer is part of it, since some of them need a shell in the machine.
    Step { name: "image", run: || stratos(&["image", "build", "--debug"]) },
    // Compiles the kernel, which takes long, unless the cache has it.
    Step { name: "own kernel", run: || stratos(&["image", "build", "--kernel", "stratos"]) },
    Step { name: "test", run: || test(&["--workspace"]) },
    // By themselves, so that no program that another test starts is built with the ability to leave defences out.
    Step { name: "escape", run: || WEAKENED.iter().try_for_each(|arguments| test(arguments)) },
];

/// Tests of sandboxes with single defences left out.
const WEAKENED: &[&[&str]] = &[
    &["-p", "stratos-sandbox", "--features", "weaken", "--test", "weaken"],
    &["-p", "stratos-tests", "--features", "weaken", "--test", "escape"],
];

fn clippy() -> Result<()> {
    run(cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]))?;
    WEAKENED.iter().try_for_each(|arguments| {
        let mut command = cargo(&["clippy", "--locked"]);
        command.args(*arguments).args(["--", "-D", "warnings"]);
        run(command)
    })
}

/// The command line that was built here.
fn stratos(arguments: &[&str]) -> Result<()> {
    let mut command = built("debug", "stratos")?;
    command.args(arguments);
    run(command)
}

/// Tests need mounts, namespaces and cgroups, so they run as root; what is built stays the user's own.
fn test(arguments: &[&str]) -> Result<()> {
    let mut command = cargo(&[]);
    // Fetched here, since a test that runs as root would leave root's files in the user's cache.
    command.env("STRATOS_VM_KERNEL", read(built("debug", "vm-kernel")?)?.trim_end());
    match Root::find()? {
        Root::Already => {}
        Root::Sudo => {
            // sudo sets a PATH of its own, without cargo, in spite of -E.
            let path = std::env::var("PATH").unwrap_or_default();
            let runner = format!("target.'cfg(unix)'.runner = ['sudo', '-E', 'env', 'PATH={path}']");
            command.args(["--config", &runner]);
        }
        Root::No => {
            eprintln!("warning: neither root nor sudo; tests that need root are skipped, each by name");
        }
    }
    command.args(["test", "--locked", "--no-fail-fast"]).args(arguments);
    run(command)
}

/// Names that `--from` takes.
pub(crate) fn step_names() -> Vec<&'static str> {
    LINT.iter().chain(TEST).map(|step| step.name).collect()
}

/// Runs everything, or what follows a step.
pub(crate) fn run_steps(from: Option<&str>) -> Result<()> {
    let mut steps = LINT.iter().chain(TEST).skip_while(|step| from.is_some_and(|from| step.name != from));
    steps.try_for_each(timed)
}

/// `cargo xtask lint`.
pub(crate) fn lint() -> Result<()> {
    LINT.iter().try_for_each(timed)
}

fn timed(step: &Step) -> Result<()> {
    eprintln!("==> {}", step.name);
    let started = Instant::now();
    (step.run)().with_context(|| {
        format!("step {} failed; repeat it with `cargo xtask ci --from {}`", step.name, step.name)
    })?;
    eprintln!("==> {} done in {:.0} s", step.name, started.elapsed().as_secs_f64());
    Ok(())
}
