//! Everything that goes to stdout and stderr: text, tables, JSON.
//!
//! Results go to stdout, messages to stderr. With `--json`, stdout holds JSON and nothing else.

use std::io::{ErrorKind, IsTerminal, Write};

use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;

use crate::failure::{Failure, Result};

/// How results are printed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON in place of text.
    pub(crate) json: bool,
}

impl Output {
    /// Writes bytes to stdout as they are, at once.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|e| match e.kind() {
            ErrorKind::BrokenPipe => Failure::closed_pipe(),
            _ => Failure::new("cannot write to stdout").because(&e),
        })
    }

    /// Writes a line to stdout.
    pub(crate) fn line(self, text: &str) -> Result<()> {
        self.bytes(format!("{text}\n").as_bytes())
    }

    /// Writes one JSON document: indented for people on a terminal, else on one line.
    pub(crate) fn document(self, value: &impl Serialize) -> Result<()> {
        let text = match std::io::stdout().is_terminal() {
            true => serde_json::to_string_pretty(value),
            false => serde_json::to_string(value),
        };
        self.line(&text.map_err(|e| Failure::new("cannot write the result as JSON").because(&e))?)
    }

    /// Writes one document of a stream: always on one line.
    pub(crate) fn item(self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value);
        self.line(&text.map_err(|e| Failure::new("cannot write the result as JSON").because(&e))?)
    }
}

/// Text from elsewhere, which must not be able to steer a terminal.
pub(crate) fn shown(text: &str, terminal: bool) -> String {
    match terminal {
        true => text.replace(|c: char| c.is_control() && c != '\t', "\u{fffd}"),
        false => text.to_owned(),
    }
}

/// Waits until nobody reads stdout any more. A stream that is followed may be silent for hours, and its reader, such as
/// `head`, long gone: writing alone would not show that.
pub(crate) async fn reader_gone() {
    let (tell, told) = tokio::sync::oneshot::channel();
    // A thread, not a task: waiting for an error alone, without O_NONBLOCK on what others share, is poll(2)'s.
    std::thread::spawn(move || {
        let stdout = std::io::stdout();
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        if loop {
            match poll(&mut watched, None) {
                Err(rustix::io::Errno::INTR) | Ok(0) => {}
                ended => break ended.is_ok(),
            }
        } {
            // Nobody waits any more when the command has ended by itself.
            tell.send(()).unwrap_or_default();
        }
    });
    if told.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Writes a message to stderr. A stderr that nobody reads is no reason to fail.
pub(crate) fn note(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").unwrap_or_default();
}

/// A plain table: a line of headings, columns aligned, two spaces between them.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    right: &'static [usize],
}

impl Table {
    /// A table with its headings; the columns in `right` are aligned to the right.
    pub(crate) fn new(headings: &[&str], right: &'static [usize]) -> Self {
        Self { rows: vec![headings.iter().map(ToString::to_string).collect()], right }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.rows[0].len());
        self.rows.push(cells.into());
    }

    /// The table as text, each line ended.
    pub(crate) fn render(&self) -> String {
        let width = |column: usize| self.rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.rows[0].len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                match self.right.contains(&column) {
                    true => format!("{cell:>width$}"),
                    false => format!("{cell:<width$}"),
                }
            });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Bytes for people: `934 B`, `1.4 KiB`, `23 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 10.0 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

/// Microseconds as milliseconds: `0.42`, `13.1`, `1204`.
pub(crate) fn ms(us: u64) -> String {
    match us {
        0..10_000 => format!("{:.2}", us as f64 / 1e3),
        10_000..1_000_000 => format!("{:.1}", us as f64 / 1e3),
        _ => format!("{}", us / 1000),
    }
}

/// Seconds for people: `42 s`, `5 min`, `3 h 20 min`, `12 d 4 h`.
pub(crate) fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if seconds < 120 => format!("{seconds} s"),
        () if minutes < 120 => format!("{minutes} min"),
        () if hours < 48 => format!("{hours} h {} min", minutes % 60),
        () => format!("{days} d {} h", hours % 24),
    }
}

/// A time of RFC 3339 to the second, as people read it.
pub(crate) fn when(rfc3339: &str) -> String {
    let seconds: String = rfc3339.chars().take(19).collect();
    seconds.replacen('T', " ", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let mut table = Table::new(&["NAME", "N", "WHAT"], &[1]);
        table.row(["a".into(), "5".into(), String::new()]);
        table.row(["longer".into(), "100".into(), "x".into()]);
        assert_eq!(table.render(), "NAME      N  WHAT\na         5\nlonger  100  x\n");
    }

    #[test]
    fn quantities_read_well() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1434, "1.4 KiB"), (24 << 20, "24 MiB"), (3 << 50, "3072 TiB")]
        {
            assert_eq!(size(bytes), text);
        }
        for (us, text) in [(0, "0.00"), (420, "0.42"), (13_140, "13.1"), (1_204_900, "1204")] {
            assert_eq!(ms(us), text);
        }
        for (seconds, text) in
            [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h 0 min"), (200_000, "2 d 7 h")]
        {
            assert_eq!(age(seconds), text);
        }
        assert_eq!(when("2026-01-02T03:04:05.678Z"), "2026-01-02 03:04:05");
    }
}
