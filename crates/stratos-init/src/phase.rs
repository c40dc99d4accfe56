//! Phases: the boot and the shutdown as tables, and running such a table.

use stratos_api::node::BootPhase;

use crate::boot::Node;
use crate::clock;
use crate::error::InitError;

/// One step, with a name that boots are compared by.
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// What it does, for the documentation, which prints the same table.
    pub what: &'static str,
    /// Whether the machine cannot go on without.
    pub needed: bool,
    /// Does it.
    pub run: fn(&mut Node) -> Result<Outcome, InitError>,
}

/// How a phase went when it did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// What was done.
    Done(String),
    /// Why there was nothing to do.
    Skipped(String),
}

impl Outcome {
    /// What was done.
    pub fn done(detail: impl Into<String>) -> Result<Self, InitError> {
        Ok(Self::Done(detail.into()))
    }

    /// Why there was nothing to do.
    pub fn skipped(detail: impl Into<String>) -> Result<Self, InitError> {
        Ok(Self::Skipped(detail.into()))
    }
}

/// Runs a table in its order; `record` is given what became of each phase. Stops only at a phase that the machine
/// cannot go on without.
///
/// # Errors
/// What that phase failed with.
pub fn run(
    table: &'static [Phase],
    node: &mut Node,
    record: fn(&mut Node, BootPhase),
) -> Result<(), (&'static Phase, InitError)> {
    for phase in table {
        let start_us = clock::boot_us();
        let result = (phase.run)(node);
        let (outcome, detail) = match &result {
            Ok(Outcome::Done(detail)) => ("ok", detail.clone()),
            Ok(Outcome::Skipped(detail)) => ("skipped", detail.clone()),
            Err(error) => ("failed", error.chain()),
        };
        node.journal.note(&format!("{}: {outcome}: {detail}", phase.name));
        if result.is_err() && !phase.needed {
            node.journal.say(&format!("{} failed: {detail}", phase.name));
        }
        let done = BootPhase {
            name: phase.name.to_owned(),
            start_us,
            duration_us: clock::boot_us().saturating_sub(start_us),
            outcome: outcome.to_owned(),
            detail,
        };
        record(node, done);
        if let (true, Err(error)) = (phase.needed, result) {
            return Err((phase, error));
        }
    }
    Ok(())
}

/// A table as a Markdown table: what docs/boot.md prints.
pub fn markdown(table: &[Phase]) -> String {
    let mut text = String::from("| phase | what it does | without it |\n|---|---|---|\n");
    for phase in table {
        let without = if phase.needed { "the machine cannot go on" } else { "reported; goes on" };
        text += &format!("| `{}` | {} | {without} |\n", phase.name, phase.what);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Phase] = &[
        Phase { name: "one", what: "counts", needed: true, run: |_| Outcome::done("1") },
        Phase { name: "two", what: "fails", needed: false, run: |_| Err(InitError::missing("a thing")) },
        Phase { name: "three", what: "rests", needed: false, run: |_| Outcome::skipped("nothing to do") },
        Phase { name: "four", what: "fails", needed: true, run: |_| Err(InitError::missing("the root")) },
        Phase { name: "five", what: "is not reached", needed: false, run: |_| Outcome::done("5") },
    ];

    #[test]
    fn phases_run_in_order_until_one_fails_that_is_needed() {
        let mut node = Node::default();
        let (phase, error) = run(TABLE, &mut node, |node, done| node.record.phases.push(done)).unwrap_err();
        assert_eq!((phase.name, error.to_string().as_str()), ("four", "the root is missing"));
        let shown: Vec<_> = node
            .record
            .phases
            .iter()
            .map(|phase| format!("{} {} {}", phase.name, phase.outcome, phase.detail))
            .collect();
        assert_eq!(
            shown,
            [
                "one ok 1",
                "two failed a thing is missing",
                "three skipped nothing to do",
                "four failed the root is missing"
            ]
        );
    }

    #[test]
    fn the_documentation_prints_the_tables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/boot.md");
        let text = std::fs::read_to_string(path).unwrap();
        for table in [crate::boot::BOOT, crate::shutdown::SHUTDOWN] {
            let expected = markdown(table);
            assert!(text.contains(&expected), "docs/boot.md has to have this table:\n{expected}");
        }
    }

    #[test]
    fn names_of_phases_are_unique() {
        for table in [crate::boot::BOOT, crate::shutdown::SHUTDOWN] {
            let mut names: Vec<_> = table.iter().map(|phase| phase.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), table.len());
        }
    }
}
