//! The one thread that writes the queue: whatever waits is applied in one transaction, made durable by one commit,
//! and answered after it. A thousand requests that arrive together cost two fsyncs, not two thousand.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::db::Db;
use crate::error::StoreError;
use crate::queue::Change;

/// Told once the change is durable, or has failed. Runs on the writer thread: it must neither block nor panic.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Most changes in one transaction, and most payload bytes: they bound what one commit holds in memory.
const MAX_BATCH: usize = 1024;
const MAX_BATCH_BYTES: usize = 32 << 20;

struct Job {
    change: Change,
    done: Done,
}

/// Handle of the thread; dropping it finishes what waits and joins.
pub(crate) struct Writer {
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    db: Arc<Db>,
}

impl Writer {
    pub(crate) fn start(db: Arc<Db>) -> Result<Self, StoreError> {
        let (jobs, receiver) = channel();
        let thread = std::thread::Builder::new().name("store-writer".into()).spawn({
            let db = Arc::clone(&db);
            move || run(&db, &receiver)
        });
        let thread = thread.map_err(|e| StoreError::io("start the writer of", db.path(), e))?;
        Ok(Self { jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)), db })
    }

    pub(crate) fn submit(&self, change: Change, done: Done) {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = match jobs.as_ref() {
            Some(jobs) => jobs.send(Job { change, done }).err().map(|e| e.0.done),
            None => Some(done),
        };
        drop(jobs);
        if let Some(done) = refused {
            done(Err(StoreError::Closed { path: self.db.path().to_owned() }));
        }
    }

    /// Submits and waits.
    pub(crate) fn apply(&self, change: Change) -> Result<(), StoreError> {
        let (answer, result) = channel();
        self.submit(
            change,
            Box::new(move |result| {
                // The receiver is on this function's stack until it has the answer.
                answer.send(result).expect("the caller waits for this answer");
            }),
        );
        result.recv().unwrap_or_else(|_| Err(StoreError::Closed { path: self.db.path().to_owned() }))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A callback that owned the last handle of the store drops it on the writer thread itself.
        if let Some(thread) = thread.filter(|t| t.thread().id() != std::thread::current().id())
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("a callback panicked on the store's writer thread");
        }
    }
}

fn run(db: &Db, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut bytes = first.change.payload_len();
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES {
            let Ok(job) = jobs.try_recv() else { break };
            bytes += job.change.payload_len();
            batch.push(job);
        }
        commit(db, batch);
    }
}

fn commit(db: &Db, batch: Vec<Job>) {
    let outcome = db.write(|tx| {
        // A change that does not apply (its invocation is gone) fails alone; an error of the database fails all.
        batch.iter().map(|job| job.change.apply(tx)).collect::<Result<Vec<_>, _>>()
    });
    match outcome {
        Ok(results) => {
            for (job, result) in batch.into_iter().zip(results) {
                (job.done)(result);
            }
        }
        Err(error) => {
            for job in batch {
                (job.done)(Err(error.clone()));
            }
        }
    }
}
