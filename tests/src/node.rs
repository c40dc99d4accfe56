//! A node for one test.

use std::ffi::OsString;
use std::io::Write as _;
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::Value;
use stratos_api::client::{Call, Client, Endpoint};
use tempfile::TempDir;

use crate::Api;

/// How long a node may take to come up or to stop, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Settings of a node to start.
pub struct NodeBuilder {
    dev: bool,
    dir: Option<TempDir>,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    layers: PathBuf,
}

/// A running node.
pub struct Node {
    dir: TempDir,
    dev: bool,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    layers: PathBuf,
    child: Option<Child>,
    api: Api,
}

impl NodeBuilder {
    /// Adds an argument of `stratosd`.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds a variable to its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// As in production: without `--dev`, so the machine has to have every cgroup controller.
    #[must_use]
    pub fn with_limits(mut self) -> Self {
        self.dev = false;
        self
    }

    /// Uses a folder that was prepared; the state goes into `state/` there.
    #[must_use]
    pub fn dir(mut self, dir: TempDir) -> Self {
        self.dir = Some(dir);
        self
    }

    /// Instances are restored from checkpoints.
    #[must_use]
    pub fn checkpoints(self) -> Self {
        self.env("STRATOS_CHECKPOINTS", "auto")
    }

    /// Uses other layers than those in the cache.
    #[must_use]
    pub fn layers(self, layers: PathBuf) -> Self {
        Self { layers, ..self }
    }

    /// Starts the node and waits until it answers.
    ///
    /// # Panics
    /// When it does not come up; its log is in the message.
    pub async fn start(self) -> Node {
        let new = || tempfile::Builder::new().prefix("stratos-test-").tempdir().expect("a temporary folder");
        let dir = self.dir.unwrap_or_else(new);
        let socket = dir.path().join("api.sock");
        let client = Client::new(Endpoint::Unix(socket), None).expect("a client without a token");
        let api = Api::new(client, dir.path().join("node.log"));
        let Self { dev, arguments, environment, layers, .. } = self;
        let mut node = Node { dir, dev, arguments, environment, layers, child: None, api };
        node.spawn();
        node.wait_until_up().await;
        node
    }
}

impl Node {
    /// A node with the settings of tests. Instances are started afresh, unless a test asks for
    /// [`NodeBuilder::checkpoints`]: whether one is there in time would be chance.
    pub fn builder() -> NodeBuilder {
        let environment = vec![("STRATOS_CHECKPOINTS".into(), "off".into())];
        NodeBuilder { dev: true, dir: None, arguments: Vec::new(), environment, layers: crate::layers_dir() }
    }

    /// Starts a node with the settings of tests.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// The node's folder: state under `state/`, log in `node.log`.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("api.sock")
    }

    /// Sends a request. The client has gone when the result is dropped.
    ///
    /// # Panics
    /// When the node takes no connections.
    pub fn begin(&self, request: &str, body: &str) -> UnixStream {
        let mut connection = UnixStream::connect(self.socket()).expect("a connection");
        let head = format!("{request} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
        connection.write_all(format!("{head}{body}").as_bytes()).expect("it is sent");
        connection
    }

    /// The process id.
    ///
    /// # Panics
    /// When the node is not running.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    fn spawn(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("node.log"))
            .expect("a log file");
        let child = Command::new(crate::program("stratosd"))
            .args(self.dev.then_some("--dev"))
            .arg("--state")
            .arg(self.dir.path().join("state"))
            .arg("--run")
            .arg(self.dir.path().join("run"))
            .arg("--socket")
            .arg(self.socket())
            .arg("--layers")
            .arg(&self.layers)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("stratosd starts");
        self.child = Some(child);
    }

    async fn wait_until_up(&mut self) {
        let begun = Instant::now();
        loop {
            if self.client().json::<Value>(Call::new(Method::GET, "/v1/health", "")).await.is_ok() {
                return;
            }
            let ended = self.child.as_mut().expect("spawned").try_wait().expect("a child to wait for");
            let gave_up = begun.elapsed() > PATIENCE;
            assert!(ended.is_none() && !gave_up, "the node did not come up ({ended:?}):\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the node with SIGKILL.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill_9(&mut self) {
        let mut child = self.child.take().expect("the node runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a killed child ends");
    }

    /// Starts the node again on its old state and waits until it answers.
    pub async fn restart(&mut self) {
        self.spawn();
        self.wait_until_up().await;
    }

    /// Asks the node to stop and waits until it has.
    ///
    /// # Panics
    /// When it does not stop.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the node runs");
        let begun = Instant::now();
        while child.try_wait().expect("a child to wait for").is_none() {
            if begun.elapsed() > PATIENCE {
                child.kill().expect("a child can be killed");
                panic!("the node did not stop:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Deref for Node {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}
