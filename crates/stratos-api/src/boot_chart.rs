//! A boot as a chart of its phases: text for a terminal, SVG for a page.
//!
//! Pure: a record in, text out. Whatever a record says, bars stay within the chart and texts cannot leave their place.

use std::fmt::Write as _;

use crate::node::{BootPhase, BootRecord};

/// Narrowest chart, in columns.
const MIN_WIDTH: usize = 40;
/// Most columns for the name of a phase.
const MAX_NAME: usize = 20;
/// Most rows: a record that has more is cut.
const MAX_ROWS: usize = 200;
/// Most characters of a detail.
const MAX_DETAIL: usize = 200;

/// One bar.
struct Row<'a> {
    name: &'a str,
    start_us: u64,
    duration_us: u64,
    outcome: &'a str,
    detail: &'a str,
}

impl<'a> Row<'a> {
    fn of(phase: &'a BootPhase) -> Self {
        let BootPhase { name, start_us, duration_us, outcome, detail } = phase;
        Self { name, start_us: *start_us, duration_us: *duration_us, outcome, detail }
    }
}

/// The kernel's share, then the phases.
fn rows(record: &BootRecord) -> Vec<Row<'_>> {
    let kernel = Row {
        name: "kernel",
        start_us: 0,
        duration_us: record.kernel_us,
        outcome: "ok",
        detail: "until PID 1's first instruction",
    };
    std::iter::once(kernel).chain(record.phases.iter().take(MAX_ROWS).map(Row::of)).collect()
}

/// Where the chart ends: at ready, or with the last phase of a boot that is not there yet.
fn end_us(record: &BootRecord) -> u64 {
    let last = record.phases.iter().map(|p| p.start_us.saturating_add(p.duration_us)).max().unwrap_or(0);
    record.ready_us.unwrap_or(0).max(last).max(record.kernel_us).max(1)
}

/// What the boot took: `ready after 4.21 s: kernel 3.90 s, then 310 ms`.
fn summary(record: &BootRecord) -> String {
    match record.ready_us {
        Some(ready) => {
            let rest = ready.saturating_sub(record.kernel_us);
            format!("ready after {}: kernel {}, then {}", time(ready), time(record.kernel_us), time(rest))
        }
        None => format!("not ready: kernel {}", time(record.kernel_us)),
    }
}

fn heading(record: &BootRecord) -> String {
    let BootRecord { number, began_at, version, kernel, .. } = record;
    format!("boot {number}, {began_at}, StratOS {version}, Linux {kernel}")
}

/// A time with three digits or so: `0.42 ms`, `13.1 ms`, `1.20 s`.
fn time(us: u64) -> String {
    match us {
        0..10_000 => format!("{:.2} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// One line, without characters that steer a terminal, at most `most` long.
fn plain(text: &str, most: usize) -> String {
    let mut plain: String =
        text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(most).collect();
    if text.chars().nth(most).is_some() {
        plain.pop();
        plain.push('…');
    }
    plain
}

/// The chart as lines of at most `width` columns.
pub fn text(record: &BootRecord, width: usize) -> String {
    let width = width.max(MIN_WIDTH);
    let rows = rows(record);
    let names: Vec<String> = rows.iter().map(|row| plain(row.name, MAX_NAME)).collect();
    let name_width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let bar_width = width.saturating_sub(name_width + 12).max(8);
    let mut chart = format!("{}\n{}\n\n", plain(&heading(record), width), plain(&summary(record), width));
    for (row, name) in rows.iter().zip(&names) {
        let bar = bar(row, end_us(record), bar_width);
        let line = format!("{name:<name_width$} {:>9}  {bar}", time(row.duration_us));
        chart.push_str(&plain(line.trim_end(), width));
        chart.push('\n');
        if row.outcome != "ok" {
            let told = format!("{:name_width$} {}: {}", "", row.outcome, row.detail);
            chart.push_str(&plain(&told, width));
            chart.push('\n');
        }
    }
    chart
}

/// A bar at its place among `columns`; what has a duration has a mark, however short it is.
fn bar(row: &Row<'_>, end: u64, columns: usize) -> String {
    let column = |us: u64| (us.min(end) as f64 / end as f64 * columns as f64).round() as usize;
    let from = column(row.start_us).min(columns - 1);
    let to = column(row.start_us.saturating_add(row.duration_us)).min(columns);
    let mark = match row.outcome {
        "failed" => "!",
        "skipped" => "·",
        _ if to <= from => "▏",
        _ => "█",
    };
    " ".repeat(from) + &mark.repeat((to.saturating_sub(from)).max(1))
}

const SVG_WIDTH: u32 = 960;
const SVG_LEFT: u32 = 180;
const SVG_RIGHT: u32 = 120;
const SVG_TOP: u32 = 72;
const SVG_ROW: u32 = 22;
/// Colours follow the reader's: light or dark.
const SVG_STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1b1f24}.h{font-weight:600}.m{fill:#57606a}\
    .ok{fill:#2f81c1}.kernel{fill:#8b949e}.failed{fill:#cf222e}.skipped{fill:#c8ccd1}.axis{stroke:#d0d7de}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}.m{fill:#9198a1}.ok{fill:#58a6ff}.skipped{fill:#484f58}\
    .failed{fill:#f85149}.axis{stroke:#30363d}}";

/// The chart as an SVG document without scripts, links or foreign content.
pub fn svg(record: &BootRecord) -> String {
    let rows = rows(record);
    let end = end_us(record);
    let height = SVG_TOP + rows.len() as u32 * SVG_ROW + 16;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {SVG_WIDTH} {height}\" role=\"img\">\n\
         <title>{}</title>\n<style>{SVG_STYLE}</style>\n\
         <text class=\"h\" x=\"12\" y=\"24\">{}</text>\n<text class=\"m\" x=\"12\" y=\"46\">{}</text>\n\
         <line class=\"axis\" x1=\"{SVG_LEFT}\" x2=\"{SVG_LEFT}\" y1=\"60\" y2=\"{height}\"/>\n",
        escaped(&summary(record)),
        escaped(&heading(record)),
        escaped(&summary(record)),
    );
    for (i, row) in (0..).zip(&rows) {
        svg_row(&mut svg, row, end, SVG_TOP + i * SVG_ROW, i == 0);
    }
    svg.push_str("</svg>\n");
    svg
}

fn svg_row(svg: &mut String, row: &Row<'_>, end: u64, y: u32, is_kernel: bool) {
    let space = f64::from(SVG_WIDTH - SVG_LEFT - SVG_RIGHT);
    let place = |us: u64| us.min(end) as f64 / end as f64 * space;
    let x = f64::from(SVG_LEFT) + place(row.start_us);
    let width = (place(row.start_us.saturating_add(row.duration_us)) - place(row.start_us)).max(1.5);
    let class = match row.outcome {
        "failed" | "skipped" => row.outcome,
        _ if is_kernel => "kernel",
        _ => "ok",
    };
    let told = format!("{}: {}, {}. {}", row.name, row.outcome, time(row.duration_us), row.detail);
    let drawn = write!(
        svg,
        "<g><title>{}</title>\n<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n\
         <rect class=\"{class}\" x=\"{x:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"14\" rx=\"2\"/>\n\
         <text class=\"m\" x=\"{:.1}\" y=\"{}\">{}</text></g>\n",
        escaped(&told),
        SVG_LEFT - 10,
        y + 12,
        escaped(&plain(row.name, MAX_NAME)),
        y,
        x + width + 6.0,
        y + 12,
        time(row.duration_us),
    );
    drawn.expect("a String takes whatever is written");
}

/// Text as it may stand in an element or an attribute. XML has no characters for control codes but three.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in plain(text, MAX_DETAIL).chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(name: &str, start_us: u64, duration_us: u64, outcome: &str, detail: &str) -> BootPhase {
        BootPhase { name: name.into(), start_us, duration_us, outcome: outcome.into(), detail: detail.into() }
    }

    fn record() -> BootRecord {
        BootRecord {
            number: 3,
            boot_id: "id".into(),
            began_at: "2026-01-02T03:04:05Z".into(),
            version: "0.1.0".into(),
            kernel: "6.12.1".into(),
            root_hash: String::new(),
            kernel_us: 500_000,
            phases: vec![
                phase("mounts", 500_000, 1_000, "ok", ""),
                phase("verity", 501_000, 299_000, "ok", "root <a>&\"b\""),
                phase("zram", 800_000, 0, "skipped", "zram = 0"),
                phase("services", 800_000, 200_000, "failed", "stratosd\x1b[2J ended"),
            ],
            ready_us: Some(1_000_000),
        }
    }

    #[test]
    fn bars_are_scaled_to_the_width() {
        let chart = text(&record(), 60);
        let want = "\
boot 3, 2026-01-02T03:04:05Z, StratOS 0.1.0, Linux 6.12.1
ready after 1.00 s: kernel 500.0 ms, then 500.0 ms

kernel    500.0 ms  ████████████████████
mounts     1.00 ms                      ▏
verity    299.0 ms                      ████████████
zram       0.00 ms                                  ·
         skipped: zram = 0
services  200.0 ms                                  !!!!!!!!
         failed: stratosd\u{fffd}[2J ended
";
        assert_eq!(chart, want, "\n{chart}");
        assert!(text(&record(), 0).lines().all(|line| line.chars().count() <= MIN_WIDTH));
    }

    #[test]
    fn a_boot_under_way_is_drawn_as_far_as_it_is() {
        let under_way = BootRecord { ready_us: None, ..record() };
        assert!(text(&under_way, 80).contains("not ready: kernel 500.0 ms"));
        // Nothing known at all, and numbers that cannot be.
        text(&BootRecord::default(), 80);
        let odd = BootRecord {
            kernel_us: u64::MAX,
            phases: vec![phase("x", u64::MAX, u64::MAX, "ok", "")],
            ..record()
        };
        assert!(text(&odd, 80).lines().all(|line| line.chars().count() <= 80));
        svg(&odd);
    }

    #[test]
    fn the_svg_holds_no_markup_of_a_record() {
        let svg = svg(&record());
        assert!(svg.contains("root &lt;a&gt;&amp;&quot;b&quot;") && !svg.contains("<a>"), "{svg}");
        assert!(!svg.contains("<script") && !svg.contains('\u{1b}'));
        assert_eq!(svg.matches("<rect").count(), 5);
        assert!(svg.contains("prefers-color-scheme:dark"));
    }
}
