//! `stratos node features`.

use stratos_api::{NodeFeatures, path};

use crate::failure::Result;
use crate::node::Node;
use crate::output::{Output, Table};

/// Runs the command.
pub(crate) async fn run(node: &Node, output: Output) -> Result<()> {
    let features: NodeFeatures = node.get(path::NODE_FEATURES).await?;
    match output.json {
        true => output.document(&features),
        false => output.bytes(render(&features).as_bytes()),
    }
}

fn render(features: &NodeFeatures) -> String {
    let mut text = match features.tracing.as_str() {
        "off" => "tracing is switched off (--trace off)\n".to_owned(),
        "loading" => "eBPF programs are being loaded; ask again in a moment\n".to_owned(),
        _ => String::new(),
    };
    if !features.groups.is_empty() {
        let mut table = Table::new(&["GROUP", "STATE", "PROGRAMS, OR WHY NOT"], &[]);
        for group in &features.groups {
            let what = group.reason.clone().unwrap_or_else(|| {
                let place = |program: &String| program.split(": ").last().unwrap_or_default().to_owned();
                group.programs.iter().map(place).collect::<Vec<_>>().join(", ")
            });
            table.row([group.name.clone(), group.state.replace('_', " "), what]);
        }
        text += &table.render();
    }
    let dropped = &features.dropped;
    let counts = [
        ("events", dropped.events),
        ("waits of threads", dropped.tasks),
        ("connections", dropped.connects),
        ("system calls", dropped.syscalls),
        ("instances", dropped.instances),
    ];
    for (what, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        text += &format!("not counted, for their place was full: {count} {what}\n");
    }
    for missing in &features.missing {
        text += &format!("missing    {}: {}\n", missing.what, missing.consequence);
    }
    text
}

#[cfg(test)]
mod tests {
    use stratos_api::{DroppedCounts, MissingFeature, ProgramGroup};

    use super::*;

    #[test]
    fn groups_are_told_with_programs_or_reason() {
        let group = |name: &str, state: &str, reason: Option<&str>, programs: &[&str]| ProgramGroup {
            name: name.into(),
            state: state.into(),
            reason: reason.map(str::to_owned),
            programs: programs.iter().map(|program| (*program).to_owned()).collect(),
        };
        let features = NodeFeatures {
            tracing: "ready".into(),
            groups: vec![
                group(
                    "faults",
                    "attached",
                    None,
                    &["fault: tp_btf/page_fault_user", "memory: tp_btf/rss_stat"],
                ),
                group("syscalls", "on_demand", None, &["enter: tp_btf/sys_enter"]),
                group("network", "refused", Some("Operation not permitted"), &[]),
            ],
            dropped: DroppedCounts { events: 4, ..DroppedCounts::default() },
            missing: vec![MissingFeature {
                what: "seccomp".into(),
                consequence: "every call is open".into(),
            }],
        };
        assert_eq!(
            render(&features),
            "\
GROUP     STATE      PROGRAMS, OR WHY NOT
faults    attached   tp_btf/page_fault_user, tp_btf/rss_stat
syscalls  on demand  tp_btf/sys_enter
network   refused    Operation not permitted
not counted, for their place was full: 4 events
missing    seccomp: every call is open
"
        );
        let off = NodeFeatures { tracing: "off".into(), groups: Vec::new(), ..features };
        assert!(render(&off).starts_with("tracing is switched off"));
    }
}
