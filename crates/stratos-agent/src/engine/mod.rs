//! Runs functions: finds or starts an instance for each request, within one deadline, and keeps the record.
//!
//! Start reading at [`Engine::invoke`]. A [`pool::Pool`] decides which instance of one deployed version takes a
//! request and when another is started; [`instance`] brings one to life and watches it die; [`runtime_api`] and
//! [`port`] are the two ways a request reaches code. A synchronous request is delivered to code at most once: what
//! was delivered is never tried again.

mod begin;
mod build;
mod checkpoint;
mod checkpointable;
mod deployed;
pub mod error_report;
pub(crate) mod failure;
mod held;
mod instance;
mod invoke;
mod listening;
mod log;
mod observe;
mod off_worker;
mod parked;
mod pool;
mod port;
mod record;
mod release;
mod retry;
mod runtime_api;
mod snap_start;
mod start;
mod streamed;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;
use stratos_api::{
    ApiError, ErrorCode, Health, InstanceInfo, InvocationRecord, MissingFeature, NodeFeatures, Phases,
    SyscallTrace,
};
use stratos_sandbox::Sandbox;
use stratos_store::{AsyncRequest, Store};
use stratos_telemetry::Late;
use stratos_types::{
    FunctionKey, FunctionSpec, InstanceId, InvocationId, NodeEnvironment, SecretName, TenantId, TraceContext,
    Version,
};

pub use self::build::Built;
pub use self::checkpoint::TakenCheckpoint;
pub(crate) use self::checkpoint::chain;
use self::deployed::Deployed;
pub(crate) use self::deployed::subject;
pub use self::log::FunctionLog;
pub use self::observe::Observer;
use self::observe::Windows;
use self::pool::Pool;
use self::record::Records;
pub(crate) use self::release::is_given;
use crate::body::BoxBody;
use crate::keys::TrustedKeys;
use crate::layers::Layers;
use crate::machine::Running;
use crate::telemetry::Recorder;
use crate::warm::{Source, Starts};

/// How often the current version is looked up while others are deployed.
const PREPARE_TRIES: u32 = 8;

/// What the operator decides about running functions.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Folder for the functions' logs.
    pub log_dir: std::path::PathBuf,
    /// Folder for checkpoints.
    pub checkpoint_dir: std::path::PathBuf,
    /// Whether there are any.
    pub checkpoints: bool,
    /// Keys by which checkpoints from artifacts may be signed.
    pub trusted_keys: TrustedKeys,
    /// Memory for templates in bytes.
    pub template_budget: u64,
    /// How old a checkpoint gets before another is made.
    pub checkpoint_age: Duration,
    /// How long SnapStart hooks may take, before a checkpoint and after each restore.
    pub hook_limit: Duration,
    /// How long an instance without requests is kept.
    pub idle_timeout: Duration,
    /// Most requests that wait for one version's instances.
    pub queue_limit: usize,
    /// Sum of all instances' memory limits in bytes.
    pub memory_budget: u64,
    /// Instances that may be starting at the same time.
    pub parallel_starts: usize,
    /// Networks that no egress rule opens, such as loopback and the metadata addresses.
    pub egress_denied: stratos_sandbox::egress::Denied,
    /// Variables that all functions are given.
    pub environment: NodeEnvironment,
    /// What the kernel tells of instances.
    pub observer: Arc<Observer>,
    /// Who is told of the images of cold starts.
    pub starts: Option<Starts>,
    /// Who is told of invocations that have ended.
    pub recorder: Arc<Recorder>,
}

/// How requests reach a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// An event at a time, through the Lambda Runtime API.
    Handler,
    /// HTTP on `$PORT`.
    Http,
}

/// One request for a function.
pub struct InvokeRequest {
    /// Which function.
    pub key: FunctionKey,
    /// Which version; the current one when `None`.
    pub version: Option<Version>,
    /// The invocation's id.
    pub id: InvocationId,
    /// What it is given.
    pub payload: Payload,
    /// This invocation's own span.
    pub trace: TraceContext,
    /// How it came.
    pub trigger: Trigger,
    /// When it began to arrive: its time counts from here.
    pub began: Instant,
    /// When the node was to answer it: the deadline counts from here.
    pub arrived: Instant,
    /// The Lambda client context, JSON.
    pub client_context: Option<String>,
}

/// How a request came, by OpenTelemetry's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// Over HTTP, and somebody waits for the answer.
    Http,
    /// From the queue.
    Pubsub,
}

impl Trigger {
    /// The name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Pubsub => "pubsub",
        }
    }
}

/// What a function is given.
pub enum Payload {
    /// An event for a handler. A `$PORT` function gets it as `POST /`.
    Event(Bytes),
    /// A request for a `$PORT` function, path and query as the function shall see them.
    Http(Box<http::Request<BoxBody>>),
}

/// What came of a request.
pub struct Outcome {
    /// What is known about how it was run.
    pub meta: Meta,
    /// The function's answer, or who failed and why.
    pub result: Result<Answer, ApiError>,
}

/// How a request was run.
#[derive(Debug, Clone)]
pub struct Meta {
    /// The invocation's id.
    pub id: InvocationId,
    /// The version that was chosen, when one was found.
    pub version: Option<Version>,
    /// The instance that was given, when one was.
    pub instance: Option<InstanceId>,
    /// Whether an instance was started for it.
    pub cold: bool,
    /// Whether that went on from a checkpoint.
    pub restored: bool,
    /// Its phases; for a streaming answer up to the answer's head.
    pub phases: Phases,
    /// Its span.
    pub trace: TraceContext,
    /// When an answer was there that is written as a whole, and who is told when it was.
    pub answered: Option<(Instant, Arc<Late>)>,
}

impl Meta {
    fn new(id: InvocationId, version: Option<Version>, trace: TraceContext) -> Self {
        let phases = Phases::default();
        Self { id, version, instance: None, cold: false, restored: false, phases, trace, answered: None }
    }
}

/// A function's answer.
pub enum Answer {
    /// What a handler returned.
    Event(Bytes),
    /// What a handler streams.
    EventStream {
        /// The content type the handler gave.
        content_type: Option<HeaderValue>,
        /// The bytes as they come.
        body: BoxBody,
    },
    /// What a `$PORT` function answered.
    Http(Box<http::Response<BoxBody>>),
}

/// Numbers about one function since the agent started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FunctionStats {
    /// Instances that run or start now.
    pub instances: u32,
    /// Requests that wait.
    pub queued: u32,
    /// Invocations that ended.
    pub invocations: u64,
    /// Of these, those with an error.
    pub errors: u64,
    /// Of these, those an instance was started for.
    pub cold_starts: u64,
}

/// Runs functions. A handle: clones share everything.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    config: EngineConfig,
    store: Store,
    sandbox: Arc<Sandbox>,
    layers: Arc<Layers>,
    checkpoints: checkpoint::Checkpoints,
    profiles: deployed::Profiles,
    /// What the name means now; filled on first use, emptied by [`Engine::function_changed`].
    current: RwLock<HashMap<FunctionKey, Arc<Deployed>>>,
    pools: Mutex<HashMap<(FunctionKey, Version), Arc<Pool>>>,
    functions: Mutex<HashMap<FunctionKey, Arc<FunctionState>>>,
    starters: tokio::sync::Semaphore,
    committed_bytes: Arc<AtomicU64>,
    memory_freed: tokio::sync::Notify,
    /// Counts changes of what names mean, so that what was loaded meanwhile is not taken for current.
    changes: AtomicU64,
    stopping: AtomicBool,
    async_work: tokio::sync::Notify,
    started: Instant,
}

/// What is kept about a function across its versions.
struct FunctionState {
    records: Mutex<Records>,
    log: Arc<FunctionLog>,
    windows: Arc<Windows>,
    observer: Arc<Observer>,
}

/// Why an engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A system call profile that is part of the agent does not load.
    #[error("the system call profile of {runtime} does not load")]
    Profile {
        /// Which runtime's.
        runtime: &'static str,
        /// Why.
        source: stratos_sandbox::seccomp::SeccompError,
    },
    /// The state could not be read.
    #[error("cannot read the node's state")]
    Store(#[from] stratos_store::StoreError),
    /// The log folder could not be made.
    #[error("cannot make the log folder {path}")]
    LogDir {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The folder for checkpoints could not be made.
    #[error("cannot make the folder {path} for checkpoints")]
    CheckpointDir {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Engine {
    /// Sets up an engine and starts its background work on the current tokio runtime.
    ///
    /// # Errors
    /// When profiles, state or log folder are not usable.
    pub fn start(
        config: EngineConfig,
        store: Store,
        sandbox: Arc<Sandbox>,
        layers: Arc<Layers>,
    ) -> Result<Self, EngineError> {
        std::fs::create_dir_all(&config.log_dir)
            .map_err(|source| EngineError::LogDir { path: config.log_dir.clone(), source })?;
        let folder = config.checkpoint_dir.clone();
        let checkpoints = checkpoint::Checkpoints::open(&config, &store)
            .map_err(|source| EngineError::CheckpointDir { path: folder, source })?;
        let inner = Inner {
            starters: tokio::sync::Semaphore::new(config.parallel_starts),
            profiles: deployed::Profiles::load()?,
            checkpoints,
            config,
            store,
            sandbox,
            layers,
            current: RwLock::default(),
            pools: Mutex::default(),
            functions: Mutex::default(),
            committed_bytes: Arc::default(),
            memory_freed: tokio::sync::Notify::new(),
            changes: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            async_work: tokio::sync::Notify::new(),
            started: Instant::now(),
        };
        let engine = Self(Arc::new(inner));
        tokio::spawn(engine.clone().reap_idle());
        tokio::spawn(engine.clone().find_all());
        tokio::spawn(engine.clone().run_async_queue());
        Ok(engine)
    }

    /// The node's state.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// How requests reach a function.
    ///
    /// # Errors
    /// `not_found` when there is none of that name.
    pub async fn kind(&self, key: &FunctionKey) -> Result<EntryKind, ApiError> {
        Ok(if self.spec(key).await?.entry.is_http() { EntryKind::Http } else { EntryKind::Handler })
    }

    /// A function's current specification.
    ///
    /// # Errors
    /// `not_found` when there is none of that name.
    pub async fn spec(&self, key: &FunctionKey) -> Result<Arc<FunctionSpec>, ApiError> {
        Ok(Arc::clone(&self.resolve(key, None).await?.spec))
    }

    /// The image of a function's current version, which stays mounted while that is current; `None` when there is none.
    pub async fn image(&self, key: &FunctionKey) -> Option<Source> {
        Some(self.resolve(key, None).await.ok()?.function_source())
    }

    /// Takes note that a function was deployed, rolled back or removed: new requests get what is current now, old
    /// instances end once they are idle.
    pub fn function_changed(&self, key: &FunctionKey) {
        {
            let mut current = write(&self.0.current);
            self.0.changes.fetch_add(1, Ordering::AcqRel);
            current.remove(key);
        }
        let retired: Vec<_> = lock(&self.0.pools).extract_if(|(k, _), _| k == key).collect();
        for (_, pool) in retired {
            pool.retire();
        }
    }

    /// Takes note that a secret was set or removed: instances that may hold the old value end once they are idle, and new
    /// requests get others.
    pub fn secret_changed(&self, tenant: &TenantId, name: &SecretName) {
        let holds = |key: &FunctionKey, pool: &Pool| {
            key.tenant == *tenant && pool.deployed.spec.secrets.values().any(|secret| secret == name)
        };
        let retired: Vec<_> = lock(&self.0.pools).extract_if(|(key, _), pool| holds(key, pool)).collect();
        for (_, pool) in retired {
            pool.retire();
        }
    }

    /// A version was deployed or made current: its checkpoint is made before anybody asks for it.
    pub async fn prepare_checkpoint(&self, key: &FunctionKey) {
        for _ in 0..PREPARE_TRIES {
            match self.resolve(key, None).await {
                // Not what is current any more: it is looked up again.
                Ok(deployed) if self.prepare(&deployed).is_none() => {}
                Ok(_) => return,
                Err(error) => return tracing::warn!(function = %key, %error, "no checkpoint is made"),
            }
        }
    }

    /// How the instances of a function's current version are started.
    pub fn checkpoint(&self, key: &FunctionKey) -> stratos_api::CheckpointInfo {
        self.0.checkpoints.info(key)
    }

    /// Forgets a removed function's records, log and checkpoint.
    pub fn function_removed(&self, key: &FunctionKey) {
        self.function_changed(key);
        self.0.checkpoints.forget(key);
        self.0.config.recorder.forget(key.name.as_str());
        if let Some(state) = lock(&self.0.functions).remove(key) {
            state.log.delete();
        }
    }

    /// Numbers about a function.
    pub fn stats(&self, key: &FunctionKey) -> FunctionStats {
        let mut stats = match lock(&self.0.functions).get(key) {
            Some(state) => lock(&state.records).stats(),
            None => FunctionStats::default(),
        };
        for pool in self.pools_of(key) {
            let (instances, queued) = pool.size();
            stats.instances += instances;
            stats.queued += queued;
        }
        stats
    }

    /// A function's instances.
    pub fn instances(&self, key: &FunctionKey) -> Vec<InstanceInfo> {
        self.pools_of(key).iter().flat_map(|pool| pool.instances()).collect()
    }

    /// All instances with their first processes.
    pub fn running(&self) -> Vec<Running> {
        let pools: Vec<_> = lock(&self.0.pools).values().cloned().collect();
        pools.iter().flat_map(|pool| pool.running()).collect()
    }

    /// The last invocations, newest first.
    pub fn records(&self, key: &FunctionKey, limit: usize) -> Vec<InvocationRecord> {
        self.0.config.recorder.recent(key.name.as_str(), limit)
    }

    /// What is kept about invocations.
    pub fn recorder(&self) -> &Arc<Recorder> {
        &self.0.config.recorder
    }

    /// What of a function's specification this node cannot do, and why.
    pub fn notes(&self, tenant: &TenantId, spec: &FunctionSpec) -> Vec<String> {
        let mut notes = deployed::notes(spec, self.0.sandbox.features());
        let missing = spec.secrets.iter().filter(|(_, name)| !self.0.store.secrets().has(tenant, name));
        notes.extend(missing.map(|(variable, name)| {
            format!("secrets.{variable}: this node has no secret `{name}`: set it with `stratos secret set {name}`")
        }));
        notes
    }

    /// A function's log.
    pub fn log(&self, key: &FunctionKey) -> Arc<FunctionLog> {
        Arc::clone(&self.function_state(key).log)
    }

    /// How the node is.
    pub fn health(&self) -> Health {
        let missing = self.missing();
        let (mut instances, mut queued) = (0, 0);
        for pool in lock(&self.0.pools).values() {
            let (i, q) = pool.size();
            instances += i;
            queued += q;
        }
        Health {
            status: if missing.is_empty() { "ok" } else { "degraded" }.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            missing,
            instances,
            queued,
            uptime_s: self.0.started.elapsed().as_secs(),
            agent_rss_kb: own_rss_kb().unwrap_or(0),
            layers: self.0.layers.list(),
        }
    }

    /// What the node can see and enforce.
    pub fn features(&self) -> NodeFeatures {
        let (tracing, groups, dropped) = self.0.config.observer.state();
        NodeFeatures { tracing: tracing.to_owned(), groups, dropped, missing: self.missing() }
    }

    /// Counts and times every system call of a function's instances for this time, or until the receiver is dropped or
    /// [`Engine::end_trace`] is called.
    ///
    /// # Errors
    /// `not_found`; `unsupported` where the kernel does not let system calls be traced; `conflict` while a window is open.
    pub async fn trace(
        &self,
        key: &FunctionKey,
        time: Duration,
    ) -> Result<tokio::sync::oneshot::Receiver<SyscallTrace>, ApiError> {
        self.resolve(key, None).await?;
        let cgroups = self.pools_of(key).iter().flat_map(|pool| pool.cgroups()).collect();
        let state = self.function_state(key);
        state.windows.run(key.name.as_str(), &state.observer, cgroups, time).await
    }

    /// Ends a function's open window; false when there is none.
    pub fn end_trace(&self, key: &FunctionKey) -> bool {
        lock(&self.0.functions).get(key).is_some_and(|state| state.windows.end())
    }

    /// The last window of a function that has ended.
    pub fn last_trace(&self, key: &FunctionKey) -> Option<SyscallTrace> {
        lock(&self.0.functions).get(key)?.windows.last()
    }

    fn missing(&self) -> Vec<MissingFeature> {
        let missing = self.0.sandbox.features().missing();
        let told = |m: &stratos_sandbox::Missing| MissingFeature {
            what: m.what.to_string(),
            consequence: m.consequence.to_string(),
        };
        missing.iter().map(told).collect()
    }

    /// Ends all instances, those with requests once these are answered or `grace` is over.
    pub async fn stop(&self, grace: Duration) {
        self.0.stopping.store(true, Ordering::Release);
        let pools: Vec<_> = lock(&self.0.pools).drain().map(|(_, pool)| pool).collect();
        pools.iter().for_each(|pool| pool.retire());
        let drained = async {
            while pools.iter().any(|pool| pool.size().0 > 0) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(grace, drained).await.is_err() {
            pools.iter().for_each(|pool| pool.kill_all());
        }
    }

    /// Stores an asynchronous invocation; it is durable when this returns.
    ///
    /// # Errors
    /// `not_found`, or `storage_failed` when it could not be stored.
    pub async fn invoke_async(&self, request: AsyncRequest) -> Result<(), ApiError> {
        self.resolve(&request.key, request.version).await?;
        let (done, stored) = tokio::sync::oneshot::channel();
        // The receiver is gone only when the caller is; the invocation is stored all the same.
        self.0.store.enqueue(request, Box::new(move |result| drop(done.send(result))));
        match stored.await {
            Ok(Ok(())) => {
                self.0.async_work.notify_one();
                Ok(())
            }
            Ok(Err(error)) => Err(failure::storage(&error)),
            Err(_) => Err(ApiError::new(ErrorCode::Unavailable, "the node is stopping")),
        }
    }

    /// Wakes the asynchronous worker: something was queued again.
    pub fn wake_async(&self) {
        self.0.async_work.notify_one();
    }

    fn pools_of(&self, key: &FunctionKey) -> Vec<Arc<Pool>> {
        let pools = lock(&self.0.pools);
        pools.iter().filter(|((k, _), _)| k == key).map(|(_, pool)| Arc::clone(pool)).collect()
    }

    fn function_state(&self, key: &FunctionKey) -> Arc<FunctionState> {
        let mut functions = lock(&self.0.functions);
        let state = functions.entry(key.clone()).or_insert_with(|| {
            Arc::new(FunctionState {
                records: Mutex::default(),
                log: Arc::new(FunctionLog::new(&self.0.config.log_dir, key)),
                windows: Arc::default(),
                observer: Arc::clone(&self.0.config.observer),
            })
        });
        Arc::clone(state)
    }

    async fn reap_idle(self) {
        let mut tick = tokio::time::interval(Duration::from_secs(1).min(self.0.config.idle_timeout));
        loop {
            tick.tick().await;
            let pools: Vec<_> = lock(&self.0.pools).values().cloned().collect();
            for pool in &pools {
                pool.end_idle(self.0.config.idle_timeout);
            }
            drop(pools);
            // A version that nobody uses gives back its mounts; who holds a pool is about to use it.
            lock(&self.0.pools).retain(|_, pool| !pool.is_empty() || Arc::strong_count(pool) > 1);
        }
    }
}

/// A poisoned lock means that a thread died in the middle of a change to plain bookkeeping; going on with it is
/// better than a node that answers nothing.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Resident memory of this process in KiB: the second field of statm, in pages (proc_pid_statm(5)).
fn own_rss_kb() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64 / 1024)
}
