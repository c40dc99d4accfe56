//! `stratos node reboot`, `poweroff`.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use stratos_api::client::Call;
use stratos_api::node::{NodeStatus, ShuttingDown};
use stratos_api::path;

use crate::args::ShutdownArgs;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::node::Node;
use crate::output::Output;
use crate::progress::Progress;

/// Pause between two looks at a node that goes or comes.
const POLL: Duration = Duration::from_millis(500);
/// How long one look may take: a connection to a machine that is off is not refused.
const LOOK: Duration = Duration::from_secs(5);

/// `stratos node reboot`.
pub(crate) async fn reboot(args: &ShutdownArgs, node: &Node, output: Output) -> Result<()> {
    let begun = Instant::now();
    let ending = begin("reboot", path::NODE_REBOOT, args, node).await?;
    if !args.no_wait {
        let progress = Progress::new(output.json);
        progress.step("waiting for the node to be back");
        wait(
            args,
            node,
            |look| matches!(look, Look::Up(boot) if !boot.is_empty() && *boot != ending.boot_id),
        )
        .await?;
    }
    let took = begun.elapsed().as_secs_f64();
    let said = if args.no_wait { "is restarting".to_owned() } else { format!("is back after {took:.1} s") };
    told(&ending, node, output, &said)
}

/// `stratos node poweroff`.
pub(crate) async fn power_off(args: &ShutdownArgs, node: &Node, output: Output) -> Result<()> {
    let ending = begin("switch off", path::NODE_POWEROFF, args, node).await?;
    if !args.no_wait {
        let progress = Progress::new(output.json);
        progress.step("waiting for the node to be away");
        wait(args, node, |look| matches!(look, Look::Away)).await?;
    }
    told(&ending, node, output, if args.no_wait { "is shutting down" } else { "is away" })
}

fn told(ending: &ShuttingDown, node: &Node, output: Output, said: &str) -> Result<()> {
    if output.json {
        return output.document(ending);
    }
    output.line(&format!("{} {said}", node.endpoint()))
}

async fn begin(what: &str, path: &str, args: &ShutdownArgs, node: &Node) -> Result<ShuttingDown> {
    if !args.yes && !confirmed(what, node)? {
        return Err(Failure::new("nothing was done"));
    }
    node.json(Call::new(Method::POST, path, Bytes::new())).await
}

/// Asks a person. Without one to ask, only `--yes` will do.
fn confirmed(what: &str, node: &Node) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        let message = format!("will not {what} the node without being told to");
        return Err(Failure::usage(message).hint("add --yes"));
    }
    let asked = write!(std::io::stderr(), "{what} the machine of {}? [y/N] ", node.endpoint());
    let mut answer = String::new();
    asked
        .and_then(|()| std::io::stdin().read_line(&mut answer))
        .map_err(|e| Failure::new("cannot ask").because(&e).hint("add --yes"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What one look at a node finds.
enum Look {
    /// It answers, in this boot.
    Up(String),
    /// Nothing answers.
    Away,
}

/// Looks until the node is as `wanted`.
async fn wait(args: &ShutdownArgs, node: &Node, wanted: impl Fn(&Look) -> bool) -> Result<()> {
    let looking = async {
        loop {
            let look = look(node).await?;
            if wanted(&look) {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let late = || {
        let failure = Failure::new(format!("the node was not there yet after {}", args.wait));
        Failure {
            exit: Exit::Unreachable,
            ..failure.hint("give it longer with --wait TIME; its console tells more")
        }
    };
    tokio::time::timeout(args.wait.duration(), looking).await.unwrap_or_else(|_| Err(late()))
}

async fn look(node: &Node) -> Result<Look> {
    match tokio::time::timeout(LOOK, node.get::<NodeStatus>(path::NODE)).await {
        // PID 1 may not have told yet: then it is neither here nor there.
        Ok(Ok(status)) => Ok(Look::Up(status.init.map(|init| init.boot.boot_id).unwrap_or_default())),
        Ok(Err(failure)) if failure.exit == Exit::Unreachable => Ok(Look::Away),
        // Nobody waits for what would be the same after the restart: a wrong token, say.
        Ok(Err(failure)) => Err(failure),
        Err(_) => Ok(Look::Away),
    }
}
