//! `stratos dev`: deploys a folder on every change and prints its log, on a node of its own unless one is named.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use stratos_api::{Health, path};
use stratos_types::FunctionName;
use tokio::process::{Child, Command};

use crate::args::DevArgs;
use crate::command::deploy::{self, function_url};
use crate::command::logs;
use crate::command::signals::Signals;
use crate::command::watch::Watch;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::node::{Node, NodeArgs};
use crate::output::{Output, note, size};
use crate::pack::pack;
use crate::progress::Progress;

/// How often a starting node is asked whether it answers, and for how long: it may have leftovers to clear away.
const START_POLL: Duration = Duration::from_millis(20);
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long requests may go on when the node is told to end.
const STOP_GRACE: &str = "5s";
/// How long the node may take to end before it is killed. It cleans up at its next start then.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Runs the command, until Ctrl-C.
pub(crate) async fn run(args: &DevArgs, node_args: &NodeArgs, output: Output) -> Result<()> {
    deploy::check_folder(&args.dir)?;
    // Listened to before the node is started: a Ctrl-C in between must not leave it behind.
    let mut signals = Signals::new()?;
    if node_args.node.is_some() {
        let node = node_args.open()?;
        return tokio::select! {
            result = follow(&args.dir, &node, output) => result,
            () = signals.any() => Ok(()),
        };
    }
    let mut own = OwnNode::spawn()?;
    let work = async {
        let node = Node::at_socket(own.socket.clone())?;
        own.wait_until_it_answers(&node).await?;
        tokio::select! {
            result = follow(&args.dir, &node, output) => result,
            status = own.child.wait() => Err(ended(status)),
        }
    };
    let result = tokio::select! {
        result = work => result,
        () = signals.any() => Ok(()),
    };
    let stopped = own.stop().await;
    result.and(stopped)
}

/// Deploys, waits for a change, deploys again.
async fn follow(dir: &Path, node: &Node, output: Output) -> Result<()> {
    let mut deployed: Option<Vec<u8>> = None;
    let mut log: Option<tokio::task::JoinHandle<Result<()>>> = None;
    loop {
        let mut watch = Watch::start(dir)?;
        match deploy_if_changed(dir, node, output, &mut deployed).await {
            Ok(Some(name)) if log.is_none() => {
                if let Ok(name) = name.parse::<FunctionName>() {
                    let node = node.clone();
                    log = Some(tokio::spawn(async move { logs::print(&name, 0, true, &node, output).await }));
                }
            }
            Ok(_) => {}
            // The next change may mend it, unless there is nobody to deploy to.
            Err(failure) if failure.exit == Exit::Unreachable || failure.quiet => return Err(failure),
            Err(failure) => note(&failure.to_string()),
        }
        let changed = match &mut log {
            None => watch.changed().await,
            Some(task) => tokio::select! {
                changed = watch.changed() => changed,
                ended = task => {
                    // The log ends when the function is removed; a deploy begins a new one.
                    log = None;
                    ended.map_err(|e| Failure::new("the log was cut off").because(&e))??;
                    watch.changed().await
                }
            },
        };
        changed?;
    }
}

/// Deploys `dir` unless it is what was deployed last; the function's name when it was deployed.
async fn deploy_if_changed(
    dir: &Path,
    node: &Node,
    output: Output,
    deployed: &mut Option<Vec<u8>>,
) -> Result<Option<String>> {
    let progress = Progress::new(output.json);
    let package = pack(dir)?;
    if deployed.as_ref() == Some(&package.bytes) {
        return Ok(None);
    }
    let first = deployed.replace(package.bytes.clone()).is_none();
    let (name, version) = deploy::send(dir, package, node, output, &progress).await?;
    drop(progress);
    if !output.json {
        output.line(&format!("deployed {name} version {} ({})", version.version, size(version.size)))?;
        if first {
            output.line(&format!("url   {}", function_url(node.endpoint(), &name)))?;
            if version.kind != "http" {
                output.line(&format!("next  stratos --node {} invoke {name} -d '{{}}'", node.endpoint()))?;
            }
        }
    }
    Ok(Some(name))
}

/// A node that lives as long as this command; its state is in a temporary folder.
struct OwnNode {
    child: Child,
    socket: PathBuf,
    /// Holds the state; removed when dropped, so the child must have ended by then.
    _state: tempfile::TempDir,
}

impl OwnNode {
    fn spawn() -> Result<Self> {
        let program = sibling("stratosd")?;
        let state = tempfile::Builder::new().prefix("stratos-dev-").tempdir();
        let state = state.map_err(|e| Failure::new("cannot make a temporary folder").because(&e))?;
        let socket = state.path().join("api.sock");
        let child = Command::new(&program)
            .arg("--dev")
            .arg("--state")
            .arg(state.path().join("state"))
            .arg("--run")
            .arg(state.path().join("run"))
            .arg("--socket")
            .arg(&socket)
            .args(["--stop-grace", STOP_GRACE])
            .stdin(Stdio::null())
            // stdout is for results; what the node says are messages.
            .stdout(std::io::stderr())
            // A group of its own: Ctrl-C reaches this command, which then ends the node in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| Failure::new(format!("cannot start {}", program.display())).because(&e))?;
        Ok(Self { child, socket, _state: state })
    }

    async fn wait_until_it_answers(&mut self, node: &Node) -> Result<()> {
        let asked = async {
            loop {
                match node.get::<Health>(path::HEALTH).await {
                    Err(failure) if failure.exit == Exit::Unreachable => tokio::time::sleep(START_POLL).await,
                    answer => return answer.map(drop),
                }
            }
        };
        tokio::select! {
            answer = tokio::time::timeout(START_LIMIT, asked) => {
                answer.unwrap_or_else(|_| Err(Failure::new(format!("the node did not answer within {} s", START_LIMIT.as_secs()))))
            }
            status = self.child.wait() => Err(ended(status)),
        }
    }

    /// Asks the node to end and waits for it.
    async fn stop(mut self) -> Result<()> {
        let Some(pid) = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed())) else { return Ok(()) };
        rustix::process::kill_process(pid, Signal::TERM)
            .map_err(|e| Failure::new("cannot end the node").because(&e))?;
        match tokio::time::timeout(STOP_LIMIT, self.child.wait()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(Failure::new("cannot wait for the node's end").because(&e)),
            Err(_) => {
                self.child.kill().await.map_err(|e| Failure::new("cannot kill the node").because(&e))?;
                Err(Failure::new(format!(
                    "the node did not end within {} s and was killed",
                    STOP_LIMIT.as_secs()
                )))
            }
        }
    }
}

fn ended(status: std::io::Result<ExitStatus>) -> Failure {
    match status {
        Ok(status) => Failure::new(format!("the node ended ({status})"))
            .hint("its own message stands above; a node needs root: sudo stratos dev"),
        Err(e) => Failure::new("cannot wait for the node").because(&e),
    }
}

/// A binary in the folder of this one.
fn sibling(name: &str) -> Result<PathBuf> {
    let this = std::env::current_exe()
        .map_err(|e| Failure::new("cannot tell where this program lies").because(&e))?;
    let path = this.with_file_name(name);
    match path.is_file() {
        true => Ok(path),
        false => Err(Failure::new(format!("{} is not there", path.display()))
            .hint("`stratos dev` starts the node's binary that lies beside it; or name a running node with --node URL")),
    }
}
