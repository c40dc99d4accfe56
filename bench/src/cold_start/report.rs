//! What was measured: rows, a table, promises.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::measure::Measured;
use super::{Options, Where};
use crate::fixture::{Fixture, Mode};
use crate::output::{JsonLines, Promise, promises, table};
use crate::stats::{Sample, ms};
use crate::timing::Phases;

/// The floor, never to be missed: how long a start may take at most, of what Debian's takes.
const FLOOR_P50: f64 = 0.6;
const FLOOR_P95: f64 = 0.7;

/// The figures of one subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    bench: String,
    #[serde(rename = "where")]
    place: Where,
    subject: String,
    runtime: String,
    fixture: String,
    mode: String,
    n: usize,
    p50_ms: f64,
    p95_ms: f64,
    min_ms: f64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    stratos: Option<StratosColumns>,
}

/// Medians of the phases; only StratOS tells them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct StratosColumns {
    /// Everything but the runtime's start, the function's start and the request itself, on the client's clock.
    sandbox_share_p50_ms: f64,
    queue_p50_ms: f64,
    sandbox_p50_ms: f64,
    runtime_p50_ms: f64,
    init_p50_ms: f64,
    handler_p50_ms: f64,
}

impl Row {
    /// What stands for it in the table.
    fn label(&self) -> String {
        match (self.subject.as_str(), self.fixture.as_str()) {
            ("stratos", "handler") => format!("stratos {} (handler)", self.mode),
            ("stratos", _) => format!("stratos {}", self.mode),
            _ => self.subject.clone(),
        }
    }
}

/// Writes the rows, and prints them beside what is promised.
///
/// # Errors
/// When they cannot be written, or one is missing.
pub(super) fn report(options: &Options, rows: &[Row], json: &mut JsonLines) -> Result<()> {
    let head =
        ["subject", "n", "p50", "p95", "min", "share", "queue", "sandbox", "runtime", "init", "handler"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        json.add(row)?;
        let mut line = vec![row.label(), row.n.to_string()];
        line.extend([row.p50_ms, row.p95_ms, row.min_ms].map(|ms| format!("{ms:.1}")));
        if let Some(s) = &row.stratos {
            let phases =
                [s.queue_p50_ms, s.sandbox_p50_ms, s.runtime_p50_ms, s.init_p50_ms, s.handler_p50_ms];
            line.push(format!("{:.2}", s.sandbox_share_p50_ms));
            line.extend(phases.map(|ms| format!("{ms:.2}")));
        }
        lines.push(line);
    }
    println!(
        "cold start of {}, request to first response of {}, ms:\n",
        options.runtime.name(),
        options.fixture.name()
    );
    println!("{}", table(&lines));
    println!("{}", promises(&kept(options, rows)?));
    Ok(())
}

/// What is promised, beside what was measured.
fn kept(options: &Options, rows: &[Row]) -> Result<Vec<Promise>> {
    let find = |name: &str, mode: Mode| {
        let found = |row: &&Row| row.subject == name && row.fixture != "handler" && row.mode == mode.name();
        rows.iter().find(found).with_context(|| format!("no row of {name}, {}", mode.name()))
    };
    let of = |mode: Mode| find("stratos", mode);
    let peer = find(options.place.peer(), Mode::Fresh)?;
    let promise = |what, measured, limit| Promise { what, measured, limit, unit: "" };
    let (p50, p95) = (|row: &Row| row.p50_ms / peer.p50_ms, |row: &Row| row.p95_ms / peer.p95_ms);
    let (fresh, checkpoint, held) = (of(Mode::Fresh)?, of(Mode::Checkpoint)?, of(Mode::Held)?);
    if options.place == Where::Vm {
        return Ok(vec![
            promise("fresh against Debian under runc, p50", p50(fresh), FLOOR_P50),
            promise("fresh against Debian under runc, p95", p95(fresh), FLOOR_P95),
            promise("checkpoint against Debian under runc, p50", p50(checkpoint), FLOOR_P50),
            promise("checkpoint against Debian under runc, p95", p95(checkpoint), FLOOR_P95),
        ]);
    }
    let share = fresh.stratos.as_ref().map_or(f64::NAN, |columns| columns.sandbox_share_p50_ms);
    let mut kept = match options.fixture {
        Fixture::Heavy => vec![promise("checkpoint against runc, p50", p50(checkpoint), 1.0 / 30.0)],
        Fixture::Hello | Fixture::HelloEsm => vec![
            promise("fresh against runc, p50", p50(fresh), 0.65),
            Promise { what: "fresh, sandbox share, p50", measured: share, limit: 4.0, unit: "ms" },
            promise("checkpoint against runc, p50", p50(checkpoint), 1.0 / 20.0),
            promise("checkpoint against runc, p95", p95(checkpoint), 1.0 / 15.0),
            promise("held against runc, p50", p50(held), 1.0 / 45.0),
        ],
    };
    kept.push(promise("cold-template against runc, p50", p50(of(Mode::ColdTemplate)?), 1.0 / 6.0));
    Ok(kept)
}

impl Where {
    /// The subject that StratOS is compared with there.
    pub(super) const fn peer(self) -> &'static str {
        match self {
            Self::Host => "runc",
            Self::Vm => "debian-runc",
        }
    }
}

/// The figures of what was measured.
pub(super) fn row(options: &Options, measured: &Measured) -> Row {
    let p50 = |phase: &dyn Fn(&Phases, Duration) -> Duration| {
        let pairs = measured.phases.iter().zip(&measured.totals);
        ms(Sample::new(pairs.map(|(phases, total)| phase(phases, *total)).collect()).quantile(50))
    };
    let stratos = (!measured.phases.is_empty()).then(|| StratosColumns {
        sandbox_share_p50_ms: p50(&Phases::sandbox_share),
        queue_p50_ms: p50(&|phases, _| phases.queue),
        sandbox_p50_ms: p50(&|phases, _| phases.sandbox),
        runtime_p50_ms: p50(&|phases, _| phases.runtime),
        init_p50_ms: p50(&|phases, _| phases.init),
        handler_p50_ms: p50(&|phases, _| phases.handler),
    });
    let totals = Sample::new(measured.totals.clone());
    let subject = &measured.subject;
    Row {
        bench: "cold-start".into(),
        place: options.place,
        subject: subject.name().into(),
        runtime: subject.runtime(options.runtime).into(),
        fixture: subject.fixture(options.fixture).into(),
        mode: subject.mode().name().into(),
        n: totals.len(),
        p50_ms: ms(totals.quantile(50)),
        p95_ms: ms(totals.quantile(95)),
        min_ms: ms(totals.min()),
        stratos,
    }
}

#[cfg(test)]
mod tests {
    use super::super::subject::Subject;
    use super::*;
    use crate::peers::Peer;

    #[test]
    fn rows_are_as_promised() {
        let options = Options::example();
        let mut measured = Measured {
            subject: Subject::Peer(Peer::Bare),
            totals: [3, 1, 2].map(Duration::from_millis).to_vec(),
            phases: Vec::new(),
        };
        let bare = row(&options, &measured);
        let text = serde_json::to_string(&bare).unwrap();
        assert_eq!(
            text,
            r#"{"bench":"cold-start","where":"host","subject":"bare","runtime":"node24","fixture":"hello","mode":"fresh","n":3,"p50_ms":2.0,"p95_ms":3.0,"min_ms":1.0}"#
        );
        assert_eq!(serde_json::from_str::<Row>(&text).unwrap(), bare);
        let header = "queue;dur=0.1, sandbox;dur=0.2, runtime;dur=0.3, init;dur=0.2, handler;dur=0.1";
        measured.phases = vec![Phases::parse(header).unwrap(); 3];
        let told = row(&options, &measured);
        let text = serde_json::to_string(&told).unwrap();
        assert_eq!(serde_json::from_str::<Row>(&text).unwrap(), told);
        let columns = told.stratos.unwrap();
        assert_eq!((columns.sandbox_share_p50_ms, columns.runtime_p50_ms), (1.4, 0.3));
    }

    #[test]
    fn in_a_virtual_machine_the_floor_is_promised() {
        let options = Options { place: Where::Vm, ..Options::example() };
        let row = |subject: &str, mode: Mode, p50_ms, p95_ms| Row {
            p50_ms,
            p95_ms,
            subject: subject.into(),
            mode: mode.name().into(),
            ..row(
                &options,
                &Measured {
                    subject: Subject::Peer(Peer::Bare),
                    totals: vec![Duration::ZERO],
                    phases: Vec::new(),
                },
            )
        };
        let mut rows = vec![
            row("stratos", Mode::Fresh, 90.0, 90.0),
            row("stratos", Mode::Checkpoint, 10.0, 30.0),
            row("stratos", Mode::Held, 5.0, 5.0),
        ];
        assert!(kept(&options, &rows).is_err(), "without the peer there is no promise");
        rows.push(row("debian-runc", Mode::Fresh, 100.0, 120.0));
        let kept = kept(&options, &rows).unwrap();
        let figures: Vec<_> = kept.iter().map(|promise| (promise.measured, promise.limit)).collect();
        assert_eq!(figures, [(0.9, 0.6), (0.75, 0.7), (0.1, 0.6), (0.25, 0.7)]);
    }
}
