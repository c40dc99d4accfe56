//! Checkpoints of versions: made in the background, kept on disk, turned into templates when instances are wanted.
//!
//! One checkpoint a function, that of its current version. A start never waits for one (unless the function requires it):
//! while there is none, or when it cannot be used, instances are started afresh, and the reason is shown.

mod images;
mod renew;
mod signed;
mod templates;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use stratos_api::{ApiError, CheckpointInfo, ErrorCode};
use stratos_artifact::KeyId;
use stratos_checkpoint::image::Image;
use stratos_checkpoint::machine::Machine;
use stratos_checkpoint::template::TemplateError;
use stratos_sandbox::StartError;
use stratos_types::{CheckpointMode, FunctionKey, Version};
use tokio::sync::watch;

use self::images::OnDisk;
pub use self::signed::TakenCheckpoint;
use self::templates::Kept;
use super::checkpointable::park_point;
use super::deployed::Deployed;
use super::held::{self, Origin};
use super::invoke::platform_line;
use super::parked::NotMade;
use super::{Engine, lock};
use crate::keys::TrustedKeys;

/// How long after the agent's start the images on disk are looked at.
const FIND_AFTER: Duration = Duration::from_secs(1);
/// Why a node makes and uses none.
const OFF: &str = "this node makes none (--checkpoints off)";
/// How long starts are fresh after a checkpoint did not work, or could not be made for a reason that may pass.
const RETRY: Duration = Duration::from_secs(300);
/// Restored instances that may fail at their first request, one after the other, before the checkpoint is given up.
const MOST_CRASHES: u32 = 3;

/// The checkpoints of a node.
pub(in crate::engine) struct Checkpoints {
    folder: PathBuf,
    machine: Machine,
    on: bool,
    /// Bytes that all templates may take together.
    budget: u64,
    trusted: TrustedKeys,
    versions: Mutex<HashMap<FunctionKey, Arc<OfVersion>>>,
    /// Held while the images of other versions are removed, and while one that came with an artifact is put in its place.
    placing: Mutex<()>,
    /// One is made at a time: it takes a processor from requests.
    making: tokio::sync::Semaphore,
}

/// The checkpoint of one version.
pub(in crate::engine) struct OfVersion {
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
    /// When another was last begun in its place.
    renewed_at: Mutex<Option<Instant>>,
    /// The key that signed the artifact which it came with.
    signed_by: OnceLock<KeyId>,
    /// The same of an earlier one of this version, of which there may be instances still.
    signed_before: Mutex<Option<KeyId>>,
    /// Restored instances that crashed at their first request, since one did not.
    crashes: AtomicU32,
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
    fn new(version: Version, state: State) -> Self {
        Self {
            version,
            state: watch::Sender::new(state),
            template: Mutex::default(),
            building: tokio::sync::Mutex::default(),
            held: Mutex::default(),
            retry_at: Mutex::default(),
            refilling: AtomicBool::new(false),
            renewed_at: Mutex::default(),
            signed_by: OnceLock::new(),
            signed_before: Mutex::default(),
            crashes: AtomicU32::new(0),
        }
    }

    /// It takes the place of another of the same version.
    fn in_place_of(self, earlier: &Self) -> Self {
        *lock(&self.signed_before) = earlier.signed_by.get().copied().or(*lock(&earlier.signed_before));
        self
    }

    /// Nothing is restored from it any more. Instances that were may know it for as long as they live.
    fn discard(&self) {
        let (held, template) = (std::mem::take(&mut *lock(&self.held)), lock(&self.template).take());
        drop((held, template));
    }

    /// Waits until it is known whether there is one.
    async fn settled(&self) {
        // The sender lives as long as this does.
        drop(self.state.subscribe().wait_for(|state| !matches!(state, State::Making)).await);
    }

    /// Whether it is what this version has, or was, and something else is to be tried by now.
    fn is_for(&self, version: Version) -> bool {
        let expired = lock(&self.retry_at).is_some_and(|at| at <= Instant::now());
        self.version == version && !expired
    }
}

impl Checkpoints {
    fn of(&self, deployed: &Deployed) -> Option<Arc<OfVersion>> {
        lock(&self.versions).get(&deployed.key).filter(|of| of.is_for(deployed.version)).cloned()
    }

    fn is_current(&self, deployed: &Deployed, of: &Arc<OfVersion>) -> bool {
        self.of(deployed).is_some_and(|now| Arc::ptr_eq(&now, of))
    }

    /// What is shown of a function's checkpoint.
    pub(in crate::engine) fn info(&self, key: &FunctionKey) -> CheckpointInfo {
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
                signed_by: of.signed_by.get().map(ToString::to_string),
            },
        }
    }

    /// Forgets a function's checkpoint: nothing of it is left in memory or on disk.
    pub(in crate::engine) fn forget(&self, key: &FunctionKey) {
        let removed = lock(&self.versions).remove(key);
        if let Some(of) = removed {
            of.discard();
        }
        self.remove_others(key, None);
    }
}

impl Engine {
    /// How the next instance of a version is started: from its checkpoint, or afresh.
    ///
    /// # Errors
    /// When the function requires a checkpoint and there is none.
    pub(in crate::engine) async fn origin(
        &self,
        deployed: &Arc<Deployed>,
    ) -> Result<Option<Origin>, ApiError> {
        let required = deployed.spec.checkpoint == CheckpointMode::Required;
        // An older version has none, also when it would require one: it is asked for by name, or just being replaced.
        let Some(mut of) = self.prepare_believed(deployed).await else { return Ok(None) };
        // Another may be on its way once more, whose predecessor was waited for.
        while required && matches!(*of.state.borrow(), State::Making) {
            of.settled().await;
            let Some(now) = self.prepare_believed(deployed).await else { return Ok(None) };
            of = now;
        }
        let state = of.state.borrow().clone();
        let reason = match state {
            State::Ready(image) => {
                self.renew_if_old(deployed, &of, &image);
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
    pub(in crate::engine) async fn find_all(self) {
        // The first requests come first.
        tokio::time::sleep(FIND_AFTER).await;
        for OnDisk { key, version, .. } in self.0.checkpoints.on_disk() {
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
    pub(in crate::engine) async fn await_required(&self, deployed: &Arc<Deployed>) {
        if deployed.spec.checkpoint == CheckpointMode::Required
            && let Some(of) = self.prepare_believed(deployed).await
        {
            of.settled().await;
        }
    }

    /// A restored instance gave no answer to its first request. When each does, it may be the checkpoint's fault and not
    /// the function's: starts are fresh for a while then.
    pub(in crate::engine) fn restored_crashed(
        &self,
        deployed: &Deployed,
        of: &Arc<OfVersion>,
        error: &ApiError,
    ) {
        let required = deployed.spec.checkpoint == CheckpointMode::Required;
        if of.crashes.fetch_add(1, Ordering::AcqRel) + 1 >= MOST_CRASHES && !required {
            let reason = format!(
                "{MOST_CRASHES} restored instances in a row gave no answer to their first request: {}",
                error.message
            );
            self.give_up(deployed, of, &reason, Some(RETRY));
        }
    }

    /// An instance could not be restored, or did not come back.
    pub(in crate::engine) fn restore_failed(
        &self,
        deployed: &Deployed,
        of: &Arc<OfVersion>,
        error: &StartError,
    ) {
        match error {
            StartError::Restore { source } => drop(self.template_failed(deployed, of, source)),
            // Nothing about the checkpoint: no user id, no cgroup, no descriptor.
            error => {
                tracing::warn!(function = %deployed.key, error = %chain(error), "an instance was not restored");
            }
        }
    }

    /// The same of a restored process that ended, or did not become ready.
    pub(in crate::engine) fn did_not_come_back(
        &self,
        deployed: &Deployed,
        of: &Arc<OfVersion>,
        error: &ApiError,
    ) {
        self.give_up(deployed, of, &chain(error), Some(RETRY));
    }

    /// The checkpoint that instances of a version are restored from now.
    pub(in crate::engine) fn checkpoint_now(&self, deployed: &Deployed) -> Option<Arc<OfVersion>> {
        self.0.checkpoints.of(deployed)
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
        *lock(&of.retry_at) = retry.map(|retry| Instant::now() + retry);
        of.state.send_replace(State::None(Arc::clone(&reason)));
        of.discard();
        // Another may be in its place by now, of which nothing is known.
        if self.0.checkpoints.of(deployed).is_some_and(|now| std::ptr::eq(&raw const *now, of)) {
            tracing::warn!(function = %deployed.key, version = deployed.version, %reason, "a checkpoint is not usable");
            platform_line(&self.log(&deployed.key), "-", None, format!("CHECKPOINT none: {reason}"));
            self.0
                .checkpoints
                .remove_images(|image| image.key == deployed.key && image.version == deployed.version);
        }
        reason
    }

    /// The checkpoint of the current version: what is known of it, or what is on disk, or one that is made now. None of a
    /// version that is not current, or not any more.
    pub(in crate::engine) fn prepare(&self, deployed: &Arc<Deployed>) -> Option<Arc<OfVersion>> {
        let state = match park_point(&deployed.spec) {
            _ if !self.0.checkpoints.on => State::None(OFF.into()),
            Err(reason) => State::None(reason.into()),
            Ok(_) => State::Making,
        };
        let of = {
            let mut versions = lock(&self.0.checkpoints.versions);
            if !self.is_current(deployed) {
                return None;
            }
            let earlier = versions.get(&deployed.key).filter(|of| of.version == deployed.version);
            if let Some(of) = earlier.filter(|of| of.is_for(deployed.version)) {
                return Some(Arc::clone(of));
            }
            let of = OfVersion::new(deployed.version, state);
            let of = Arc::new(match earlier {
                Some(earlier) => of.in_place_of(earlier),
                None => of,
            });
            if let Some(earlier) = versions.insert(deployed.key.clone(), Arc::clone(&of)) {
                earlier.discard();
            }
            of
        };
        self.remove_others(deployed);
        if matches!(*of.state.borrow(), State::Making) {
            tokio::spawn(self.clone().find_or_make(Arc::clone(deployed), Arc::clone(&of)));
        }
        Some(of)
    }

    /// Removes the images of other versions, unless one of these is current by now and has just got its own.
    fn remove_others(&self, deployed: &Deployed) {
        let _alone = lock(&self.0.checkpoints.placing);
        if self.is_current(deployed) {
            self.0.checkpoints.remove_others(&deployed.key, Some(deployed.version));
        }
    }

    async fn find_or_make(self, deployed: Arc<Deployed>, of: Arc<OfVersion>) {
        let found = {
            let (engine, deployed) = (self.clone(), Arc::clone(&deployed));
            tokio::task::spawn_blocking(move || engine.find(&deployed)).await
        };
        let own = OnDisk::own(&deployed);
        let (image, on_disk) = match found.ok().flatten() {
            Some((image, on_disk)) => (Ok(image), on_disk),
            None => {
                let (path, log) = (self.0.checkpoints.path(&own), self.log(&deployed.key));
                (self.make(&deployed, &path, log).await, own)
            }
        };
        if !self.0.checkpoints.is_current(&deployed, &of) {
            // Another version is current by now, or another image of this one is to be used.
            if self.0.checkpoints.of(&deployed).is_none() {
                self.0.checkpoints.remove_images(|image| *image == on_disk);
            }
            of.state.send_replace(State::None("only the current version has a checkpoint".into()));
            return;
        }
        match image {
            Ok(image) => {
                let image = Arc::new(image);
                if let Some(key) = on_disk.signed_by {
                    // Who removes the key from now on finds it here; who did before could not.
                    of.signed_by.get_or_init(|| key);
                    if !self.0.checkpoints.trusted.is_trusted(key) {
                        of.state.send_replace(State::None("its key is not trusted any more".into()));
                        return self.key_removed(key).await;
                    }
                    let message =
                        format!("CHECKPOINT ready: taken from the artifact, which the key {key} has signed");
                    platform_line(&self.log(&deployed.key), "-", None, message);
                }
                of.state.send_replace(State::Ready(Arc::clone(&image)));
                if deployed.spec.held > 0 {
                    self.refill(deployed, of, image).await;
                }
            }
            Err(NotMade { reason, passes }) => {
                self.give_up(&deployed, &of, &reason, passes.then_some(RETRY));
            }
        }
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
