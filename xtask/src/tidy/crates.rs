//! Every crate has a description and the workspace's lints; unsafe code stays where it may be.

use anyhow::{Context, Result};

use crate::metadata::Metadata;
use crate::process::top;
use crate::tidy::{File, Finding};

/// The crates that may hold unsafe code. The compiler refuses it elsewhere, unless a crate switches the lint off.
const UNSAFE: [&str; 3] = ["crates/stratos-setup/", "crates/stratos-sys/", "crates/stratos-restorer/"];
/// The lint, as it stands in an attribute that switches it off; in two parts, so that this file does not hold it.
const LINT: &str = concat!("(unsafe", "_code");

/// Checks every crate.
pub(crate) fn check(metadata: &Metadata, files: &[File]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for package in metadata.own() {
        let path =
            package.manifest_path.strip_prefix(top()).unwrap_or(&package.manifest_path).display().to_string();
        if package.description.as_deref().is_none_or(|d| d.trim().is_empty()) {
            findings.push(Finding::error(&path, "has no description"));
        }
        let text =
            std::fs::read_to_string(&package.manifest_path).with_context(|| format!("cannot read {path}"))?;
        let manifest: toml::Table = toml::from_str(&text).with_context(|| format!("{path} is not TOML"))?;
        findings.extend(check_lints(&path, &manifest));
    }
    findings.extend(files.iter().flat_map(check_unsafe));
    Ok(findings)
}

fn check_lints(path: &str, manifest: &toml::Table) -> Option<Finding> {
    let inherits =
        manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
    let message = "does not take the workspace's lints; add [lints] workspace = true";
    (inherits != Some(true)).then(|| Finding::error(path, message))
}

fn check_unsafe(file: &File) -> Vec<Finding> {
    if !file.path.ends_with(".rs") || UNSAFE.iter().any(|folder| file.path.starts_with(folder)) {
        return Vec::new();
    }
    let lines = file.text.lines().enumerate().filter(|(_, line)| line.contains(LINT));
    let message =
        "switches off the lint against unsafe code; that code belongs into stratos-sys or stratos-setup";
    lines.map(|(at, _)| Finding::error(format!("{}:{}", file.path, at + 1), message)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lints_are_inherited() {
        let check = |text: &str| check_lints("x", &toml::from_str(text).unwrap()).is_none();
        assert!(check("[lints]\nworkspace = true"));
        assert!(!check("[package]\nname = \"x\"") && !check("[lints]\nworkspace = false"));
    }

    #[test]
    fn unsafe_code_stays_in_its_crates() {
        let file = |path: &str| File { path: path.into(), text: format!("//\n#![allow{LINT})]\n") };
        assert_eq!(check_unsafe(&file("crates/stratos-sys/src/lib.rs")), []);
        assert!(
            check_unsafe(&file("tests/src/lib.rs"))[0].to_string().starts_with("error: tests/src/lib.rs:2: ")
        );
    }
}
