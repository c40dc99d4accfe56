//! `stratos node boot`.

use std::io::IsTerminal as _;

use rustix::termios::tcgetwinsize;
use stratos_api::node::BootRecord;
use stratos_api::{boot_chart, path};

use crate::args::NodeBootArgs;
use crate::failure::{Failure, Result};
use crate::node::Node;
use crate::output::{Output, note};

/// Columns where there is no terminal to tell.
const WIDTH: usize = 100;

/// Runs the command.
pub(crate) async fn run(args: &NodeBootArgs, node: &Node, output: Output) -> Result<()> {
    let mut boots: Vec<BootRecord> = node.get(path::NODE_BOOTS).await?;
    boots.truncate(args.last as usize);
    if let Some(file) = &args.svg {
        let newest = boots.first().ok_or_else(nothing)?;
        let svg = boot_chart::svg(newest);
        if file.as_os_str() == "-" {
            return output.bytes(svg.as_bytes());
        }
        std::fs::write(file, svg)
            .map_err(|e| Failure::new(format!("cannot write {}", file.display())).because(&e))?;
        note(&format!("drew boot {} to {}", newest.number, file.display()));
        return Ok(());
    }
    if output.json {
        return output.document(&boots);
    }
    if boots.is_empty() {
        return Err(nothing());
    }
    let width = width();
    let charts: Vec<String> = boots.iter().map(|boot| boot_chart::text(boot, width)).collect();
    output.bytes(charts.join("\n").as_bytes())
}

fn nothing() -> Failure {
    Failure::new("this node has no record of a boot")
        .hint("boots are recorded where StratOS's own PID 1 runs the machine")
}

/// Columns of the terminal that stdout is.
pub(crate) fn width() -> usize {
    let stdout = std::io::stdout();
    match tcgetwinsize(&stdout) {
        Ok(size) if stdout.is_terminal() && size.ws_col > 0 => size.ws_col.into(),
        _ => WIDTH,
    }
}
