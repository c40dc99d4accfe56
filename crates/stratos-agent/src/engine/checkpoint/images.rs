//! Images of checkpoints on disk, one a function: how they are made, found again and removed.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stratos_checkpoint::dump::DumpError;
use stratos_checkpoint::image::Image;
use stratos_checkpoint::machine::Machine;
use stratos_store::Store;
use stratos_types::{FunctionKey, Version};

use super::templates::Reserved;
use super::{Checkpoints, chain};
use crate::engine::Engine;
use crate::engine::deployed::Deployed;
use crate::engine::invoke::platform_line;
use crate::engine::parked::{NotMade, Parked};

/// How long the memory for making a checkpoint is waited for, and how often it is looked for.
const MEMORY_WAIT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_millis(500));
/// How long a process may take from saying that it parks to parking.
const PARK_WAIT: Duration = Duration::from_secs(2);

impl Checkpoints {
    /// Opens the folder of checkpoints, and removes those that nobody will use.
    pub(in crate::engine) fn open(folder: &Path, on: bool, budget: u64, store: &Store) -> io::Result<Self> {
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
    pub(super) fn on_disk(&self) -> Vec<(FunctionKey, Version)> {
        // A folder that cannot be read now is reported when something is written to it.
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| parse_name(entry.file_name().to_str()?)).collect()
    }

    pub(super) fn path(&self, key: &FunctionKey, version: Version) -> PathBuf {
        self.folder.join(format!("{}.{}.{version}", key.tenant, key.name))
    }

    /// Removes the images of a function but that of one version.
    pub(super) fn remove_others(&self, key: &FunctionKey, keep: Option<Version>) {
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
}

/// `TENANT.NAME.VERSION`.
fn parse_name(name: &str) -> Option<(FunctionKey, Version)> {
    let mut parts = name.split('.');
    let (tenant, function, version) = (parts.next()?, parts.next()?, parts.next()?);
    let key = FunctionKey { tenant: tenant.parse().ok()?, name: function.parse().ok()? };
    parts.next().is_none().then_some((key, version.parse().ok()?))
}

pub(super) fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove a checkpoint");
        }
        _ => {}
    }
}

impl Engine {
    /// The image at a path, if it is whole and of this version and machine.
    pub(super) fn usable(&self, deployed: &Deployed, path: &Path) -> Option<Image> {
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
    pub(super) async fn make(&self, deployed: &Arc<Deployed>, path: &Path) -> Result<Image, NotMade> {
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
