//! Images of checkpoints on disk, one a function: how they are made, found again and removed.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stratos_artifact::KeyId;
use stratos_checkpoint::dump::DumpError;
use stratos_checkpoint::image::Image;
use stratos_checkpoint::machine::Machine;
use stratos_store::Store;
use stratos_types::{FunctionKey, Version};

use super::templates::Reserved;
use super::{Checkpoints, OFF, chain};
use crate::engine::checkpointable::park_point;
use crate::engine::deployed::Deployed;
use crate::engine::invoke::platform_line;
use crate::engine::log::FunctionLog;
use crate::engine::parked::{NotMade, Parked};
use crate::engine::{Engine, EngineConfig};

/// How long the memory for making a checkpoint is waited for, and how often it is looked for.
const MEMORY_WAIT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_millis(500));
/// How long a process may take from saying that it parks to parking.
const PARK_WAIT: Duration = Duration::from_secs(2);

impl Checkpoints {
    /// Opens the folder of checkpoints, and removes those that nobody will use.
    pub(in crate::engine) fn open(config: &EngineConfig, store: &Store) -> io::Result<Self> {
        // What is in it was in processes' memory: it is for root alone.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.checkpoint_dir)?;
        let checkpoints = Self {
            folder: config.checkpoint_dir.clone(),
            machine: Machine::current()?,
            on: config.checkpoints,
            budget: config.template_budget,
            trusted: config.trusted_keys.clone(),
            versions: Mutex::default(),
            placing: Mutex::default(),
            making: tokio::sync::Semaphore::new(1),
        };
        checkpoints.sweep(store)?;
        Ok(checkpoints)
    }

    /// Removes what is left of functions and versions that are not current any more, of checkpoints that were being made
    /// when the agent ended, and those that came with artifacts whose key is not trusted any more.
    fn sweep(&self, store: &Store) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(OnDisk::parse);
            let wanted = name.is_some_and(|image| {
                let current = match store.function(&image.key) {
                    Ok(record) => record.is_some_and(|record| record.current == image.version),
                    // Nothing is known; a checkpoint is only used after it was compared.
                    Err(_) => true,
                };
                current && image.signed_by.is_none_or(|key| self.trusted.is_trusted(key))
            });
            if !wanted {
                remove(&path);
            }
        }
        Ok(())
    }

    /// The images that there are.
    pub(super) fn on_disk(&self) -> Vec<OnDisk> {
        // A folder that cannot be read now is reported when something is written to it.
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| OnDisk::parse(entry.file_name().to_str()?)).collect()
    }

    pub(super) fn path(&self, image: &OnDisk) -> PathBuf {
        self.folder.join(image.to_string())
    }

    /// Removes the images that `unwanted` names.
    pub(super) fn remove_images(&self, unwanted: impl Fn(&OnDisk) -> bool) {
        self.on_disk().into_iter().filter(unwanted).for_each(|image| remove(&self.path(&image)));
    }

    /// Removes the images of a function but those of one version.
    pub(super) fn remove_others(&self, key: &FunctionKey, keep: Option<Version>) {
        self.remove_images(|image| image.key == *key && Some(image.version) != keep);
    }
}

/// An image on disk, which its file's name says: `TENANT.NAME.VERSION`, and `.KEY` when it came with an artifact that this
/// key has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OnDisk {
    pub(super) key: FunctionKey,
    pub(super) version: Version,
    pub(super) signed_by: Option<KeyId>,
}

impl OnDisk {
    /// The one that this node makes itself.
    pub(super) fn own(deployed: &Deployed) -> Self {
        Self { key: deployed.key.clone(), version: deployed.version, signed_by: None }
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('.');
        let (tenant, function, version) = (parts.next()?, parts.next()?, parts.next()?);
        let key = FunctionKey { tenant: tenant.parse().ok()?, name: function.parse().ok()? };
        let signed_by = parts.next().map(|id| id.parse().ok()).map_or(Some(None), |id| id.map(Some))?;
        parts.next().is_none().then_some(Self { key, version: version.parse().ok()?, signed_by })
    }
}

impl fmt::Display for OnDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.key.tenant, self.key.name, self.version)?;
        self.signed_by.map_or(Ok(()), |key| write!(f, ".{key}"))
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove a checkpoint");
        }
        _ => {}
    }
}

impl Engine {
    /// The image of this version that is on disk, if it is whole and of this version and machine: preferably the one that
    /// came with its artifact.
    pub(super) fn find(&self, deployed: &Deployed) -> Option<(Image, OnDisk)> {
        let mut images = self.0.checkpoints.on_disk();
        images.retain(|image| image.key == deployed.key && image.version == deployed.version);
        images.sort_by_key(|image| image.signed_by.is_none());
        images.into_iter().find_map(|on_disk| match self.usable(deployed, &on_disk) {
            Some(image) => Some((image, on_disk)),
            None => {
                remove(&self.0.checkpoints.path(&on_disk));
                None
            }
        })
    }

    fn usable(&self, deployed: &Deployed, on_disk: &OnDisk) -> Option<Image> {
        let path = self.0.checkpoints.path(on_disk);
        if let Some(key) = on_disk.signed_by
            && !self.0.checkpoints.trusted.is_trusted(key)
        {
            tracing::info!(path = %path.display(), %key, "a checkpoint is not used: its key is not trusted any more");
            return None;
        }
        let image = match Image::open(&path) {
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
    pub(super) async fn make(
        &self,
        deployed: &Arc<Deployed>,
        path: &Path,
        log: Arc<FunctionLog>,
    ) -> Result<Image, NotMade> {
        let memory = self.wait_for_memory(deployed.spec.memory.bytes()).await;
        let no_memory = || NotMade::for_now("the node had no memory left to make one");
        let memory = memory.ok_or_else(no_memory)?;
        let turn = self.0.checkpoints.making.acquire().await;
        let _turn = turn.map_err(|_| NotMade::for_now("the node is stopping"))?;
        if self.0.stopping.load(Ordering::Acquire) {
            return Err(NotMade::for_now("the node is stopping"));
        }
        let made = self.make_with_memory(deployed, path, log).await;
        drop(memory);
        self.0.memory_freed.notify_waiters();
        made
    }

    /// Makes the checkpoint of a function that is not deployed here.
    ///
    /// # Errors
    /// Why there can be none.
    pub(in crate::engine) async fn make_checkpoint_of(
        &self,
        deployed: &Arc<Deployed>,
        path: &Path,
        log: Arc<FunctionLog>,
    ) -> Result<(), String> {
        match park_point(&deployed.spec) {
            Err(reason) => Err(reason.to_owned()),
            Ok(_) if !self.0.checkpoints.on => Err(OFF.to_owned()),
            Ok(_) => self.make(deployed, path, log).await.map(drop).map_err(|not_made| not_made.reason),
        }
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

    async fn make_with_memory(
        &self,
        deployed: &Arc<Deployed>,
        path: &Path,
        log: Arc<FunctionLog>,
    ) -> Result<Image, NotMade> {
        let began = Instant::now();
        let (sandbox, hook_limit) = (Arc::clone(&self.0.sandbox), self.0.config.hook_limit);
        let parked = Parked::start(sandbox, deployed, Arc::clone(&log), hook_limit).await?;
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

/// Dumps a process that has said that it parks, as soon as it does.
fn dump_parked(parked: &Parked, subject: &str, path: &Path) -> Result<(), NotMade> {
    let deadline = Instant::now() + PARK_WAIT;
    loop {
        match parked.dump(subject, path) {
            Ok(dumped) => {
                tracing::debug!(frozen = ?dumped.frozen, bytes = dumped.pages_bytes, "dumped");
                return Ok(());
            }
            Err(DumpError::NotParked { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            // What the program does at each start, it will do again.
            Err(DumpError::Refused(reason)) => return Err(NotMade::for_good(reason)),
            Err(error) => return Err(NotMade::for_now(chain(&error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images_say_whose_they_are() {
        for name in ["default.hello.3", "default.a-b.12.0123456789abcdef"] {
            assert_eq!(OnDisk::parse(name).unwrap().to_string(), name);
        }
        for wrong in [
            "default.hello",
            "default.hello.x",
            "default.hello.1.new",
            "default.hello.1.0123456789abcdef.new",
            "",
        ] {
            assert_eq!(OnDisk::parse(wrong), None, "{wrong}");
        }
    }
}
