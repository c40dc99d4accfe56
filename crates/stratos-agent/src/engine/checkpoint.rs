//! Checkpoints of versions: made in the background, kept on disk, turned into templates when instances are wanted.
//!
//! One checkpoint a function, that of its current version. A start never waits for one (unless the function requires it):
//! while there is none, or when it cannot be used, instances are started afresh, and the reason is shown.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stratos_api::{ApiError, CheckpointInfo, ErrorCode};
use stratos_checkpoint::dump::DumpError;
use stratos_checkpoint::image::Image;
use stratos_checkpoint::machine::Machine;
use stratos_checkpoint::template::{Template, TemplateError};
use stratos_checkpoint::working_set::WorkingSet;
use stratos_sandbox::StartError;
use stratos_store::Store;
use stratos_types::{CheckpointMode, Entry, FunctionKey, InstanceId, Runtime, Version};
use tokio::sync::watch;

use super::deployed::Deployed;
use super::held::{self, Held, Origin};
use super::invoke::platform_line;
use super::off_worker::OffWorker;
use super::parked::Parked;
use super::{Engine, lock};

/// How long the memory for making a checkpoint is waited for, and how often it is looked for.
const MEMORY_WAIT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_millis(500));
/// How long after the agent's start the images on disk are looked at.
const FIND_AFTER: Duration = Duration::from_secs(1);
/// How long after a start others are restored ahead.
const REFILL_AFTER: Duration = Duration::from_millis(20);
/// How long starts are fresh after a checkpoint did not work, or could not be made for a reason that may pass.
const RETRY: Duration = Duration::from_secs(300);
/// Restored instances that may fail at their first request, one after the other, before the checkpoint is given up.
const MOST_CRASHES: u32 = 3;
/// How long a process may take from saying that it parks to parking.
const PARK_WAIT: Duration = Duration::from_secs(2);

/// The checkpoints of a node.
pub(super) struct Checkpoints {
    folder: PathBuf,
    machine: Machine,
    on: bool,
    /// Bytes that all templates may take together.
    budget: u64,
    versions: Mutex<HashMap<FunctionKey, Arc<OfVersion>>>,
    /// One is made at a time: it takes a processor from requests.
    making: tokio::sync::Semaphore,
}

/// The checkpoint of one version.
pub(super) struct OfVersion {
    version: Version,
    state: watch::Sender<State>,
    template: Mutex<Option<Kept>>,
    /// Held by who builds a template, so that one is built at a time.
    building: tokio::sync::Mutex<()>,
    held: Mutex<held::Store>,
    /// When something else may be tried in place of having none.
    retry_at: Mutex<Option<Instant>>,
    /// Held ones are being made.
    refilling: AtomicBool,
    /// Restored instances that crashed at their first request, since one did not.
    crashes: AtomicU32,
}

/// A template that is kept in memory.
struct Kept {
    /// Ends once nobody clones it any more.
    template: OffWorker<Arc<Template>>,
    used: Instant,
    memory: Reserved,
}

/// Memory that was set aside; given back when dropped.
struct Reserved {
    committed: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.committed.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[derive(Clone)]
enum State {
    /// On its way.
    Making,
    /// There is none.
    None(Arc<str>),
    /// There is one.
    Ready(Arc<Image>),
}

impl OfVersion {
    /// Whether it is what this version has, or was, and something else is to be tried by now.
    fn is_for(&self, version: Version) -> bool {
        let expired = lock(&self.retry_at).is_some_and(|at| at <= Instant::now());
        self.version == version && !expired
    }
}

impl Checkpoints {
    /// Opens the folder of checkpoints, and removes those that nobody will use.
    pub(super) fn open(folder: &Path, on: bool, budget: u64, store: &Store) -> io::Result<Self> {
        // What is in it was in processes' memory: it is for root alone.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let checkpoints = Self {
            folder: folder.to_owned(),
            machine: Machine::current()?,
            on,
            budget,
            versions: Mutex::default(),
            making: tokio::sync::Semaphore::new(1),
        };
        checkpoints.sweep(store)?;
        Ok(checkpoints)
    }

    /// Removes what is left of functions and versions that are not current any more, and of checkpoints that were being
    /// made when the agent ended.
    fn sweep(&self, store: &Store) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let current = path.file_name().and_then(|name| name.to_str()).and_then(parse_name).is_some_and(
                |(key, version)| match store.function(&key) {
                    Ok(record) => record.is_some_and(|record| record.current == version),
                    // Nothing is known; a checkpoint is only used after it was compared.
                    Err(_) => true,
                },
            );
            if !current {
                remove(&path);
            }
        }
        Ok(())
    }

    /// The versions that have an image.
    fn on_disk(&self) -> Vec<(FunctionKey, Version)> {
        // A folder that cannot be read now is reported when something is written to it.
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| parse_name(entry.file_name().to_str()?)).collect()
    }

    fn path(&self, key: &FunctionKey, version: Version) -> PathBuf {
        self.folder.join(format!("{}.{}.{version}", key.tenant, key.name))
    }

    fn of(&self, deployed: &Deployed) -> Option<Arc<OfVersion>> {
        lock(&self.versions).get(&deployed.key).filter(|of| of.is_for(deployed.version)).cloned()
    }

    fn is_current(&self, deployed: &Deployed, of: &Arc<OfVersion>) -> bool {
        self.of(deployed).is_some_and(|now| Arc::ptr_eq(&now, of))
    }

    /// What is shown of a function's checkpoint.
    pub(super) fn info(&self, key: &FunctionKey) -> CheckpointInfo {
        let Some(of) = lock(&self.versions).get(key).cloned() else {
            return CheckpointInfo {
                state: "none".to_owned(),
                reason: Some("it was not used since the node started".to_owned()),
                ..CheckpointInfo::default()
            };
        };
        let state = of.state.borrow().clone();
        match state {
            State::Making => CheckpointInfo { state: "making".to_owned(), ..CheckpointInfo::default() },
            State::None(reason) => CheckpointInfo {
                state: "none".to_owned(),
                reason: Some(reason.to_string()),
                ..CheckpointInfo::default()
            },
            State::Ready(image) => CheckpointInfo {
                state: "ready".to_owned(),
                reason: None,
                bytes: Some(image.pages_bytes()),
                in_memory: lock(&of.template).is_some(),
            },
        }
    }

    /// Forgets a function's checkpoint: nothing of it is left in memory or on disk.
    pub(super) fn forget(&self, key: &FunctionKey) {
        drop(lock(&self.versions).remove(key));
        self.remove_others(key, None);
    }

    /// Removes the images of a function but that of one version.
    fn remove_others(&self, key: &FunctionKey, keep: Option<Version>) {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(path = %self.folder.display(), %error, "cannot list the checkpoints");
                return;
            }
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| name.to_str()).and_then(parse_name);
            if name.is_some_and(|(of, version)| of == *key && Some(version) != keep) {
                remove(&path);
            }
        }
    }

    /// Takes the template out of memory that was not used for longest. False when there is none.
    pub(super) fn evict_one(&self) -> bool {
        let versions = lock(&self.versions);
        let used = |of: &&Arc<OfVersion>| lock(&of.template).as_ref().map(|kept| kept.used);
        let oldest = versions.values().filter(|of| used(of).is_some()).min_by_key(used);
        oldest.is_some_and(|of| lock(&of.template).take().is_some())
    }

    /// Takes templates out of memory, those not used for longest first, until `more` bytes have room.
    fn make_room(&self, more: u64) {
        let total = || -> u64 {
            let kept = |of: &Arc<OfVersion>| lock(&of.template).as_ref().map_or(0, |kept| kept.memory.bytes);
            lock(&self.versions).values().map(kept).sum()
        };
        while total() + more > self.budget && self.evict_one() {}
    }
}

/// `TENANT.NAME.VERSION`.
fn parse_name(name: &str) -> Option<(FunctionKey, Version)> {
    let mut parts = name.split('.');
    let (tenant, function, version) = (parts.next()?, parts.next()?, parts.next()?);
    let key = FunctionKey { tenant: tenant.parse().ok()?, name: function.parse().ok()? };
    parts.next().is_none().then_some((key, version.parse().ok()?))
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove a checkpoint");
        }
        _ => {}
    }
}

/// Why a function of this kind cannot have a checkpoint, before anything is tried.
fn never(deployed: &Deployed) -> Option<&'static str> {
    match (&deployed.spec.entry, deployed.spec.runtime) {
        _ if deployed.spec.checkpoint == CheckpointMode::Off => {
            Some("stratos.toml says checkpoint = \"off\"")
        }
        (Entry::Client { .. }, _) => {
            Some("it brings its own Runtime API client, which does not say when it is ready")
        }
        (_, Runtime::Native) => Some("a native program does not say when it is ready"),
        (Entry::Handler(_) | Entry::Start(_), Runtime::Node24 | Runtime::Python313) => None,
    }
}

impl Engine {
    /// How the next instance of a version is started: from its checkpoint, or afresh.
    ///
    /// # Errors
    /// When the function requires a checkpoint and there is none.
    pub(super) async fn origin(&self, deployed: &Arc<Deployed>) -> Result<Option<Origin>, ApiError> {
        // An older version has none, also when it would require one: it is asked for by name, or just being replaced.
        if !self.is_current(deployed) {
            return Ok(None);
        }
        let required = deployed.spec.checkpoint == CheckpointMode::Required;
        let of = self.prepare(deployed);
        let state = of.state.borrow().clone();
        let reason = match state {
            State::Ready(image) => {
                let held = lock(&of.held).take();
                if deployed.spec.held > 0 {
                    tokio::spawn(self.clone().refill(
                        Arc::clone(deployed),
                        Arc::clone(&of),
                        Arc::clone(&image),
                    ));
                }
                if let Some(held) = held {
                    return Ok(Some(Origin::Held(held)));
                }
                match self.template_of(deployed, &of, image).await {
                    Ok(template) => return Ok(Some(Origin::Template(template))),
                    Err(reason) => reason,
                }
            }
            State::Making if required => Arc::from("it is being made"),
            State::Making => return Ok(None),
            State::None(reason) => reason,
        };
        if !required {
            return Ok(None);
        }
        let message = format!("the function requires a checkpoint and has none: {reason}");
        Err(ApiError::new(ErrorCode::FunctionInitFailed, message)
            .hint("change what stands in the way, or write checkpoint = \"auto\" in stratos.toml"))
    }

    fn is_current(&self, deployed: &Deployed) -> bool {
        super::read(&self.0.current).get(&deployed.key).is_some_and(|now| now.version == deployed.version)
    }

    /// Looks at the images that an earlier run has left, so that their functions need not start afresh once more.
    pub(super) async fn find_all(self) {
        // The first requests come first.
        tokio::time::sleep(FIND_AFTER).await;
        for (key, version) in self.0.checkpoints.on_disk() {
            if self.0.stopping.load(Ordering::Acquire) {
                return;
            }
            match self.resolve(&key, None).await {
                Ok(deployed) if deployed.version == version => drop(self.prepare(&deployed)),
                Ok(_) => {}
                Err(error) => tracing::debug!(function = %key, %error, "a checkpoint is not looked at"),
            }
        }
    }

    /// Waits for the checkpoint of a function that requires one. To be called before memory is set aside for an instance:
    /// making the checkpoint takes as much.
    pub(super) async fn await_required(&self, deployed: &Arc<Deployed>) {
        if deployed.spec.checkpoint != CheckpointMode::Required || !self.is_current(deployed) {
            return;
        }
        let of = self.prepare(deployed);
        // The sender lives as long as `of`.
        drop(of.state.subscribe().wait_for(|state| !matches!(state, State::Making)).await);
    }

    /// Restores as many instances ahead as the function wants to be held.
    async fn refill(self, deployed: Arc<Deployed>, of: Arc<OfVersion>, image: Arc<Image>) {
        if of.refilling.swap(true, Ordering::AcqRel) {
            return;
        }
        // What wants one now comes first: it has the processor to itself.
        tokio::time::sleep(REFILL_AFTER).await;
        let wanted = || {
            let stopping = self.0.stopping.load(Ordering::Acquire);
            !stopping && self.0.checkpoints.is_current(&deployed, &of)
        };
        while lock(&of.held).len() < deployed.spec.held as usize && wanted() {
            let Ok(template) = self.template_of(&deployed, &of, Arc::clone(&image)).await else { break };
            let id = InstanceId::random();
            let (sandbox, plan) = (Arc::clone(&self.0.sandbox), deployed.plan(id));
            let restored = tokio::task::spawn_blocking(move || sandbox.restore(&plan, &template)).await;
            match restored {
                Ok(Ok(instance)) => lock(&of.held).add(Held::new(id, instance)),
                Ok(Err(error)) => {
                    tracing::warn!(function = %deployed.key, error = %chain(&error), "cannot restore an instance ahead");
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, "restoring an instance ahead failed");
                    break;
                }
            }
        }
        of.refilling.store(false, Ordering::Release);
    }

    async fn template_of(
        &self,
        deployed: &Arc<Deployed>,
        of: &Arc<OfVersion>,
        image: Arc<Image>,
    ) -> Result<Arc<Template>, Arc<str>> {
        let kept = |of: &OfVersion| {
            lock(&of.template).as_mut().map(|kept| {
                kept.used = Instant::now();
                Arc::clone(kept.template.get())
            })
        };
        if let Some(template) = kept(of) {
            return Ok(template);
        }
        let _alone = of.building.lock().await;
        // Somebody else may have built it meanwhile.
        if let Some(template) = kept(of) {
            return Ok(template);
        }
        let fits = image.pages_bytes() <= self.0.checkpoints.budget;
        if fits {
            self.0.checkpoints.make_room(image.pages_bytes());
        }
        let plan = deployed.plan(InstanceId::random());
        let pages = image.pages_bytes();
        let built = tokio::task::spawn_blocking(move || stratos_sandbox::template(&image, &plan)).await;
        let template = match built.map_err(|error| error.to_string()) {
            Ok(Ok(template)) => Arc::new(template),
            Ok(Err(error)) => return Err(self.template_failed(deployed, of, &error)),
            Err(error) => return Err(error.into()),
        };
        // One that there is no room for is made again for each start.
        if fits && self.0.checkpoints.is_current(deployed, of) {
            *lock(&of.template) = self.set_aside(pages).map(|memory| Kept {
                template: OffWorker::new(Arc::clone(&template)),
                used: Instant::now(),
                memory,
            });
        }
        Ok(template)
    }

    /// A restored instance has answered its first request: what it touched, later ones get ahead.
    pub(super) fn learn(&self, deployed: &Deployed, pid: u32) {
        let Some(of) = self.0.checkpoints.of(deployed) else { return };
        let template = lock(&of.template).as_ref().map(|kept| Arc::clone(kept.template.get()));
        of.crashes.store(0, Ordering::Release);
        let (Some(template), State::Ready(image)) = (template, of.state.borrow().clone()) else { return };
        if template.has_learned() {
            return;
        }
        let function = deployed.key.clone();
        tokio::task::spawn_blocking(move || {
            let learned = WorkingSet::of(pid.cast_signed(), image.checkpoint())
                .map_err(|error| error.to_string())
                .and_then(|set| template.learn(&set, image.checkpoint()).map_err(|error| chain(&error)));
            if let Err(error) = learned {
                tracing::debug!(%function, %error, "what an instance touches could not be learned");
            }
        });
    }

    /// A restored instance gave no answer to its first request. When each does, it may be the checkpoint's fault and not
    /// the function's: starts are fresh for a while then.
    pub(super) fn restored_crashed(&self, deployed: &Deployed) {
        let Some(of) = self.0.checkpoints.of(deployed) else { return };
        let required = deployed.spec.checkpoint == CheckpointMode::Required;
        if of.crashes.fetch_add(1, Ordering::AcqRel) + 1 >= MOST_CRASHES && !required {
            let reason =
                format!("{MOST_CRASHES} restored instances in a row gave no answer to their first request");
            self.give_up(deployed, &of, &reason, Some(RETRY));
        }
    }

    /// An instance could not be restored, or did not come back.
    pub(super) fn restore_failed(&self, deployed: &Deployed, error: &StartError) {
        let Some(of) = self.0.checkpoints.of(deployed) else { return };
        match error {
            StartError::Restore { source } => drop(self.template_failed(deployed, &of, source)),
            // Nothing about the checkpoint: no user id, no cgroup, no descriptor.
            error => {
                tracing::warn!(function = %deployed.key, error = %chain(error), "an instance was not restored");
            }
        }
    }

    /// The same of a restored process that ended, or did not become ready.
    pub(super) fn did_not_come_back(&self, deployed: &Deployed, error: &ApiError) {
        if let Some(of) = self.0.checkpoints.of(deployed) {
            self.give_up(deployed, &of, &chain(error), Some(RETRY));
        }
    }

    /// What fails because a process was killed, or the machine is busy or out of something, passes: only the template goes.
    fn template_failed(&self, deployed: &Deployed, of: &OfVersion, error: &TemplateError) -> Arc<str> {
        let reason = chain(error);
        let passes = match error {
            TemplateError::Ended
            | TemplateError::Late { .. }
            | TemplateError::Spawn(_)
            | TemplateError::System { .. } => true,
            TemplateError::Unsupported
            | TemplateError::Plan(_)
            | TemplateError::MappedFile { .. }
            | TemplateError::Call { .. } => false,
        };
        if passes {
            tracing::warn!(function = %deployed.key, %reason, "a template is made again");
            drop(lock(&of.template).take());
            return reason.into();
        }
        self.give_up(deployed, of, &reason, Some(RETRY))
    }

    /// There is no checkpoint of a version from now on; after `retry`, a cold start makes another.
    fn give_up(
        &self,
        deployed: &Deployed,
        of: &OfVersion,
        reason: &str,
        retry: Option<Duration>,
    ) -> Arc<str> {
        let reason: Arc<str> = reason.into();
        tracing::warn!(function = %deployed.key, version = deployed.version, %reason, "a checkpoint is not usable");
        platform_line(&self.log(&deployed.key), "-", None, format!("CHECKPOINT none: {reason}"));
        *lock(&of.retry_at) = retry.map(|retry| Instant::now() + retry);
        of.state.send_replace(State::None(Arc::clone(&reason)));
        drop(lock(&of.template).take());
        drop(std::mem::take(&mut *lock(&of.held)));
        remove(&self.0.checkpoints.path(&deployed.key, deployed.version));
        reason
    }

    /// The checkpoint of the current version: what is known of it, or what is on disk, or one that is made now.
    pub(super) fn prepare(&self, deployed: &Arc<Deployed>) -> Arc<OfVersion> {
        let state = match never(deployed) {
            _ if !self.0.checkpoints.on => State::None("this node makes none (--checkpoints off)".into()),
            Some(reason) => State::None(reason.into()),
            None => State::Making,
        };
        let of = {
            let mut versions = lock(&self.0.checkpoints.versions);
            if let Some(of) = versions.get(&deployed.key).filter(|of| of.is_for(deployed.version)) {
                return Arc::clone(of);
            }
            let of = Arc::new(OfVersion {
                version: deployed.version,
                state: watch::Sender::new(state),
                template: Mutex::default(),
                building: tokio::sync::Mutex::default(),
                held: Mutex::default(),
                retry_at: Mutex::default(),
                refilling: AtomicBool::new(false),
                crashes: AtomicU32::new(0),
            });
            drop(versions.insert(deployed.key.clone(), Arc::clone(&of)));
            of
        };
        self.0.checkpoints.remove_others(&deployed.key, Some(deployed.version));
        if matches!(*of.state.borrow(), State::Making) {
            tokio::spawn(self.clone().find_or_make(Arc::clone(deployed), Arc::clone(&of)));
        }
        of
    }

    async fn find_or_make(self, deployed: Arc<Deployed>, of: Arc<OfVersion>) {
        let path = self.0.checkpoints.path(&deployed.key, deployed.version);
        let found = {
            let (engine, deployed, path) = (self.clone(), Arc::clone(&deployed), path.clone());
            tokio::task::spawn_blocking(move || engine.usable(&deployed, &path)).await
        };
        let image = match found.ok().flatten() {
            Some(image) => Ok(image),
            None => self.make(&deployed, &path).await,
        };
        if !self.0.checkpoints.is_current(&deployed, &of) {
            // Another version is current by now.
            remove(&path);
            of.state.send_replace(State::None("only the current version has a checkpoint".into()));
            return;
        }
        match image {
            Ok(image) => {
                let image = Arc::new(image);
                of.state.send_replace(State::Ready(Arc::clone(&image)));
                if deployed.spec.held > 0 {
                    self.refill(deployed, of, image).await;
                }
            }
            Err(NotMade { reason, retry }) => {
                self.give_up(&deployed, &of, &reason, retry);
            }
        }
    }

    /// The image at a path, if it is whole and of this version and machine.
    fn usable(&self, deployed: &Deployed, path: &Path) -> Option<Image> {
        if !path.exists() {
            return None;
        }
        let image = match Image::open(path) {
            Ok(image) => image,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "a checkpoint on disk is made again");
                return None;
            }
        };
        let checkpoint = image.checkpoint();
        let differs = checkpoint.machine.differs_from(&self.0.checkpoints.machine);
        let differs = differs.or_else(|| {
            (checkpoint.subject != deployed.subject())
                .then(|| "it is of another function or layer".to_owned())
        });
        match differs {
            None => Some(image),
            Some(reason) => {
                tracing::info!(path = %path.display(), %reason, "a checkpoint on disk is made again");
                None
            }
        }
    }

    /// Starts an instance, lets it initialise, and dumps it.
    async fn make(&self, deployed: &Arc<Deployed>, path: &Path) -> Result<Image, NotMade> {
        let memory = self.wait_for_memory(deployed.spec.memory.bytes()).await;
        let no_memory = || NotMade::for_now("the node had no memory left to make one");
        let memory = memory.ok_or_else(no_memory)?;
        let turn = self.0.checkpoints.making.acquire().await;
        let _turn = turn.map_err(|_| NotMade::for_now("the node is stopping"))?;
        if self.0.stopping.load(Ordering::Acquire) {
            return Err(NotMade::for_now("the node is stopping"));
        }
        let made = self.make_with_memory(deployed, path).await;
        drop(memory);
        self.0.memory_freed.notify_waiters();
        made
    }

    /// Sets memory aside, if there is some that nobody was promised.
    fn set_aside(&self, bytes: u64) -> Option<Reserved> {
        let budget = self.0.config.memory_budget;
        let reserve = |used: u64| (used + bytes <= budget).then_some(used + bytes);
        let committed = &self.0.committed_bytes;
        committed.fetch_update(Ordering::AcqRel, Ordering::Acquire, reserve).ok()?;
        Some(Reserved { committed: Arc::clone(committed), bytes })
    }

    /// Sets memory aside without ending anybody for it.
    async fn wait_for_memory(&self, bytes: u64) -> Option<Reserved> {
        let deadline = Instant::now() + MEMORY_WAIT.0;
        loop {
            let reserved = self.set_aside(bytes);
            if reserved.is_some() || Instant::now() >= deadline {
                return reserved;
            }
            tokio::time::sleep(MEMORY_WAIT.1).await;
        }
    }

    async fn make_with_memory(&self, deployed: &Arc<Deployed>, path: &Path) -> Result<Image, NotMade> {
        let began = Instant::now();
        let log = self.log(&deployed.key);
        let parked = Parked::start(Arc::clone(&self.0.sandbox), deployed, Arc::clone(&log));
        // An initialisation that fails now may not fail the next time.
        let parked = parked.await.map_err(NotMade::for_now)?;
        let temporary = path.with_added_extension("new");
        let dump = {
            let (subject, temporary, path) = (deployed.subject(), temporary.clone(), path.to_owned());
            move || -> Result<Image, NotMade> {
                dump_parked(&parked, &subject, &temporary)?;
                let kept = fs::rename(&temporary, &path);
                kept.map_err(|error| NotMade::for_now(format!("it cannot be kept: {error}")))?;
                Image::open(&path).map_err(|error| NotMade::for_now(chain(&error)))
            }
        };
        let dumped = tokio::task::spawn_blocking(dump).await;
        let image = dumped.map_err(|error| NotMade::for_now(error.to_string()))??;
        let (mib, took) = (image.pages_bytes() as f64 / f64::from(1 << 20), began.elapsed().as_millis());
        platform_line(&log, "-", None, format!("CHECKPOINT ready: {mib:.1} MiB, made in {took} ms"));
        Ok(image)
    }
}

/// Why a checkpoint was not made, and when to try again, if ever.
struct NotMade {
    reason: String,
    retry: Option<Duration>,
}

impl NotMade {
    /// For something that may be different the next time.
    fn for_now(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), retry: Some(RETRY) }
    }
}

/// Dumps a process that has said that it parks, as soon as it does.
fn dump_parked(parked: &Parked, subject: &str, path: &Path) -> Result<(), NotMade> {
    let deadline = Instant::now() + PARK_WAIT;
    loop {
        match stratos_sandbox::checkpoint(parked.instance(), subject, path) {
            Ok(dumped) => {
                tracing::debug!(frozen = ?dumped.frozen, bytes = dumped.pages_bytes, "dumped");
                return Ok(());
            }
            Err(DumpError::NotParked { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            // What the program does at each start, it will do again.
            Err(DumpError::Refused(reason)) => return Err(NotMade { reason, retry: None }),
            Err(error) => return Err(NotMade::for_now(chain(&error))),
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
