//! The layer rule: dependencies between the workspace's crates point downwards only.

use crate::metadata::{Metadata, Package};
use crate::tidy::Finding;

/// Layers, lowest first. A crate may depend on crates of lower layers only; crates of one layer know nothing of each
/// other. The same table, with what each is for, stands in ARCHITECTURE.md.
const LAYERS: &[(&str, &[&str])] = &[
    ("base: instructions for a new process", &["stratos-setup", "stratos-restorer"]),
    ("base: the one door to the kernel", &["stratos-sys"]),
    ("vocabulary", &["stratos-types"]),
    ("vocabulary on the wire", &["stratos-api"]),
    (
        "deciders: pure",
        &[
            "stratos-schedule",
            "stratos-scale",
            "stratos-rollout",
            "stratos-policy",
            "stratos-cost",
            "stratos-audit",
        ],
    ),
    ("mechanisms: how a process comes to be", &["stratos-checkpoint"]),
    (
        "mechanisms: one job each",
        &[
            "stratos-artifact",
            "stratos-store",
            "stratos-oci",
            "stratos-image",
            "stratos-sandbox",
            "stratos-telemetry",
            "stratos-trace",
            "stratos-vm",
        ],
    ),
    (SERVICES, &["stratos-init", "stratos-agent", "stratos-mirror", "stratos-shim"]),
    ("edge", &["stratos"]),
    (TESTS, &["stratos-fuzz"]),
    (TESTS, &["stratos-tests"]),
    (TESTS, &["stratos-bench"]),
    (TESTS, &["xtask"]),
];

const SERVICES: &str = "services: lib and a short main";
const TESTS: &str = "tests and tools";

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|(_, crates)| crates.contains(&name))
}

fn layer_of_services() -> usize {
    LAYERS.iter().position(|(name, _)| *name == SERVICES).expect("the table names the services")
}

/// Checks every crate of the workspace.
pub(crate) fn check(metadata: &Metadata) -> Vec<Finding> {
    let own: Vec<&Package> = metadata.own().collect();
    let is_own = |name: &str| own.iter().any(|p| p.name == name);
    own.iter().flat_map(|package| check_package(package, &is_own)).collect()
}

fn check_package(package: &Package, is_own: &impl Fn(&str) -> bool) -> Vec<Finding> {
    let name = &package.name;
    let Some(from) = layer(name) else {
        return vec![Finding::error(name, "has no layer; give it one in xtask/src/tidy/layers.rs")];
    };
    let mut findings = Vec::new();
    for dependency in package.dependencies.iter().filter(|d| is_own(&d.name)) {
        let Some(to) = layer(&dependency.name) else { continue };
        let (from_name, to_name) = (LAYERS[from].0, LAYERS[to].0);
        // Tests of a lower crate may use a higher one, as long as that is no service.
        let is_test = dependency.kind.as_deref() == Some("dev");
        if to >= from && !(is_test && to < layer_of_services()) {
            let message = format!(
                "depends on {}, which is not in a lower layer ({from_name} -> {to_name})",
                dependency.name
            );
            findings.push(Finding::error(name, message));
        } else if to_name == SERVICES && from_name != TESTS {
            let message = format!("links {}; services are met through stratos-api", dependency.name);
            findings.push(Finding::error(name, message));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Dependency;

    fn findings(name: &str, dependencies: &[&str], kind: Option<&str>) -> String {
        let package = Package {
            name: name.into(),
            version: "0.1.0".into(),
            license: None,
            source: None,
            description: None,
            dependencies: dependencies
                .iter()
                .map(|d| Dependency { name: (*d).into(), kind: kind.map(str::to_owned) })
                .collect(),
            manifest_path: "Cargo.toml".into(),
        };
        let found = check_package(&package, &|name: &str| name.starts_with("stratos"));
        found.iter().map(|f| format!("{f}\n")).collect()
    }

    #[test]
    fn dependencies_point_down() {
        assert_eq!(
            findings("stratos-agent", &["stratos-store", "stratos-sandbox", "stratos-api", "serde"], None),
            ""
        );
        assert_eq!(findings("stratos-tests", &["stratos-agent", "stratos"], None), "");
        assert_eq!(findings("stratos-setup", &["stratos-sys"], Some("dev")), "");
        for (from, to, kind, says) in [
            ("stratos-store", "stratos-sandbox", None, "not in a lower layer"),
            ("stratos-types", "stratos-api", Some("build"), "not in a lower layer"),
            ("stratos-policy", "stratos-store", None, "not in a lower layer"),
            ("stratos-shim", "stratos-agent", None, "not in a lower layer"),
            ("stratos-store", "stratos-agent", Some("dev"), "not in a lower layer"),
            ("stratos", "stratos-agent", None, "links stratos-agent"),
            ("stratos-new", "stratos-types", None, "has no layer"),
        ] {
            assert!(findings(from, &[to], kind).contains(says), "{from} -> {to}");
        }
    }
}
