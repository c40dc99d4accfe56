//! What holds for every text file: no trailing white space, an end to the last line, no paths of somebody's machine,
//! and Rust files that a person can take in.

use crate::process::top;
use crate::tidy::{File, Finding};

/// Lines after which a Rust file is worth splitting.
const LONG: usize = 800;

/// Folders that exist on one machine only: this clone, the folder around it, the home of who runs this. Those directly
/// below the root are many a machine's: `/root`, `/build`.
pub(crate) fn places_of_this_machine() -> Vec<String> {
    let special = |path: &std::path::Path| path.components().count() > 2;
    let around = top().parent().filter(|path| special(path));
    let home = std::env::var_os("HOME").map(std::path::PathBuf::from).filter(|path| special(path));
    let places = [Some(top()), around, home.as_deref()];
    places.into_iter().flatten().map(|place| format!("{}/", place.display())).collect()
}

/// Checks every file.
pub(crate) fn check(files: &[File], places: &[String]) -> Vec<Finding> {
    files.iter().filter(|file| !is_verbatim(&file.path)).flat_map(|file| check_file(file, places)).collect()
}

/// Files that are as others made them.
fn is_verbatim(path: &str) -> bool {
    path == "LICENSE"
        || path.ends_with("Cargo.lock")
        || path.ends_with(".patch")
        || path.starts_with("fuzz/corpus/")
}

fn check_file(file: &File, places: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        let place = format!("{}:{}", file.path, at + 1);
        if line.ends_with([' ', '\t', '\r']) {
            findings.push(Finding::error(&place, "trailing white space"));
        }
        let homes = places.iter().map(String::as_str).chain(["/home/", "/Users/"]);
        if let Some(path) = homes.into_iter().find(|path| holds_path(line, path)) {
            findings.push(Finding::error(&place, format!("holds a path of somebody's machine ({path}...)")));
        }
    }
    // Package managers write their files without.
    if !file.text.is_empty()
        && !file.path.ends_with(".json")
        && (!file.text.ends_with('\n') || file.text.ends_with("\n\n"))
    {
        findings.push(Finding::error(&file.path, "does not end with exactly one line end"));
    }
    let lines = file.text.lines().count();
    if file.path.ends_with(".rs") && lines > LONG {
        let message = format!("has {lines} lines; would it read better split along its meaning?");
        findings.push(Finding::warning(&file.path, message));
    }
    findings
}

/// Whether `line` holds `path` where a path begins, with something behind it: not `$HOME/home/`, not `/home/` alone.
fn holds_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + path.len()..].chars().next();
        before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '/' | '.' | '}' | '_' | '-'))
            && after.is_some_and(|c| c.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(path: &str, text: &str) -> Vec<String> {
        let places = ["/srv/build/".to_owned()];
        let file = File { path: path.into(), text: text.into() };
        check(&[file], &places).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn text_is_clean() {
        let home = ["/home", "you"].join("/");
        assert!(check_text("a.md", "fine, $ROOT/home/x, \"/home/\"\nhttps://host/srv/build/x\n").is_empty());
        assert!(check_text("LICENSE", "no end ").is_empty() && check_text("empty", "").is_empty());
        for (text, says) in [
            ("x \n", "a.rs:1: trailing white space"),
            ("x", "a.rs: does not end"),
            ("x\n\n", "a.rs: does not end"),
            (format!("see {home}\n").as_str(), "a.rs:1: holds a path"),
            ("\n(/srv/build/x)\n", "a.rs:2: holds a path"),
        ] {
            let found = check_text("a.rs", text);
            assert!(found.len() == 1 && found[0].contains(says), "{text:?}: {found:?}");
        }
        assert!(check_text("a.rs", &"x\n".repeat(801))[0].starts_with("warning: a.rs: has 801 lines"));
    }
}
