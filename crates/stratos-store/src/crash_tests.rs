//! Loss of power at every moment: a disk that forgets what was not synced, frozen at each sync in turn.
//!
//! Whatever the disk kept of the unsynced writes (nothing, everything, every other one), the state read afterwards
//! is the one before the interrupted step or the one after it.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;
use stratos_types::{Digest, FunctionKey, InvocationId, TenantId};

use crate::db::Db;
use crate::record::{AsyncRequest, NewVersion};
use crate::store::{Store, builder};

/// What survives of the writes that no sync has covered.
#[derive(Debug, Clone, Copy)]
enum Survives {
    Nothing,
    EveryOther,
    Everything,
}

#[derive(Debug)]
enum Change {
    Length(u64),
    Write(u64, Vec<u8>),
}

#[derive(Debug, Default)]
struct Disk {
    /// What programs read.
    seen: Vec<u8>,
    /// What the platters hold.
    durable: Vec<u8>,
    /// What was done since the last sync.
    pending: Vec<Change>,
    syncs: usize,
    /// The sync at which the power goes.
    freeze_at: Option<usize>,
    frozen: bool,
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => bytes.resize(*length as usize, 0),
        Change::Write(offset, data) => {
            let (start, end) = (*offset as usize, *offset as usize + data.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(data);
        }
    }
}

impl Disk {
    /// The disk as it is found after the power is back.
    fn after_crash(&self, survives: Survives) -> Self {
        let mut durable = self.durable.clone();
        for (i, change) in self.pending.iter().enumerate() {
            let kept = match (survives, change) {
                (Survives::Nothing, _) => false,
                (Survives::Everything, _) | (Survives::EveryOther, Change::Length(_)) => true,
                (Survives::EveryOther, Change::Write(..)) => i % 2 == 0,
            };
            if kept {
                apply(&mut durable, change);
            }
        }
        Self { seen: durable.clone(), durable, ..Self::default() }
    }
}

#[derive(Debug, Clone)]
struct Backend(Arc<Mutex<Disk>>);

impl Backend {
    fn with<T>(&self, run: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.0.lock().unwrap();
        match disk.frozen {
            true => Err(io::Error::other("the power is off")),
            false => run(&mut disk),
        }
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.with(|disk| {
            apply(&mut disk.seen, &change);
            disk.pending.push(change);
            Ok(())
        })
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.with(|disk| Ok(disk.seen.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|disk| {
            let start = offset as usize;
            let bytes = disk.seen.get(start..start + out.len());
            out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.change(Change::Length(length))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Change::Write(offset, data.to_vec()))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|disk| {
            if disk.freeze_at == Some(disk.syncs) {
                disk.frozen = true;
                return Err(io::Error::other("the power went"));
            }
            disk.syncs += 1;
            let pending = std::mem::take(&mut disk.pending);
            for change in &pending {
                apply(&mut disk.durable, change);
            }
            Ok(())
        })
    }
}

fn open(disk: &Arc<Mutex<Disk>>, dir: &tempfile::TempDir) -> Result<Store, crate::StoreError> {
    let backend = Backend(Arc::clone(disk));
    let path = dir.path().join("state.redb");
    let db = Db::open(&path, Box::new(move || builder().create_with_backend(backend.clone())))?;
    Store::assemble(dir.path(), Arc::new(db), File::open(dir.path()).unwrap())
}

const IDS: [&str; 2] = ["00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"];

fn key() -> FunctionKey {
    FunctionKey::of_default_tenant("f".parse().unwrap())
}

fn version(text: &str) -> NewVersion {
    NewVersion {
        spec_toml: text.repeat(2000),
        image: Digest::of(text.as_bytes()),
        image_size: 1,
        layer_name: "native".into(),
        layer_version: "1".into(),
        layer_digest: Digest::of(b""),
        dependencies: Vec::new(),
        deployed_at_ms: 1,
        artifact: None,
    }
}

fn request(id: &str) -> AsyncRequest {
    AsyncRequest {
        id: id.parse().unwrap(),
        key: key(),
        version: None,
        payload: vec![7; 20_000],
        traceparent: String::new(),
        tracestate: None,
        client_context: None,
        accepted_at_ms: 5,
    }
}

fn enqueue(store: &Store, id: &str) -> Result<(), crate::StoreError> {
    let (answer, result) = std::sync::mpsc::channel();
    store.enqueue(request(id), Box::new(move |r| answer.send(r).unwrap()));
    result.recv().unwrap()
}

type Step = fn(&Store) -> Result<(), crate::StoreError>;

/// Everything that a store does to its file, one commit a step.
const STEPS: [Step; 11] = [
    |s| s.commit_version(&key(), version("a")).map(drop),
    |s| enqueue(s, IDS[0]),
    |s| s.commit_version(&key(), version("b")).map(drop),
    |s| s.begin_attempt(&TenantId::default(), id(0)),
    |s| s.set_current(&key(), 1),
    |s| s.retry_at(&TenantId::default(), id(0), 9, "{}".into()),
    |s| enqueue(s, IDS[1]),
    |s| s.bury(&TenantId::default(), id(0), "{}".into()),
    |s| s.begin_attempt(&TenantId::default(), id(1)),
    |s| s.succeed(&TenantId::default(), id(1)),
    |s| s.remove(&key()).map(drop),
];

fn id(which: usize) -> InvocationId {
    IDS[which].parse().unwrap()
}

/// All that can be read.
fn state(store: &Store) -> String {
    let tenant = TenantId::default();
    let records = [0, 1].map(|i| store.async_record(&tenant, id(i)).unwrap());
    let dead: Vec<_> = store.dead_letters(&key()).unwrap().into_iter().map(|r| r.request.id).collect();
    let due: Vec<_> = store.due(u64::MAX, 9).unwrap().into_iter().map(|r| r.request.id).collect();
    format!("{:?} {records:?} {dead:?} {due:?}", store.functions(&tenant).unwrap())
}

#[test]
fn power_loss_leaves_the_old_or_the_new_state() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&Arc::default(), &dir).unwrap();
    let mut states = vec![state(&store)];
    for step in STEPS {
        step(&store).unwrap();
        states.push(state(&store));
    }
    drop(store);
    // Every step must be visible, or the comparison below would prove nothing.
    assert!(states.windows(2).all(|pair| pair[0] != pair[1]));

    let mut crashes = 0;
    for freeze_at in 0.. {
        let disk = Arc::new(Mutex::new(Disk::default()));
        // An empty database comes into being under another name, so that its making cannot be interrupted.
        drop(builder().create_with_backend(Backend(Arc::clone(&disk))).unwrap());
        {
            let mut disk = disk.lock().unwrap();
            disk.freeze_at = Some(disk.syncs + freeze_at);
        }
        let dir = tempfile::tempdir().unwrap();
        let done = match open(&disk, &dir) {
            // The power went before the state was there at all.
            Err(_) => 0,
            Ok(store) => STEPS.iter().take_while(|step| step(&store).is_ok()).count(),
        };
        for survives in [Survives::Nothing, Survives::EveryOther, Survives::Everything] {
            let found = Arc::new(Mutex::new(disk.lock().unwrap().after_crash(survives)));
            let found = state(&open(&found, &dir).unwrap());
            let allowed = &states[done..states.len().min(done + 2)];
            assert!(allowed.contains(&found), "sync {freeze_at}, {survives:?}, after step {done}: {found}");
        }
        if !disk.lock().unwrap().frozen {
            break;
        }
        crashes += 1;
    }
    assert!(crashes >= STEPS.len(), "only {crashes} syncs were seen");
}
