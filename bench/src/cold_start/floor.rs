//! The floor: StratOS in a virtual machine, where limits are real, against Debian with its own Node.js under runc.
//!
//! This program boots a machine with itself in it, which measures there and prints its rows on the console.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use stratos_image::BuildOptions;
use stratos_image::debian::SUITE;
use stratos_tests::vm::{self, Job};
use tokio::runtime::Runtime as Tokio;

use super::measure::measure as rounds;
use super::report::{Row, row};
use super::subject::{Nodes, Subject, subjects};
use super::{Options, Where};
use crate::bundle::Bundle;
use crate::fixture::{Fixture, Mode, Runtime};
use crate::guest::{Notices, cache};
use crate::interrupt::Interrupt;
use crate::mmdebstrap::Root;
use crate::peers::Peer;

/// What a slim image of Debian with Node.js holds.
const DEBIAN: Root = Root {
    name: "debian-node",
    suite: SUITE,
    variant: "minbase",
    packages: &["nodejs"],
    // Where the server is mounted.
    folders: &["var/task"],
};
/// Where the machine has it.
const IMAGE: &str = "/debian.erofs";
/// How StratOS's instances come to be there.
const MODES: [Mode; 3] = [Mode::Fresh, Mode::Checkpoint, Mode::Held];
/// Memory limit of the peer, that of the function.
const MEMORY: u64 = 128 << 20;
/// One CPU, as in the other benchmarks' machines.
const CPUS: u32 = 1;
/// The runtime and Debian's image twice while they are unpacked, and the functions.
const MEMORY_MIB: u32 = 3072;
/// How long one round may take where every instruction is emulated, and all before the first.
const ROUND: Duration = Duration::from_secs(120);

/// Boots the machine, and gives the rows that it has measured.
///
/// # Errors
/// When anything in it fails.
pub(super) fn measure(options: &Options, tokio: &Tokio, interrupt: &Interrupt) -> Result<Vec<Row>> {
    ensure!(
        options.runtime == Runtime::Node24 && options.fixture != Fixture::Heavy,
        "in a virtual machine only the hello servers of node24 are measured"
    );
    if let Some(obstacle) = vm::obstacle() {
        anyhow::bail!("no virtual machine: {obstacle}");
    }
    let build = BuildOptions::new(cache()?, stratos_tests::repository().to_owned(), &Notices);
    let image = DEBIAN.image(&build, interrupt).context("Debian with Node.js")?;
    let runc = Peer::find("runc").context("runc is not installed; `apt-get install runc` installs it")?;
    let kernel = vm::vmlinuz(&vm::kernel().context("no kernel for the machine")?)?;
    let accelerator = tokio.block_on(stratos_vm::accelerator(&build.cache, &kernel))?;
    let rounds = options.rounds();
    let job = Job {
        arguments: arguments(options, rounds),
        programs: vec![stratos_tests::program("stratosd"), runc],
        files: vec![(image, IMAGE.into())],
        folders: &[],
        layers: vec![options.runtime.name(), "tools"],
        cpus: CPUS,
        memory_mib: MEMORY_MIB,
        accelerator,
        patience: ROUND * u32::try_from(rounds + 10).context("rounds")?,
    };
    eprintln!("booting a virtual machine ({accelerator}, CPUs: {CPUS}, memory: {MEMORY_MIB} MiB)");
    let run = vm::run(&job, || interrupt.check())?;
    ensure!(run.exit == Some(0), "the measurement in the machine failed; its console is above");
    let rows: Vec<Row> =
        run.console.lines().filter_map(|line| serde_json::from_str(line.trim()).ok()).collect();
    ensure!(rows.len() == MODES.len() + 1, "{} rows came out of the machine", rows.len());
    Ok(rows)
}

/// What this program is told in the machine.
fn arguments(options: &Options, rounds: usize) -> Vec<String> {
    let fixture = clap::ValueEnum::to_possible_value(&options.fixture);
    let fixture = fixture.map(|value| value.get_name().to_owned()).unwrap_or_default();
    ["cold-start", "--where", "vm", "--rounds", &rounds.to_string(), "--fixture", &fixture]
        .map(str::to_owned)
        .to_vec()
}

/// Measures in the machine, and prints the rows.
///
/// # Errors
/// When a start fails.
pub(super) fn inside(options: &Options) -> Result<()> {
    debug_assert_eq!(options.place, Where::Vm);
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let interrupt = Interrupt::listen(&tokio)?;
    let bundle = Bundle::mount(Path::new(IMAGE), options.runtime, options.fixture, MEMORY)?;
    let peer = Peer::oci("runc")?.context("no runc in the machine")?.on_one_cpu(Where::Vm.peer());
    let nodes = Nodes::with_limits(&tokio)?;
    let measured = subjects(options, &tokio, &nodes, &MODES, &[false]).and_then(|mut subjects| {
        subjects.push(Subject::Peer(peer));
        eprintln!("measuring");
        rounds(options, &interrupt, &nodes, &bundle, subjects)
    });
    nodes.stop();
    for measured in measured? {
        println!("{}", serde_json::to_string(&row(options, &measured))?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn the_machine_is_told_what_was_asked_for() {
        let asked = Options { fixture: Fixture::HelloEsm, place: Where::Vm, ..Options::example() };
        let told = Line::try_parse_from(arguments(&asked, 7)).unwrap_or_else(|e| panic!("{e}")).options;
        assert_eq!((told.place, told.fixture, told.rounds()), (Where::Vm, Fixture::HelloEsm, 7));
    }
}
