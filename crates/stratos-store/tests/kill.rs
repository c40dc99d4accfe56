//! `kill -9` of a real process that commits in a loop, and a real full disk.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use stratos_store::{AsyncRequest, NewVersion, Store, StoreError};
use stratos_types::{Digest, FunctionKey, InvocationId, TenantId};

const DIR: &str = "STRATOS_STORE_TEST_DIR";

fn key() -> FunctionKey {
    FunctionKey::of_default_tenant("f".parse().unwrap())
}

/// Adopts an image and commits a version that refers to it.
fn deploy(store: &Store, text: &str) -> Result<u64, StoreError> {
    let temp = store.blobs().temp_dir()?;
    let file = temp.path().join("image");
    let full = |_| StoreError::DiskFull { path: file.clone() };
    std::fs::write(&file, text.repeat(1000)).map_err(full)?;
    let image = store.blobs().adopt(&file)?;
    let new = NewVersion {
        spec_toml: text.into(),
        image: image.digest(),
        image_size: image.size(),
        layer_name: "native".into(),
        layer_version: "1".into(),
        layer_digest: Digest::of(b""),
        dependencies: Vec::new(),
        deployed_at_ms: 0,
        artifact: None,
    };
    Ok(store.commit_version(&key(), new)?.version)
}

fn enqueue(store: &Store, payload: usize) -> Result<InvocationId, StoreError> {
    let request = AsyncRequest {
        id: InvocationId::random(),
        key: key(),
        version: None,
        payload: vec![1; payload],
        traceparent: String::new(),
        tracestate: None,
        client_context: None,
        accepted_at_ms: 0,
    };
    let (id, (answer, result)) = (request.id, channel());
    store.enqueue(request, Box::new(move |r| answer.send(r).unwrap()));
    result.recv().unwrap().map(|()| id)
}

/// Not a test of its own: the process that is killed. It prints what was acknowledged, after it was.
#[test]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = Store::open(dir.as_ref()).unwrap();
    let mut out = std::io::stdout();
    loop {
        let version = deploy(&store, "image").unwrap();
        writeln!(out, "ack version {version}").unwrap();
        let id = enqueue(&store, 5000).unwrap();
        writeln!(out, "ack queued {id}").unwrap();
        store.prune(&key(), 10).unwrap();
        store.blobs().collect_garbage().unwrap();
    }
}

fn spawn(dir: &std::path::Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).env(DIR, dir);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let (mut last, mut queued) = (0, Vec::new());
    for round in 0..8 {
        let mut child = spawn(dir.path());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Killed in the middle of work, at another place each round.
        let mut seen = 0;
        for line in lines {
            let line = line.unwrap();
            match line.rsplit_once("ack ").and_then(|(_, ack)| ack.split_once(' ')) {
                Some(("version", number)) => last = number.parse().unwrap(),
                Some((_, id)) => queued.push(id.parse::<InvocationId>().unwrap()),
                None => continue,
            }
            seen += 1;
            if seen == 5 + 3 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= 5 + 3 * round, "the child ended by itself");

        let store = Store::open(dir.path()).unwrap();
        let record = store.function(&key()).unwrap().unwrap();
        assert!((last..=last + 1).contains(&record.current), "{last}, then {}", record.current);
        for version in &record.versions {
            let image = std::fs::File::open(store.blobs().path(&version.image)).unwrap();
            assert_eq!(Digest::of_reader(image).unwrap(), version.image);
        }
        for id in &queued {
            let record = store.async_record(&TenantId::default(), *id).unwrap();
            assert_eq!(record.map(|r| r.request.payload.len()), Some(5000), "{id}");
        }
        last = record.current;
    }
}

/// A tmpfs of 8 MiB; `None` without the right to mount.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|s| s.success()).then(|| Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|s| s.success()) || std::thread::panicking(), "umount failed");
    }
}

#[test]
fn a_full_disk_is_named_and_outlived() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: mounting a tmpfs needs root");
        return;
    };
    let dir = disk.0.path().join("state");
    let store = Store::open(&dir).unwrap();
    let first = enqueue(&store, 1000).unwrap();
    assert_eq!(deploy(&store, "a").unwrap(), 1);

    // What else lies on the disk fills it; the store's own writes then meet its end.
    let ballast = disk.0.path().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}

    let mut stored = vec![first];
    let error = loop {
        match enqueue(&store, 300_000) {
            Ok(id) => stored.push(id),
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, StoreError::DiskFull { path } if path.starts_with(&dir)), "{error:?}");
    assert!(matches!(deploy(&store, "b"), Err(StoreError::DiskFull { .. })));
    // Reading goes on: functions that are there keep answering.
    for _ in 0..3 {
        assert_eq!(store.function(&key()).unwrap().unwrap().current, 1);
        assert_eq!(store.due(1, 100).unwrap().len(), stored.len());
        assert!(matches!(enqueue(&store, 300_000), Err(StoreError::DiskFull { .. })));
    }

    std::fs::remove_file(&ballast).unwrap();
    drop(file);
    // A child that another test forks just now holds the file until it executes.
    let free = || rustix::fs::statvfs(&dir).map(|fs| fs.f_bavail * fs.f_frsize).unwrap();
    while free() < 2 << 20 {
        std::thread::sleep(Duration::from_millis(1));
    }
    stored.push(enqueue(&store, 300_000).unwrap());
    assert_eq!(deploy(&store, "c").unwrap(), 2);
    drop(store);
    let store = Store::open(&dir).unwrap();
    for id in stored {
        assert!(store.async_record(&TenantId::default(), id).unwrap().is_some());
    }
}
