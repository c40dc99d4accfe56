//! What is started.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::runtime::Runtime as Tokio;

use super::{Options, Where};
use crate::bundle::Bundle;
use crate::criu::Criu;
use crate::fixture::{ANSWER, Fixture, HANDLER, Mode, Runtime, SERVER};
use crate::http::request;
use crate::node::Stratos;
use crate::peers::Peer;
use crate::timing::Phases;

/// Pause after each start, in which the kernel takes down what the last subject left behind.
const SETTLE: Duration = Duration::from_millis(100);

/// Something to start.
pub(super) enum Subject {
    /// A request to a node: whether it is the handler, how its instance comes to be, the function, the request and its
    /// answer.
    Stratos {
        handler: bool,
        mode: Mode,
        function: String,
        request: Vec<u8>,
        answer: String,
    },
    Peer(Peer),
    Criu(Criu),
}

impl Subject {
    /// The server of a bundle, dumped by CRIU; none, with a notice, where that cannot be.
    pub(super) fn criu(tools: PathBuf, bundle: &Bundle) -> Option<Self> {
        match Criu::dump(tools, bundle) {
            Ok(criu) => Some(Self::Criu(criu)),
            Err(error) => {
                eprintln!("notice: CRIU cannot dump the server here, it has no row: {error:#}");
                None
            }
        }
    }

    /// Its name in rows.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Stratos { .. } => "stratos",
            Self::Peer(peer) => peer.name(),
            Self::Criu(_) => "criu",
        }
    }

    /// Its fixture's name in rows.
    pub(super) fn fixture(&self, server: Fixture) -> &'static str {
        match self {
            Self::Stratos { handler: true, .. } => "handler",
            _ => server.name(),
        }
    }

    /// Its runtime's name in rows.
    pub(super) fn runtime(&self, runtime: Runtime) -> &'static str {
        // Debian's own is of another version than the layer's.
        if self.name() == Where::Vm.peer() { "nodejs" } else { runtime.name() }
    }

    /// How its process comes to be.
    pub(super) fn mode(&self) -> Mode {
        match self {
            Self::Stratos { mode, .. } => *mode,
            Self::Peer(_) => Mode::Fresh,
            Self::Criu(_) => Mode::Checkpoint,
        }
    }

    /// Whether it may turn out not to run on a machine, which is then said in place of its row.
    pub(super) fn is_optional(&self) -> bool {
        matches!(self.name(), "crun" | "criu")
    }

    /// One start, its end included.
    pub(super) fn cold(&self, nodes: &Nodes, bundle: &Bundle) -> Result<(Duration, Option<Phases>)> {
        let result = match self {
            Self::Stratos { function, request, answer, mode, .. } => {
                let node = nodes.of(*mode)?;
                let (total, phases) = node.cold(request, answer, mode.start())?;
                node.wait_until_idle(function)?;
                (total, Some(phases))
            }
            Self::Peer(peer) => (peer.cold(bundle)?, None),
            Self::Criu(criu) => (criu.cold()?, None),
        };
        std::thread::sleep(SETTLE);
        Ok(result)
    }
}

/// The nodes that are asked.
pub(super) struct Nodes {
    usual: Stratos,
    /// Keeps no template.
    without_templates: Option<Stratos>,
}

impl Nodes {
    /// Both nodes.
    pub(super) fn start(tokio: &Tokio) -> Result<Self> {
        let usual = Stratos::start(tokio, true, &[])?;
        match Stratos::start(tokio, true, &["--template-memory", "0"]) {
            Ok(without_templates) => Ok(Self { usual, without_templates: Some(without_templates) }),
            Err(error) => {
                usual.stop();
                Err(error)
            }
        }
    }

    /// One node, whose instances have every limit.
    pub(super) fn with_limits(tokio: &Tokio) -> Result<Self> {
        Ok(Self { usual: Stratos::start_with_limits(tokio)?, without_templates: None })
    }

    /// The node for instances that come to be this way.
    pub(super) fn of(&self, mode: Mode) -> Result<&Stratos> {
        match mode {
            Mode::ColdTemplate => self.without_templates.as_ref().context("no node without templates"),
            _ => Ok(&self.usual),
        }
    }

    /// Ends them.
    pub(super) fn stop(self) {
        self.usual.stop();
        if let Some(node) = self.without_templates {
            node.stop();
        }
    }
}

/// StratOS's subjects of these modes, deployed and checkpointed: the server (`false`), the handler, or both.
pub(super) fn subjects(
    options: &Options,
    tokio: &Tokio,
    nodes: &Nodes,
    modes: &[Mode],
    handlers: &[bool],
) -> Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    for (mode, handler) in modes.iter().flat_map(|mode| handlers.iter().map(|handler| (*mode, *handler))) {
        let function = mode.function(if handler { HANDLER } else { SERVER });
        let package = match handler {
            true => options.runtime.handler_package(&function, mode),
            false => options.runtime.server_package(options.fixture, &function, mode),
        };
        let node = nodes.of(mode)?;
        node.deploy(tokio, &package)?;
        if mode != Mode::Fresh {
            node.wait_for_checkpoint(&function)?;
        }
        let (request, answer) = match handler {
            true => {
                let path = format!("/v1/functions/{function}/invoke");
                (request("POST", &path, b"{}"), format!("\"{ANSWER}\""))
            }
            false => (request("GET", &format!("/f/{function}/"), b""), ANSWER.to_owned()),
        };
        subjects.push(Subject::Stratos { handler, mode, function, request, answer });
    }
    Ok(subjects)
}
