//! Cache warming: what first starts read from their images is remembered, and read ahead after the next boot.
//!
//! A first start after a boot waits for the disk, and on a StratOS disk for the check of every block. Which pages it
//! touched is seen afterwards in the page cache, and kept in the state by the image's digest. At the next start of the
//! node one thread reads them in again. It never makes a request wait: it takes the processor and the disk when nobody
//! else wants them, a piece at a time, and no more memory than is free anyway.

mod pages;
pub mod recording;
pub(crate) mod text;

use std::collections::HashSet;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use stratos_sandbox::Image;
use stratos_types::Digest;

use self::recording::{MAX_BYTES, Owner, Recording, WarmImage};
use crate::config::Memory;

/// The file in the state.
const FILE: &str = "warm.json";
/// Starts that wait to be looked at. More at once are of few images.
const QUEUE: usize = 64;
/// How long after a start its pages are looked at: the first request belongs to what is remembered.
const SETTLE: Duration = Duration::from_secs(2);
/// How long after the node's start it begins: its thread waits for nobody, but who checks and unpacks the blocks in the
/// kernel does not know that nobody waits for them.
const PAUSE: Duration = Duration::from_secs(1);
/// How long it sleeps with nothing to look at.
const LONG: Duration = Duration::from_secs(3600);
/// Share of the available memory that is read ahead at most.
const MEMORY_SHARE: u64 = 2;

/// An image that an instance was started from.
#[derive(Debug, Clone)]
pub struct Source {
    /// Whose it is.
    pub of: Owner,
    /// Its digest.
    pub digest: Digest,
    /// Where it is mounted.
    pub image: Arc<Image>,
}

/// Tells the warmer which images cold starts used. A handle.
#[derive(Debug, Clone)]
pub struct Starts(SyncSender<Message>);

#[derive(Debug)]
enum Message {
    Started(Source),
    Stop,
}

impl Starts {
    /// An instance was started from an image. Never waits; what is left out comes with another start.
    pub fn tell(&self, source: Source) {
        // Full or gone: neither is a reason to hold up a start.
        drop(self.0.try_send(Message::Started(source)));
    }
}

/// What [`Starts`] tell.
#[derive(Debug)]
pub struct Started {
    messages: Receiver<Message>,
    wake: SyncSender<Message>,
}

/// A way to tell the warmer of cold starts, and the warmer's end of it.
pub fn starts() -> (Starts, Started) {
    let (sender, messages) = sync_channel(QUEUE);
    (Starts(sender.clone()), Started { messages, wake: sender })
}

/// Finds an owner's present image, mounts it if need be and keeps it mounted.
pub type Find = Box<dyn Fn(&Owner) -> Option<Source> + Send>;

/// The thread that reads ahead and remembers.
#[derive(Debug)]
pub struct Warmer {
    stop: Arc<AtomicBool>,
    wake: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
}

impl Warmer {
    /// Begins to read ahead what is remembered in `state`, and then to remember what `started` tells.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn start(state: &Path, started: Started, find: Find) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let Started { messages, wake } = started;
        let mut work = Work { path: state.join(FILE), stop: Arc::clone(&stop), known: HashSet::new() };
        let thread = std::thread::Builder::new().name("warm".into()).spawn(move || {
            let mut recording = work.load();
            work.pause();
            work.replay(&recording, &find);
            drop(find);
            work.remember(&mut recording, &messages);
        })?;
        Ok(Self { stop, wake, thread: Some(thread) })
    }

    /// Ends it, wherever it is.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Release);
        // With a full queue it is awake.
        drop(self.wake.try_send(Message::Stop));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reads ahead has panicked");
        }
    }
}

struct Work {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    /// Images that need no further look in the life of this process.
    known: HashSet<Digest>,
}

impl Work {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Lets the first requests of a node that has just started have its processors for themselves.
    fn pause(&self) {
        let until = Instant::now() + PAUSE;
        while !self.stopped() && Instant::now() < until {
            std::thread::sleep(PAUSE / 10);
        }
    }

    /// What is remembered. A file that cannot be used is nothing lost: starts fill it again.
    fn load(&self) -> Recording {
        let read = || {
            let mut text = Vec::new();
            std::fs::File::open(&self.path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut text)?;
            Ok::<_, io::Error>(text)
        };
        match read() {
            Ok(text) => Recording::parse(&text).unwrap_or_else(|| {
                tracing::warn!(path = %self.path.display(), "what starts touched is not readable; it is learned anew");
                Recording::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Recording::default(),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot read what starts touched");
                Recording::default()
            }
        }
    }

    fn replay(&mut self, recording: &Recording, find: &Find) {
        let begun = Instant::now();
        // Found before this thread gives way: mounting takes locks that requests wait for.
        let found: Vec<(&WarmImage, Source)> = recording
            .images
            .iter()
            .take_while(|_| !self.stopped())
            .filter_map(|image| Some((image, find(&image.of)?)))
            .filter(|(image, source)| image.digest == source.digest)
            .collect();
        if let Err(error) = stratos_sys::process::give_way() {
            tracing::warn!(%error, "reading ahead would compete with requests; it is left out");
            return;
        }
        let mut budget = Memory::of_machine().map_or(0, |memory| memory.available / MEMORY_SHARE);
        let (mut bytes, mut names) = (0, Vec::new());
        for (image, source) in found {
            // What it reads now is no longer what a start would.
            self.known.insert(image.digest);
            let read = self.replay_image(image, &source, budget);
            budget -= read.min(budget);
            bytes += read;
            names.push(match &image.of {
                Owner::Layer(name) | Owner::Function(name) => name.as_str(),
            });
        }
        if !names.is_empty() {
            let (mib, took) = (bytes >> 20, begun.elapsed().as_millis());
            tracing::info!("read {mib} MiB ahead in {took} ms, of {}", names.join(", "));
        }
    }

    fn replay_image(&self, image: &WarmImage, source: &Source, most: u64) -> u64 {
        let mut done = 0;
        for file in &image.files {
            if done >= most || self.stopped() {
                break;
            }
            match pages::replay(source.image.mount_point(), file, most - done, &|| self.stopped()) {
                Ok(read) => done += read,
                // A damaged block, say. Whoever needs it is told then.
                Err(error) => tracing::warn!(path = file.path, %error, "cannot read a file ahead"),
            }
        }
        done
    }

    /// Looks at each image some time after its first start, until the node ends.
    fn remember(&mut self, recording: &mut Recording, messages: &Receiver<Message>) {
        let mut pending: Vec<(Instant, Source)> = Vec::new();
        while !self.stopped() {
            let next = pending.iter().map(|(due, _)| due.saturating_duration_since(Instant::now())).min();
            match messages.recv_timeout(next.unwrap_or(LONG)) {
                Ok(Message::Started(source)) => {
                    if self.known.insert(source.digest) {
                        pending.push((Instant::now() + SETTLE, source));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
            for (_, source) in pending.extract_if(.., |(due, _)| *due <= Instant::now()) {
                if recording.image(&source.digest).is_none() {
                    self.look(recording, &source);
                }
            }
        }
    }

    fn look(&self, recording: &mut Recording, source: &Source) {
        let files = match pages::record(source.image.mount_point(), &|| self.stopped()) {
            Ok(Some(files)) => files,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(of = ?source.of, %error, "cannot tell what a start touched");
                return;
            }
        };
        let image = WarmImage { digest: source.digest, of: source.of.clone(), files };
        tracing::debug!(of = ?image.of, bytes = image.bytes(), files = image.files.len(), "remembered a start");
        recording.add(image);
        if let Err(error) = self.save(recording) {
            tracing::warn!(path = %self.path.display(), %error, "cannot keep what a start touched");
        }
    }

    /// Whole or not at all. What is too long to be read again loses its oldest.
    fn save(&self, recording: &mut Recording) -> io::Result<()> {
        let mut text = serde_json::to_vec(recording)?;
        while text.len() > MAX_BYTES && recording.images.pop().is_some() {
            text = serde_json::to_vec(recording)?;
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        Ok(())
    }
}
