//! A node from its start to its end.
//!
//! The order matters: the sandbox is opened while this process has one thread (it makes a mount namespace, which
//! threads do not share afterwards) and sweeps away what a killed predecessor left, before anything new is started.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratos_checkpoint::machine::Machine;
use stratos_sandbox::{OpenError, Sandbox, SandboxConfig};
use stratos_store::{Store, StoreError};
use stratos_types::environment::NodeEnvironmentError;
use stratos_types::{FunctionKey, NodeEnvironment, TenantId};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::{Memory, Options};
use crate::deploy::{BuildConfig, Deployer, Trust};
use crate::engine::{Engine, EngineConfig, EngineError, Observer};
use crate::http::{self, ListenConfig, ListenError, Listeners, Services};
use crate::keys::TrustedKeys;
use crate::layers::Layers;
use crate::telemetry::{self, ExportError, Exporter, Recorder};
use crate::warm::recording::Owner;
use crate::warm::{self, Warmer};
use crate::{machine, notify};

/// Network namespaces made ahead: as many as a burst on a small machine takes at once.
const NETWORK_POOL: usize = 8;
/// Memory of one dependency build.
const BUILD_MEMORY: u64 = 2 << 30;

/// Why a node does not start or run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A folder could not be made.
    #[error("cannot make {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Functions cannot be isolated here.
    #[error("this machine cannot run functions")]
    Sandbox(#[from] OpenError),
    /// The state is not usable.
    #[error("the node's state is not usable")]
    Store(#[from] StoreError),
    /// The file with the functions' variables could not be read.
    #[error("cannot read the functions' environment {}", path.display())]
    EnvironmentFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file with the functions' variables holds what they cannot be given.
    #[error("{}", path.display())]
    Environment {
        /// Which.
        path: PathBuf,
        /// Which variable, and what is wrong with it.
        source: NodeEnvironmentError,
    },
    /// The engine did not start.
    #[error("cannot start the engine")]
    Engine(#[from] EngineError),
    /// Functions could not be deployed.
    #[error("the node could not deploy functions")]
    Deploy(#[from] crate::deploy::DeployError),
    /// The node cannot listen.
    #[error("the node cannot listen")]
    Listen(#[from] ListenError),
    /// Traces and metrics cannot be exported as it was asked for.
    #[error("cannot set up the export of traces and metrics")]
    Export(#[from] ExportError),
    /// The system gave less than a node needs.
    #[error("the node cannot run")]
    System(#[from] io::Error),
}

impl NodeError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Folder { .. } => Some("run it as root, or choose folders with --state and --run"),
            Self::Sandbox(OpenError::LimitsMissing { .. }) => {
                Some("to run without limits, for development only, start it with --dev")
            }
            Self::Sandbox(_) => Some("instances need root"),
            Self::Listen(error) => Some(error.hint()),
            Self::EnvironmentFile { .. } | Self::Environment { .. } => {
                Some("--function-environment names a file of lines NAME = \"value\"")
            }
            Self::Store(StoreError::InUse { .. }) => {
                Some("stop that agent first, or give this one its own --state and --run")
            }
            Self::Store(StoreError::DiskFull { .. }) => {
                Some("free some space there, or choose another folder with --state")
            }
            Self::Export(_) => Some("for https, name the certificates to trust with --otlp-ca"),
            Self::Store(_) | Self::Engine(_) | Self::Deploy(_) | Self::System(_) => None,
        }
    }
}

/// Runs a node until it is told to stop (SIGTERM or SIGINT).
///
/// # Errors
/// When it cannot start.
pub fn run(options: &Options) -> Result<(), NodeError> {
    for dir in [&options.state, &options.run] {
        std::fs::create_dir_all(dir).map_err(|source| NodeError::Folder { path: dir.clone(), source })?;
    }
    let environment = function_environment(options.function_environment.as_deref())?;
    raise_open_files()?;
    let memory = Memory::of_machine()?;
    let sandbox = Arc::new(Sandbox::open(SandboxConfig {
        state_dir: options.state.clone(),
        run_dir: options.run.join("sandbox"),
        require_limits: !options.dev,
        netns_pool: NETWORK_POOL,
        cgroup: options.cgroup.clone(),
        swap_percent: options.swap_percent(&memory),
    })?);
    for missing in sandbox.features().missing() {
        tracing::warn!("THIS MACHINE LACKS {}: {}", missing.what, missing.consequence);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(options, &memory, environment, Arc::clone(&sandbox)));
    // Instances end with their last handle, on the runtime's threads: these go first, the sandbox last.
    drop(runtime);
    drop(sandbox);
    result
}

/// Lets this process open as many files as it may. The usual limit of 1,024 is for programs that use select(2); a node
/// holds descriptors for each instance, request and connection. Instances get a limit of their own.
fn raise_open_files() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// The variables that all functions are given.
fn function_environment(path: Option<&Path>) -> Result<NodeEnvironment, NodeError> {
    let Some(path) = path else { return Ok(NodeEnvironment::default()) };
    let text = std::fs::read_to_string(path)
        .map_err(|source| NodeError::EnvironmentFile { path: path.to_owned(), source })?;
    NodeEnvironment::parse(&text).map_err(|source| NodeError::Environment { path: path.to_owned(), source })
}

async fn serve(
    options: &Options,
    memory: &Memory,
    environment: NodeEnvironment,
    sandbox: Arc<Sandbox>,
) -> Result<(), NodeError> {
    let memory_budget = options.memory_budget(memory, sandbox.memory_limit());
    tracing::info!("functions may be promised {} MiB of memory", memory_budget >> 20);
    let store = Store::open(&options.state)?;
    store.blobs().collect_garbage()?;
    let layers = Arc::new(Layers::new(options.layers(), Arc::clone(&sandbox)));
    layers.sweep();
    let egress_denied = options.egress_denied.clone().unwrap_or_default();
    let (starts, started) = warm::starts();
    let keys = TrustedKeys::new(options.trusted_keys());
    match keys.list() {
        Ok(keys) => tracing::debug!("{} keys may sign artifacts", keys.len()),
        Err(error) => tracing::warn!(reason = %crate::engine::chain(&error), "no key is trusted"),
    }
    let trust = Trust {
        keys: keys.clone(),
        machine: Machine::current()?,
        restores: options.checkpoints,
        environment: environment.clone(),
    };
    let exporter = options.export(&machine::hostname()).map(Exporter::new).transpose()?;
    let folder = telemetry::folder(&options.state);
    let recorder = Arc::new(Recorder::open(&folder, options.telemetry_disk, exporter));
    let functions = store.functions(&TenantId::default())?;
    let names: HashSet<_> = functions.iter().map(|function| function.key.name.as_str()).collect();
    recorder.keep(|name| names.contains(name));
    let recording = recorder.start();
    let (observer, cgroups) = (Observer::new(options.trace), sandbox.cgroups());
    let engine = Engine::start(
        EngineConfig {
            log_dir: options.state.join("logs"),
            checkpoint_dir: options.state.join("checkpoints"),
            checkpoints: options.checkpoints,
            trusted_keys: keys.clone(),
            template_budget: options.template_budget(memory_budget),
            checkpoint_age: options.checkpoint_age,
            hook_limit: options.hook_limit.duration(),
            idle_timeout: options.idle_timeout(),
            queue_limit: options.queue,
            memory_budget,
            parallel_starts: std::thread::available_parallelism()?.get(),
            egress_denied: egress_denied.clone(),
            environment,
            observer: Arc::clone(&observer),
            starts: options.warm.then_some(starts),
            recorder,
        },
        store.clone(),
        Arc::clone(&sandbox),
        Arc::clone(&layers),
    )?;
    let home = std::env::var_os("HOME").map(PathBuf::from);
    // Variables that are not UTF-8 are none that pip or npm would know.
    let vars = std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)));
    let host = BuildConfig::of_host(vars, home.as_deref());
    let build = BuildConfig {
        pip_config: options.pip_config.clone().or(host.pip_config),
        npmrc: options.npm_config.clone().or(host.npmrc),
        ca_bundle: options.ca_bundle.clone().or(host.ca_bundle),
        timeout: options.build_timeout.duration(),
        memory_bytes: BUILD_MEMORY.min(memory_budget),
        egress_denied,
        ..host
    };
    let find = find_images(engine.clone(), Arc::clone(&layers));
    let deployer = Arc::new(Deployer::new(store, sandbox, layers, build, trust)?);
    let listeners = Listeners::bind(&ListenConfig {
        socket: options.socket(),
        tcp: options.listen,
        tls: options.tls(),
        token_file: options.token_file(),
    })?;
    tracing::info!("the API is on {}", options.socket().display());
    if let Some(address) = listeners.tcp_address() {
        tracing::info!("and on {address}; the token is in {}", options.token_file().display());
    }
    // What connects from here on waits in the kernel until it is accepted.
    notify::ready();
    observer.load_in_background(cgroups);
    let warmer = match options.warm {
        true => Some(Warmer::start(&options.state, started, find)?),
        false => None,
    };
    let (stop, stopped) = watch::channel(false);
    let stopper = tokio::spawn(stop_on_signal(stop)?);
    let machine = Arc::new(machine::Machine::new(options.state.clone(), options.init_socket.clone()));
    let spool = options.state.join("spool");
    let services = Services { engine: engine.clone(), deployer, keys, machine, spool };
    let cut = http::serve(listeners, services, stopped, options.stop_grace.duration()).await?;
    if cut > 0 {
        tracing::warn!("{cut} connections were cut: their requests took longer than --stop-grace");
    }
    engine.stop(options.stop_grace.duration()).await;
    recording.stop().await;
    // It holds images, which must be gone before the sandbox is.
    if let Some(warmer) = warmer {
        tokio::task::spawn_blocking(move || warmer.stop()).await.map_err(io::Error::other)?;
    }
    stopper.abort();
    tracing::info!("stopped");
    Ok(())
}

/// Finds the images of layers and functions for what is read ahead.
fn find_images(engine: Engine, layers: Arc<Layers>) -> warm::Find {
    let runtime = tokio::runtime::Handle::current();
    Box::new(move |owner| match owner {
        Owner::Layer(name) => layers.get(name).ok().map(|layer| layer.source()),
        Owner::Function(name) => {
            let key = FunctionKey::of_default_tenant(name.parse().ok()?);
            runtime.block_on(engine.image(&key))
        }
    })
}

/// Turns `stop` true on the first SIGTERM or SIGINT.
fn stop_on_signal(stop: watch::Sender<bool>) -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        notify::stopping();
        stop.send_replace(true);
        // Kept until the node has ended: a dropped sender would look like a stop as well.
        std::future::pending::<()>().await;
    })
}
