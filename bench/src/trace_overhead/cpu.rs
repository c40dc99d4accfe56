//! CPU time of an instance and of the agent, as the kernel's scheduler counts it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use stratos_api::node::ProcessInfo;

use crate::http::request;
use crate::node::Stratos;

/// CPU time used so far, us.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    pub(super) instance_us: f64,
    pub(super) agent_us: f64,
}

impl Used {
    pub(super) fn of(node: &Stratos, cgroup: &Path) -> Result<Self> {
        let stat =
            std::fs::read_to_string(cgroup.join("cpu.stat")).context("read the instance's cpu.stat")?;
        let instance_us = usage_us(&stat).context("no usage_usec in cpu.stat")?;
        let mut agent_ns = 0.0;
        for task in std::fs::read_dir(format!("/proc/{}/task", node.pid()))? {
            // A thread may end meanwhile; those that do work stay.
            let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            agent_ns += text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0);
        }
        Ok(Self { instance_us, agent_us: agent_ns / 1e3 })
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self { instance_us: self.instance_us - before.instance_us, agent_us: self.agent_us - before.agent_us }
    }
}

fn usage_us(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?.trim().parse().ok()
}

/// The cgroup of a function's only instance.
pub(super) fn cgroup_of(node: &Stratos, function: &str) -> Result<PathBuf> {
    let tree = node.connect()?.send(&request("GET", stratos_api::path::NODE_TREE, b""))?.ok()?;
    let tree: Vec<ProcessInfo> = serde_json::from_slice(&tree.body)?;
    let of_function = format!("({function})");
    let process = tree.iter().find(|process| process.role.ends_with(&of_function));
    let pid = process.with_context(|| format!("{function} has no process"))?.pid;
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup v2")?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let root = mounts.lines().find(|line| line.contains(" - cgroup2 ")).context("no cgroup v2 hierarchy")?;
    Ok(Path::new(root.split(' ').nth(4).context("a mount point")?).join(own))
}

#[cfg(test)]
mod tests {
    #[test]
    fn usage_is_read_in_microseconds() {
        assert_eq!(super::usage_us("usage_usec 1500\nuser_usec 900\n"), Some(1500.0));
        assert_eq!(super::usage_us("user_usec 900\n"), None);
    }
}
