//! Results: JSON lines for machines, a table for people.

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// A file of JSON lines; nothing is written without one.
pub(crate) struct JsonLines(Option<(PathBuf, File)>);

impl JsonLines {
    /// Makes the file, before anything is measured: a path that cannot be written to is an early error.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn create(path: Option<&Path>) -> Result<Self> {
        let create = |path: &Path| {
            let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
            anyhow::Ok((path.to_owned(), file))
        };
        Ok(Self(path.map(create).transpose()?))
    }

    /// Adds one line.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn add(&mut self, row: &impl Serialize) -> Result<()> {
        let Some((path, file)) = &mut self.0 else { return Ok(()) };
        let mut line = serde_json::to_vec(row)?;
        line.push(b'\n');
        file.write_all(&line).with_context(|| format!("write {}", path.display()))
    }
}

/// Columns as wide as their widest cell: the first to the left, the others to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Tells on a terminal how far a run is.
pub(crate) struct Progress {
    what: &'static str,
    of: usize,
    shown: bool,
}

impl Progress {
    /// A run of `of` steps, each a `what`.
    pub(crate) fn new(what: &'static str, of: usize) -> Self {
        Self { what, of, shown: std::io::stderr().is_terminal() }
    }

    /// So many are done.
    pub(crate) fn done(&self, steps: usize) {
        if self.shown {
            eprint!("\r{} {steps} of {}", self.what, self.of);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            eprintln!();
        }
    }
}

/// One promise beside what was measured.
pub(crate) struct Promise {
    /// What is promised.
    pub(crate) what: &'static str,
    /// What was measured, in the unit of `limit`.
    pub(crate) measured: f64,
    /// The most it may be.
    pub(crate) limit: f64,
    /// The unit of both.
    pub(crate) unit: &'static str,
}

/// A table of promises. It reports and does not judge: CI compares runs on machines it knows.
pub(crate) fn promises(promises: &[Promise]) -> String {
    let head = ["", "measured", "limit", ""].map(str::to_owned).to_vec();
    let row = |promise: &Promise| {
        let kept = if promise.measured <= promise.limit { "kept" } else { "missed" };
        let number = |value: f64| format!("{value:.2} {}", promise.unit).trim_end().to_owned();
        vec![promise.what.to_owned(), number(promise.measured), number(promise.limit), kept.to_owned()]
    };
    table(&std::iter::once(head).chain(promises.iter().map(row)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = [vec!["a", "b"], vec!["long", "1.0"], vec!["c", "10.25"]];
        let rows: Vec<_> = rows.iter().map(|row| row.iter().map(|s| (*s).to_owned()).collect()).collect();
        assert_eq!(table(&rows), "a         b\nlong    1.0\nc     10.25\n");
    }

    #[test]
    fn promises_say_whether_they_were_kept() {
        let text = promises(&[
            Promise { what: "share", measured: 3.5, limit: 4.0, unit: "ms" },
            Promise { what: "ratio", measured: 0.7, limit: 0.65, unit: "" },
        ]);
        assert_eq!(
            text,
            "       measured    limit\nshare   3.50 ms  4.00 ms    kept\nratio      0.70     0.65  missed\n"
        );
    }

    #[test]
    fn rows_are_lines_of_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows");
        let mut lines = JsonLines::create(Some(&path)).unwrap();
        lines.add(&serde_json::json!({"n": 1})).unwrap();
        lines.add(&serde_json::json!({"n": 2})).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"n\":1}\n{\"n\":2}\n");
        JsonLines::create(None).unwrap().add(&1).unwrap();
        assert!(JsonLines::create(Some(&dir.path().join("no/such"))).is_err());
    }
}
