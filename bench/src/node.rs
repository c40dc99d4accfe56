//! StratOS as a subject: a node of the release build, asked over its Unix socket.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use stratos_api::FunctionDetail;
use stratos_tests::{Node, NodeBuilder, Package};
use tokio::runtime::Runtime;

use crate::http::{Answer, Connection, PATIENCE, request};
use crate::timing::Phases;

/// How long an instance is kept where every request shall need a new one.
const KEEP: &str = "50ms";
/// Pause between two looks whether an instance has ended.
const POLL: Duration = Duration::from_millis(5);

/// A running node.
pub(crate) struct Stratos {
    node: Node,
    socket: PathBuf,
}

impl Stratos {
    /// Starts a node with these options of `stratosd`. With `end_idle`, instances end right after their request.
    ///
    /// # Errors
    /// When the release build of the agent is missing.
    pub(crate) fn start(runtime: &Runtime, end_idle: bool, options: &[&str]) -> Result<Self> {
        let builder =
            options.iter().fold(Node::builder().checkpoints(), |builder, option| builder.arg(*option));
        let builder = if end_idle { builder.arg("--idle-timeout").arg(KEEP) } else { builder };
        Self::start_node(runtime, builder)
    }

    /// Starts a node as in production: every instance has its limits, or there is no node. Instances end right after
    /// their request.
    ///
    /// # Errors
    /// When the release build of the agent is missing.
    pub(crate) fn start_with_limits(runtime: &Runtime) -> Result<Self> {
        let builder = Node::builder().checkpoints().with_limits();
        Self::start_node(runtime, builder.arg("--idle-timeout").arg(KEEP))
    }

    fn start_node(runtime: &Runtime, builder: NodeBuilder) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "benchmarks need root: namespaces, mounts, cgroups");
        let own = std::env::current_exe()?;
        ensure!(
            own.with_file_name("stratosd").is_file(),
            "the agent is not built; run `cargo build --release -p stratos-agent`"
        );
        let node = runtime.block_on(builder.start());
        let socket = node.socket();
        Ok(Self { node, socket })
    }

    /// Deploys a function.
    ///
    /// # Errors
    /// When the node refuses it.
    pub(crate) fn deploy(&self, runtime: &Runtime, package: &Package) -> Result<()> {
        let answer = runtime.block_on(self.node.try_deploy(package));
        ensure!(answer.status.is_success(), "deploy: {}\n{}", answer.text(), self.node.log());
        Ok(())
    }

    /// Waits until the checkpoint of a function is made.
    ///
    /// # Errors
    /// When it cannot have one.
    pub(crate) fn wait_for_checkpoint(&self, function: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let info = self.detail(function)?.checkpoint;
            match info.state.as_str() {
                "ready" => return Ok(()),
                "making" => ensure!(begun.elapsed() < PATIENCE, "the checkpoint of {function} is not made"),
                _ => bail!("{function} has no checkpoint: {}", info.reason.unwrap_or_default()),
            }
            std::thread::sleep(POLL);
        }
    }

    /// Waits until the agent has this many child processes besides a template.
    ///
    /// # Errors
    /// When there are never so many.
    pub(crate) fn wait_for_children(&self, count: u32) -> Result<()> {
        let begun = Instant::now();
        let tasks = format!("/proc/{}/task", self.node.pid());
        loop {
            let mut children = 0;
            for task in std::fs::read_dir(&tasks)? {
                // A thread may end meanwhile.
                let list = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
                children += list.split_whitespace().count();
            }
            if children > count as usize {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "only {children} processes of the node");
            std::thread::sleep(POLL);
        }
    }

    /// The image of a function's current version.
    ///
    /// # Errors
    /// When there is none of that name.
    pub(crate) fn image(&self, function: &str) -> Result<PathBuf> {
        let digest = self.detail(function)?.current.digest;
        let hex = digest.strip_prefix("sha256:").unwrap_or(&digest);
        Ok(self.node.dir().join("state/blobs").join(hex))
    }

    fn detail(&self, function: &str) -> Result<FunctionDetail> {
        let show = request("GET", &format!("/v1/functions/{function}"), b"");
        let answer = self.connect()?.send(&show)?.ok()?;
        serde_json::from_slice(&answer.body).context("a function's detail")
    }

    /// Connects to the API.
    ///
    /// # Errors
    /// When the node is gone.
    pub(crate) fn connect(&self) -> Result<Connection> {
        Connection::unix(&self.socket)
    }

    /// Sends a request that starts an instance, on a connection of its own. Gives the time from just before the
    /// connection until the answer was read, and the phases the node tells.
    ///
    /// # Errors
    /// When the answer is not 200 and `expected`, or came from an instance that was already there.
    pub(crate) fn cold(&self, bytes: &[u8], expected: &str, start: &str) -> Result<(Duration, Phases)> {
        let begun = Instant::now();
        let answer = self.connect()?.send(bytes);
        let took = begun.elapsed();
        let answer = answer.and_then(|answer| check(answer, expected, start));
        let answer = answer.with_context(|| format!("the node wrote: {}", self.node.log()))?;
        Ok((took, Phases::parse(&answer.header("server-timing"))?))
    }

    /// Waits until a function has no instances.
    ///
    /// # Errors
    /// When they stay.
    pub(crate) fn wait_until_idle(&self, function: &str) -> Result<()> {
        let begun = Instant::now();
        loop {
            let detail = self.detail(function)?;
            if detail.instances.is_empty() {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "instances of {function} do not end: {:?}", detail.instances);
            std::thread::sleep(POLL);
        }
    }

    /// The agent's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.node.pid()
    }

    /// The agent's resident memory in KiB.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn rss_kb(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.node.pid()))?;
        rss_kb(&status).context("no VmRSS in the agent's status")
    }

    /// Ends the node.
    pub(crate) fn stop(mut self) {
        self.node.stop();
    }
}

/// Takes an answer that is 200, as expected, and from a `fresh` or `warm` instance as expected.
///
/// # Errors
/// For any other.
pub(crate) fn check(answer: Answer, expected: &str, start: &str) -> Result<Answer> {
    let answer = answer.ok()?;
    ensure!(answer.body == expected.as_bytes(), "answered `{}` instead of `{expected}`", answer.text());
    let started = answer.header(stratos_api::header::START);
    ensure!(started == start, "the instance was `{started}` instead of `{start}`");
    Ok(answer)
}

/// VmRSS of a /proc/PID/status (proc_pid_status(5)) in KiB.
fn rss_kb(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_status() {
        assert_eq!(rss_kb("Name:\tx\nVmRSS:\t   12345 kB\nVmSize:\t 1 kB\n"), Some(12_345));
        assert_eq!(rss_kb("Name:\tx\n"), None);
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(rss_kb(&own).unwrap() > 100);
    }

    #[test]
    fn only_the_expected_answer_counts() {
        let answer = |status, body: &str, start: &str| Answer {
            status,
            headers: vec![("stratos-start".into(), start.into())],
            body: body.into(),
        };
        assert!(check(answer(200, "hello", "warm"), "hello", "warm").is_ok());
        for wrong in [answer(500, "hello", "warm"), answer(200, "bye", "warm"), answer(200, "hello", "fresh")]
        {
            assert!(check(wrong.clone(), "hello", "warm").is_err(), "{wrong:?}");
        }
    }
}
