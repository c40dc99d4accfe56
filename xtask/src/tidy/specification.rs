//! SPECIFICATION.md: every promise names what keeps it, and that exists.
//!
//! A promise is a row of a table whose last heading begins with `Test`. In its last column stand, each in backticks:
//! - `module::name` or `name`: a test function, Rust or Python;
//! - `path/to/file` or `path/to/file::name`: a file, or a test function in it;
//! - `cargo xtask bench NAME`: a benchmark.

use crate::tidy::{File, Finding};

const FILE: &str = "SPECIFICATION.md";

/// Checks the specification, if there is one; `exists` is asked about paths relative to the top folder.
pub(crate) fn check(files: &[File], exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let Some(specification) = files.iter().find(|f| f.path == FILE) else { return Vec::new() };
    let mut findings = Vec::new();
    let mut in_table = false;
    for (at, line) in specification.text.lines().enumerate() {
        let Some(cells) = cells(line) else {
            in_table = false;
            continue;
        };
        let last = cells.last().copied().unwrap_or_default();
        if last.starts_with("Test") {
            in_table = true;
            continue;
        }
        if !in_table || last.starts_with(['-', ':']) {
            continue;
        }
        let place = format!("{FILE}:{}", at + 1);
        let named: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            findings.push(Finding::error(&place, "the promise names no test or benchmark"));
        }
        findings.extend(
            named
                .into_iter()
                .filter(|name| !is_there(name, files, &exists))
                .map(|name| Finding::error(&place, format!("`{name}` is not there"))),
        );
    }
    findings
}

/// The cells of a table's row.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

fn is_there(named: &str, files: &[File], exists: &impl Fn(&str) -> bool) -> bool {
    if let Some(arguments) = named.strip_prefix("cargo xtask bench ") {
        let bench = arguments.split_whitespace().next().unwrap_or_default();
        let quoted = format!("\"{bench}\"");
        return files.iter().any(|f| f.path.starts_with("bench/") && f.text.contains(&quoted));
    }
    let (place, name) = named.rsplit_once("::").unwrap_or(("", named));
    match (place.contains('/'), name.contains(['/', '.'])) {
        (true, _) => files.iter().any(|f| f.path == place && holds_test(f, name)),
        (false, true) => exists(named),
        (false, false) => files.iter().any(|f| holds_test(f, name)),
    }
}

/// Whether a file holds a test of this name.
fn holds_test(file: &File, name: &str) -> bool {
    match file.path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("rs") => holds_function(&file.text, "fn ", name) && file.text.contains("test]"),
        Some("py") => holds_function(&file.text, "def ", name),
        _ => false,
    }
}

fn holds_function(text: &str, keyword: &str, name: &str) -> bool {
    let function = format!("{keyword}{name}(");
    text.lines().any(|line| line.trim_start_matches("async ").trim_start().contains(&function))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(rows: &str) -> Vec<String> {
        let file = |path: &str, text: &str| File { path: path.into(), text: text.into() };
        let files = [
            file(
                FILE,
                &format!(
                    "# S\n\n| id | promise | Test or benchmark |\n|---|---|---|\n{rows}\ntext\n| a | `no` |\n"
                ),
            ),
            file("tests/tests/e2e.rs", "#[tokio::test]\nasync fn answers() {}\n"),
            file("crates/x/src/lib.rs", "#[test]\n    fn inner() {}\n"),
            file("crates/x/src/other.rs", "fn not_a_test() {}\n"),
            file("bench/src/main.rs", "match name { \"cold-start\" => {} }"),
        ];
        check(&files, |path| path == "runtimes/tests/run.py").iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_promises_name_exists() {
        let right = "| R1 | it answers | `answers`, `tests/tests/e2e.rs::answers` |\n| R2 | x | `x::inner` |\n\
                     | R3 | x | `cargo xtask bench cold-start --json FILE` and `runtimes/tests/run.py` |";
        assert_eq!(findings(right), [""; 0]);
        for (row, says) in [
            ("| R1 | x | |", "error: SPECIFICATION.md:5: the promise names no test or benchmark"),
            ("| R1 | x | `answer` |", "error: SPECIFICATION.md:5: `answer` is not there"),
            ("| R1 | x | `not_a_test` |", "error: SPECIFICATION.md:5: `not_a_test` is not there"),
            ("| R1 | x | `tests/tests/e2e.rs::inner` |", "is not there"),
            ("| R1 | x | `cargo xtask bench warm` |", "is not there"),
            ("| R1 | x | `tests/nothing.rs` |", "is not there"),
        ] {
            let found = findings(row);
            assert!(found.len() == 1 && found[0].contains(says), "{row}: {found:?}");
        }
    }
}
