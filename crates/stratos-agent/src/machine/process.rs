//! The machine's processes, each with what it belongs to.

use std::collections::HashMap;
use std::io;

use stratos_api::node::{InitStatus, ProcessInfo};

/// Most processes that are told.
const MAX_PROCESSES: usize = 8192;

/// A function's instance and its first process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The process.
    pub pid: u32,
    /// The instance.
    pub id: String,
    /// The function.
    pub function: String,
}

/// What `/proc/PID/stat` tells of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Its name: up to 15 bytes that it can choose itself.
    pub name: String,
    /// Its parent.
    pub parent: u32,
    /// User and system time in clock ticks.
    pub cpu_ticks: u64,
    /// Threads.
    pub threads: u32,
    /// When it began, in clock ticks since the kernel started.
    pub started_ticks: u64,
    /// Resident memory in pages.
    pub rss_pages: u64,
}

/// Reads a line of proc_pid_stat(5). The name is in parentheses and may hold any byte, parentheses and newlines too, so
/// it ends with the last of them.
pub fn parse_stat(line: &[u8]) -> Option<Stat> {
    let open = line.iter().position(|b| *b == b'(')?;
    let close = line.iter().rposition(|b| *b == b')')?;
    let name = String::from_utf8_lossy(line.get(open + 1..close)?).into_owned();
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().take(24).collect();
    // The manual page counts from 1 and from the id; the state, its third field, is the first one here.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        name,
        parent: field(4)?.try_into().ok()?,
        cpu_ticks: field(14)?.saturating_add(field(15)?),
        threads: field(20)?.try_into().ok()?,
        started_ticks: field(22)?,
        rss_pages: field(24)?,
    })
}

/// All processes, by id. `init` is what StratOS's PID 1 tells of its services.
pub fn tree(running: &[Running], init: Option<&InitStatus>) -> io::Result<Vec<ProcessInfo>> {
    let mut stats: Vec<(u32, Stat)> = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process that has just ended is not told.
        let stat = std::fs::read(format!("/proc/{pid}/stat")).ok().and_then(|line| parse_stat(&line));
        stats.extend(stat.map(|stat| (pid, stat)));
        if stats.len() == MAX_PROCESSES {
            tracing::warn!("this machine has more than {MAX_PROCESSES} processes; the others are not told");
            break;
        }
    }
    stats.sort_unstable_by_key(|(pid, _)| *pid);
    let roles = Roles::new(&stats, running, init);
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let page_kb = rustix::param::page_size() as u64 / 1024;
    let uptime = super::uptime()?.as_secs();
    let info = |(pid, stat): &(u32, Stat)| {
        let role = roles.of(*pid);
        let restarts = role.strip_prefix("service ").and_then(|name| roles.restarts(name));
        ProcessInfo {
            pid: *pid,
            parent: stat.parent,
            name: stat.name.clone(),
            role,
            age_s: uptime.saturating_sub(stat.started_ticks / ticks),
            cpu_ms: stat.cpu_ticks.saturating_mul(1000) / ticks,
            rss_kb: stat.rss_pages.saturating_mul(page_kb),
            threads: stat.threads,
            restarts: restarts.unwrap_or(0),
        }
    };
    Ok(stats.iter().map(info).collect())
}

/// The kernel's thread from which all its threads come.
const KTHREADD: u32 = 2;

/// What each process belongs to. An instance's processes all come from its first one, whose death is theirs.
struct Roles<'a> {
    parents: HashMap<u32, u32>,
    instances: HashMap<u32, &'a Running>,
    init: Option<&'a InitStatus>,
}

impl<'a> Roles<'a> {
    fn new(stats: &[(u32, Stat)], running: &'a [Running], init: Option<&'a InitStatus>) -> Self {
        Self {
            parents: stats.iter().map(|(pid, stat)| (*pid, stat.parent)).collect(),
            instances: running.iter().map(|running| (running.pid, running)).collect(),
            init,
        }
    }

    fn of(&self, pid: u32) -> String {
        let mut at = pid;
        // Ids are reused while /proc is read: a bound, lest parents lead around.
        for _ in 0..self.parents.len() {
            if let Some(running) = self.instances.get(&at) {
                return format!("instance {} ({})", running.id, running.function);
            }
            match (at, self.parents.get(&at)) {
                (KTHREADD, Some(0)) => return "kernel".to_owned(),
                (_, Some(0) | None) => break,
                (_, Some(parent)) => at = *parent,
            }
        }
        match (pid, self.init) {
            (1, Some(_)) => "init".to_owned(),
            (_, Some(_)) => role_of_cgroup(&cgroup_of(pid).unwrap_or_default()),
            (_, None) if pid == std::process::id() => "service stratosd".to_owned(),
            (_, None) => String::new(),
        }
    }

    fn restarts(&self, service: &str) -> Option<u32> {
        let services = &self.init?.services;
        services.iter().find(|status| status.name == service).map(|status| status.restarts)
    }
}

/// A process's path in the cgroup v2 hierarchy.
fn cgroup_of(pid: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// What PID 1's cgroup tree says: services are below `system`, instances below `functions` and `reserved`.
fn role_of_cgroup(path: &str) -> String {
    let mut parts = path.trim_start_matches('/').split('/');
    match (parts.next(), parts.next()) {
        (Some("system"), Some(name)) => format!("service {name}"),
        (Some("functions" | "reserved"), Some(name)) if !name.starts_with("build-") => {
            format!("instance {name}")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_hold_anything() {
        let line =
            b"42 (a) R 7 (b\n\xff) S 7 42 42 0 -1 4194560 1 0 0 0 11 22 0 0 20 0 3 0 5000 4096 99 1844674";
        let stat = parse_stat(line).unwrap();
        assert_eq!(stat.name, "a) R 7 (b\n\u{fffd}");
        assert_eq!((stat.parent, stat.cpu_ticks, stat.threads), (7, 33, 3));
        assert_eq!((stat.started_ticks, stat.rss_pages), (5000, 99));
        for wrong in [&b""[..], b"42 (a", b"42 a) S 1", b")(", b"42 (a) S 7 42"] {
            assert_eq!(parse_stat(wrong), None);
        }
    }

    #[test]
    fn this_process_is_in_the_tree() {
        let tree = tree(&[], None).unwrap();
        let own = tree.iter().find(|process| process.pid == std::process::id()).unwrap();
        assert_eq!(own.role, "service stratosd");
        assert!(own.rss_kb > 1000 && own.threads >= 1 && own.parent > 0);
        assert!(tree.is_sorted_by_key(|process| process.pid));
    }

    #[test]
    fn children_belong_to_what_their_parents_belong_to() {
        let stat = |parent| Stat {
            name: "x".into(),
            parent,
            cpu_ticks: 0,
            threads: 1,
            started_ticks: 0,
            rss_pages: 0,
        };
        let stats = [(1, 0), (2, 0), (3, 2), (50, 1), (60, 50), (61, 60), (70, 71), (71, 70)];
        let stats = stats.map(|(pid, parent)| (pid, stat(parent)));
        let running = [Running { pid: 60, id: "i".into(), function: "f".into() }];
        let roles = Roles::new(&stats, &running, None);
        for (pid, role) in
            [(2, "kernel"), (3, "kernel"), (60, "instance i (f)"), (61, "instance i (f)"), (70, ""), (1, "")]
        {
            assert_eq!(roles.of(pid), role, "{pid}");
        }
        for (path, role) in [
            ("/system/stratosd", "service stratosd"),
            ("/functions/7f3a", "instance 7f3a"),
            ("/reserved/7f3a", "instance 7f3a"),
            ("/functions/build-0", ""),
            ("/init", ""),
            ("/", ""),
        ] {
            assert_eq!(role_of_cgroup(path), role, "{path}");
        }
    }
}
