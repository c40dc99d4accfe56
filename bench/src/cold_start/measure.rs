//! Rounds of starts.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::Options;
use super::subject::{Nodes, Subject};
use crate::bundle::Bundle;
use crate::interrupt::Interrupt;
use crate::output::Progress;
use crate::timing::Phases;

/// Rounds before those that count: page cache, the node's pools, the layers' mounts.
const WARM_UP: usize = 2;

/// What was measured of one subject.
pub(super) struct Measured {
    /// What was started.
    pub(super) subject: Subject,
    /// The client's time of each start.
    pub(super) totals: Vec<Duration>,
    /// What the node says of each; empty for peers.
    pub(super) phases: Vec<Phases>,
}

/// Starts all subjects in turns.
///
/// # Errors
/// When a start fails.
pub(super) fn measure(
    options: &Options,
    interrupt: &Interrupt,
    nodes: &Nodes,
    bundle: &Bundle,
    subjects: Vec<Subject>,
) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    for subject in subjects {
        interrupt.check()?;
        if let Err(error) = subject.cold(nodes, bundle) {
            ensure!(subject.is_optional(), error);
            eprintln!("notice: {} does not run here, it has no row: {error:#}", subject.name());
            continue;
        }
        measured.push(Measured { subject, totals: Vec::new(), phases: Vec::new() });
    }
    let rounds = options.rounds();
    let progress = Progress::new("round", rounds);
    for round in 1..WARM_UP + rounds {
        // Another subject is the first in every round, so that none always follows the same one.
        for turn in 0..measured.len() {
            interrupt.check()?;
            let at = (round + turn) % measured.len();
            let measured = &mut measured[at];
            let name = measured.subject.name();
            let (total, phases) =
                measured.subject.cold(nodes, bundle).with_context(|| format!("round {round}, {name}"))?;
            if round >= WARM_UP {
                measured.totals.push(total);
                measured.phases.extend(phases);
            }
        }
        progress.done((round + 1).saturating_sub(WARM_UP));
    }
    Ok(measured)
}
