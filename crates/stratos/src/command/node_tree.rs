//! `stratos node tree`.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use stratos_api::node::ProcessInfo;
use stratos_api::path;

use super::node_boot::width;
use crate::args::NodeTreeArgs;
use crate::failure::Result;
use crate::node::Node;
use crate::output::{Output, age, reader_gone, shown, size};

/// How often the tree is drawn anew.
const PERIOD: Duration = Duration::from_secs(1);
/// Goes to the terminal's upper left corner; what was drawn is then drawn over, and the rest cleared.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Runs the command.
pub(crate) async fn run(args: &NodeTreeArgs, node: &Node, output: Output) -> Result<()> {
    if !args.watch {
        return draw(args, node, output).await;
    }
    let watch = async {
        let mut tick = tokio::time::interval(PERIOD);
        loop {
            tick.tick().await;
            draw(args, node, output).await?;
        }
    };
    tokio::select! {
        ended = watch => ended,
        () = reader_gone() => Ok(()),
    }
}

async fn draw(args: &NodeTreeArgs, node: &Node, output: Output) -> Result<()> {
    let processes: Vec<ProcessInfo> = node.get(path::NODE_TREE).await?;
    if output.json {
        return match args.watch {
            true => output.item(&processes),
            false => output.document(&processes),
        };
    }
    let terminal = std::io::stdout().is_terminal();
    let text = shown_lines(&render(&processes, args.all), terminal, terminal.then(width));
    match args.watch && terminal {
        true => {
            let text = text.replace('\n', &format!("{CLEAR_LINE}\n"));
            output.bytes(format!("{HOME}{text}{CLEAR_BELOW}").as_bytes())
        }
        false => output.bytes(text.as_bytes()),
    }
}

/// The lines, without what steers a terminal, cut at its width.
fn shown_lines(text: &str, terminal: bool, width: Option<usize>) -> String {
    let line = |line: &str| {
        shown(line, terminal).chars().take(width.unwrap_or(usize::MAX)).collect::<String>() + "\n"
    };
    text.lines().map(line).collect()
}

/// A line of the tree: what is left of its name, and the process.
struct Line<'a> {
    branch: String,
    process: &'a ProcessInfo,
    /// How many more like it are not drawn.
    more: usize,
}

fn render(processes: &[ProcessInfo], all: bool) -> String {
    let mut children: BTreeMap<u32, Vec<&ProcessInfo>> = BTreeMap::new();
    let known: std::collections::BTreeSet<u32> = processes.iter().map(|process| process.pid).collect();
    for process in processes {
        // The parent of a process may have ended while the list was made.
        let parent = if known.contains(&process.parent) { process.parent } else { 0 };
        children.entry(parent).or_default().push(process);
    }
    let mut lines = Vec::new();
    for root in children.get(&0).into_iter().flatten() {
        add(&mut lines, root, &children, String::new(), "", all, 0);
    }
    let names: Vec<String> = lines.iter().map(name).collect();
    let name_width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(4);
    let mut text = format!(
        "{:<name_width$} {:>7} {:>11} {:>10} {:>9} {:>3} {:>3}  ROLE\n",
        "NAME", "PID", "AGE", "CPU", "MEMORY", "THR", "RST"
    );
    for (line, name) in lines.iter().zip(&names) {
        let p = line.process;
        let row = format!(
            "{name:<name_width$} {:>7} {:>11} {:>10} {:>9} {:>3} {:>3}  {}",
            p.pid,
            age(p.age_s),
            format!("{:.2} s", p.cpu_ms as f64 / 1e3),
            size(p.rss_kb * 1024),
            p.threads,
            p.restarts,
            p.role
        );
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

fn name(line: &Line<'_>) -> String {
    // A name of its own choice must not look like another line.
    let name = line.process.name.replace(|c: char| c.is_control(), "\u{fffd}");
    match line.more {
        0 => format!("{}{name}", line.branch),
        more => format!("{}{name} (and {more} more)", line.branch),
    }
}

/// Deepest level that is drawn; what is below stands on it.
const MAX_DEPTH: usize = 64;

fn add<'a>(
    lines: &mut Vec<Line<'a>>,
    process: &'a ProcessInfo,
    children: &BTreeMap<u32, Vec<&'a ProcessInfo>>,
    branch: String,
    below: &str,
    all: bool,
    depth: usize,
) {
    let own = children.get(&process.pid).map(Vec::as_slice).unwrap_or_default();
    let folded = process.role == "kernel" && !all;
    lines.push(Line { branch, process, more: if folded { own.len() } else { 0 } });
    if folded || depth >= MAX_DEPTH {
        return;
    }
    for (i, child) in own.iter().enumerate() {
        let last = i + 1 == own.len();
        let (mark, space) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        add(lines, child, children, format!("{below}{mark}"), &format!("{below}{space}"), all, depth + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, name: &str, role: &str) -> ProcessInfo {
        ProcessInfo {
            pid,
            parent,
            name: name.into(),
            role: role.into(),
            age_s: 65,
            cpu_ms: 1230,
            rss_kb: 2048,
            threads: 1,
            restarts: 0,
        }
    }

    #[test]
    fn processes_hang_on_their_parents() {
        let processes = [
            process(1, 0, "stratos-init", "init"),
            process(2, 0, "kthreadd", "kernel"),
            process(3, 2, "kworker/0:0", "kernel"),
            process(4, 2, "ksoftirqd/0", "kernel"),
            process(80, 1, "stratosd", "service stratosd"),
            process(90, 80, "no\nde", "instance 7f (hello)"),
            process(91, 80, "lost", ""),
            process(92, 77, "orphan", ""),
        ];
        let drawn = render(&processes, false);
        let want = "\
NAME                      PID         AGE        CPU    MEMORY THR RST  ROLE
stratos-init                1        65 s     1.23 s   2.0 MiB   1   0  init
└─ stratosd                80        65 s     1.23 s   2.0 MiB   1   0  service stratosd
   ├─ no\u{fffd}de                90        65 s     1.23 s   2.0 MiB   1   0  instance 7f (hello)
   └─ lost                 91        65 s     1.23 s   2.0 MiB   1   0
kthreadd (and 2 more)       2        65 s     1.23 s   2.0 MiB   1   0  kernel
orphan                     92        65 s     1.23 s   2.0 MiB   1   0
";
        assert_eq!(drawn, want, "\n{drawn}");
        assert!(render(&processes, true).contains("├─ kworker/0:0"));
        assert_eq!(shown_lines("ab\u{1b}cd\n", true, Some(3)), "ab\u{fffd}\n");
    }

    #[test]
    fn parents_that_lead_around_end() {
        let around = [process(5, 6, "a", ""), process(6, 5, "b", "")];
        // Nobody is their root, so they are not drawn: the kernel does not make such lists.
        assert_eq!(render(&around, false).lines().count(), 1);
        let deep: Vec<_> = (1..500).map(|pid| process(pid, pid - 1, "x", "")).collect();
        assert!(render(&deep, false).lines().count() <= MAX_DEPTH + 2);
    }
}
