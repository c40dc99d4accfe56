//! `cargo xtask licences`: every dependency may be shipped with StratOS, which is under Apache-2.0.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::metadata::{Metadata, Package};
use crate::process::top;
use crate::spdx::Expression;

const FILE: &str = "xtask/licences.toml";

/// What is allowed, and why.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    /// Licence to reason.
    allow: BTreeMap<String, String>,
    /// Crate to the further licences it may have, with the reason.
    #[serde(default)]
    exception: BTreeMap<String, Exception>,
    /// Crates that may not be used, with the reason and what to use in their place.
    #[serde(default)]
    deny: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    licences: Vec<String>,
    /// For people; that it is there is what is checked.
    reason: String,
}

/// Runs the task.
pub(crate) fn run() -> Result<()> {
    let text = std::fs::read_to_string(top().join(FILE)).with_context(|| format!("cannot read {FILE}"))?;
    let rules: Rules = toml::from_str(&text).with_context(|| format!("{FILE} is wrong"))?;
    let metadata = Metadata::load()?;
    let foreign: Vec<&Package> = metadata.packages.iter().filter(|p| p.source.is_some()).collect();
    let problems = check(&rules, &foreign);
    if !problems.is_empty() {
        bail!("{}", problems.join("\nerror: "));
    }
    println!("licences: {} dependencies are fine", foreign.len());
    Ok(())
}

fn check(rules: &Rules, packages: &[&Package]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut used = BTreeSet::new();
    for package in packages {
        let Package { name, version, .. } = package;
        if let Some(reason) = rules.deny.get(name) {
            problems.push(format!("{name} {version} is not to be used: {reason}"));
        }
        let own = rules.exception.get(name).map(|e| e.licences.as_slice()).unwrap_or_default();
        let allowed = |licence: &str| rules.allow.contains_key(licence) || own.iter().any(|l| l == licence);
        let Some(expression) = &package.license else {
            problems.push(format!(
                "{name} {version} names no licence; read its files, then write an [exception.{name}] into {FILE}, or drop it"
            ));
            continue;
        };
        match Expression::parse(expression) {
            Ok(parsed) if parsed.is_satisfied(&allowed) => {
                if !parsed.is_satisfied(&|licence| rules.allow.contains_key(licence)) {
                    used.insert(name.as_str());
                }
            }
            Ok(_) => problems.push(format!(
                "{name} {version} is under `{expression}`; allow that licence in {FILE} with the reason why it fits \
                 Apache-2.0, or drop the dependency"
            )),
            Err(error) => problems.push(format!("{name} {version}: {error}")),
        }
    }
    for (name, exception) in &rules.exception {
        if exception.reason.trim().is_empty() {
            problems.push(format!("the exception for {name} in {FILE} has no reason"));
        }
        if !used.contains(name.as_str()) {
            problems.push(format!("the exception for {name} in {FILE} is not needed; remove it"));
        }
    }
    problems.extend(
        rules
            .allow
            .iter()
            .filter(|(_, reason)| reason.trim().is_empty())
            .map(|(l, _)| format!("{l} in {FILE} has no reason")),
    );
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, license: Option<&str>) -> Package {
        Package {
            name: name.into(),
            version: "1.0.0".into(),
            license: license.map(str::to_owned),
            source: Some("registry".into()),
            description: None,
            dependencies: Vec::new(),
            manifest_path: "Cargo.toml".into(),
        }
    }

    #[test]
    fn problems_name_the_crate_and_the_remedy() {
        let rules: Rules = toml::from_str(
            "[allow]\nMIT = \"permissive\"\n[exception.odd]\nlicences = [\"Odd\"]\nreason = \"read\"\n\
             [exception.gone]\nlicences = [\"Odd\"]\nreason = \"read\"\n[deny]\nbad = \"use good\"\n",
        )
        .unwrap();
        let packages = [
            package("fine", Some("MIT OR GPL-3.0")),
            package("odd", Some("Odd")),
            package("copyleft", Some("GPL-3.0")),
            package("none", None),
            package("bad", Some("MIT")),
        ];
        let problems = check(&rules, &packages.iter().collect::<Vec<_>>());
        let starts = [
            "copyleft 1.0.0 is under `GPL-3.0`; allow",
            "none 1.0.0 names no licence; read",
            "bad 1.0.0 is not to be used: use good",
            "the exception for gone",
        ];
        assert_eq!(problems.len(), starts.len(), "{problems:?}");
        for (problem, start) in problems.iter().zip(starts) {
            assert!(problem.starts_with(start), "{problem}");
        }
    }
}
