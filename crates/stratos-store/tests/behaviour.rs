//! What the store does, seen from outside.

use std::sync::mpsc::channel;

use stratos_store::{
    ArtifactCheckpoint, AsyncRequest, AsyncState, FromArtifact, NewVersion, Store, StoreError,
};
use stratos_types::{Digest, FunctionKey, InvocationId, TenantId};

fn key(tenant: &str, name: &str) -> FunctionKey {
    FunctionKey { tenant: tenant.parse().unwrap(), name: name.parse().unwrap() }
}

fn version(text: &str) -> NewVersion {
    NewVersion {
        spec_toml: text.into(),
        image: Digest::of(text.as_bytes()),
        image_size: text.len() as u64,
        layer_name: "node24".into(),
        layer_version: "24.19.0".into(),
        layer_digest: Digest::of(b"layer"),
        dependencies: vec![("express".into(), "5.1.0".into(), "sha512-x".into())],
        deployed_at_ms: 1_700_000_000_000,
        artifact: None,
    }
}

fn request(key: &FunctionKey, at: u64) -> AsyncRequest {
    AsyncRequest {
        id: InvocationId::random(),
        key: key.clone(),
        version: Some(3),
        payload: b"\x00payload\xff".to_vec(),
        traceparent: "00-1-2-01".into(),
        tracestate: Some("a=b".into()),
        client_context: None,
        accepted_at_ms: at,
    }
}

fn enqueue(store: &Store, request: &AsyncRequest) -> Result<(), StoreError> {
    let (answer, result) = channel();
    store.enqueue(request.clone(), Box::new(move |r| answer.send(r).unwrap()));
    result.recv().unwrap()
}

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

/// Versions as `1 2 [3]`, the current one in brackets.
fn versions(store: &Store, key: &FunctionKey) -> String {
    let Some(record) = store.function(key).unwrap() else { return "none".into() };
    let show = |v: u64| if v == record.current { format!("[{v}]") } else { v.to_string() };
    record.versions.iter().map(|v| show(v.version)).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_became_of_an_artifact_is_kept() {
    let (dir, store) = open();
    let f = key("default", "f");
    let dropped =
        ArtifactCheckpoint::Dropped { reason: "it is not signed".into(), hint: Some("sign it".into()) };
    let all = [
        None,
        Some(FromArtifact { signed_by: Some("0123".into()), checkpoint: ArtifactCheckpoint::Taken }),
        Some(FromArtifact { signed_by: None, checkpoint: dropped }),
        Some(FromArtifact { signed_by: None, checkpoint: ArtifactCheckpoint::None { reason: None } }),
    ];
    for artifact in &all {
        store.commit_version(&f, NewVersion { artifact: artifact.clone(), ..version("a") }).unwrap();
    }
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    let versions = store.function(&f).unwrap().unwrap().versions;
    assert!(versions.iter().map(|version| &version.artifact).eq(&all));
}

#[test]
fn version_numbers_are_never_used_twice() {
    let (_dir, store) = open();
    let f = key("default", "f");
    let commit = |text: &str| store.commit_version(&f, version(text)).unwrap().version;
    let table: [(&str, &dyn Fn() -> String, &str); 9] = [
        ("nothing", &|| String::new(), "none"),
        ("first deploy", &|| commit("a").to_string(), "[1]"),
        ("second deploy", &|| commit("b").to_string(), "1 [2]"),
        ("rollback", &|| format!("{:?}", store.set_current(&f, 1)), "[1] 2"),
        ("deploy after rollback", &|| commit("c").to_string(), "1 2 [3]"),
        ("rollback to the oldest", &|| format!("{:?}", store.set_current(&f, 1)), "[1] 2 3"),
        ("prune spares the current", &|| store.prune(&f, 1).unwrap().len().to_string(), "[1]"),
        ("remove", &|| store.remove(&f).unwrap().unwrap().versions.len().to_string(), "none"),
        ("deploy after removal", &|| commit("d").to_string(), "[4]"),
    ];
    for (what, run, left) in table {
        let said = run();
        assert_eq!(versions(&store, &f), left, "{what}: {said}");
    }
    assert_eq!(store.remove(&key("default", "g")).unwrap(), None);
    for missing in [store.set_current(&f, 9), store.set_current(&key("default", "g"), 1)] {
        assert!(matches!(missing, Err(StoreError::NotFound { .. })), "{missing:?}");
    }
    let record = store.function(&f).unwrap().unwrap();
    assert_eq!(record.current_version().dependencies, version("d").dependencies);
    assert_eq!(record.current_version().image, Digest::of(b"d"));
}

#[test]
fn tenants_do_not_see_each_other() {
    let (_dir, store) = open();
    for (tenant, name) in [("a", "x"), ("a", "y"), ("a-b", "x"), ("b", "x"), ("a0", "x")] {
        store.commit_version(&key(tenant, name), version("v")).unwrap();
    }
    let names = |tenant: &str| -> Vec<String> {
        let found = store.functions(&tenant.parse().unwrap()).unwrap();
        found.iter().map(|f| f.key.to_string()).collect()
    };
    assert_eq!(names("a"), ["a/x", "a/y"]);
    assert_eq!(names("a-b"), ["a-b/x"]);
    assert_eq!(names("c"), [""; 0]);
    let one = request(&key("a", "x"), 1);
    enqueue(&store, &one).unwrap();
    assert_eq!(store.async_record(&"b".parse().unwrap(), one.id).unwrap(), None);
    assert!(store.begin_attempt(&"b".parse().unwrap(), one.id).is_err());
}

/// As lists show it: without its payload.
fn listed(request: &AsyncRequest) -> AsyncRequest {
    AsyncRequest { payload: Vec::new(), ..request.clone() }
}

#[test]
fn an_invocation_lives_once() {
    let (_dir, store) = open();
    let (tenant, f) = (TenantId::default(), key("default", "f"));
    let (early, late) = (request(&f, 10), request(&f, 20));
    enqueue(&store, &late).unwrap();
    enqueue(&store, &early).unwrap();
    assert!(matches!(enqueue(&store, &early), Err(StoreError::Exists { .. })));
    let due = |now| store.due(now, 9).unwrap().into_iter().map(|r| r.request).collect::<Vec<_>>();
    assert_eq!((due(9), due(10)), (vec![], vec![listed(&early)]));
    assert_eq!(due(99), [listed(&early), listed(&late)]);
    let whole = store.async_record(&tenant, early.id).unwrap();
    assert_eq!(whole.map(|r| r.request), Some(early.clone()));
    assert_eq!(store.due(99, 1).unwrap().len(), 1);
    assert_eq!((store.next_due().unwrap(), store.queued().unwrap()), (Some(10), 2));

    let state = || store.async_record(&tenant, early.id).unwrap().map(|r| (r.state, r.attempts));
    store.begin_attempt(&tenant, early.id).unwrap();
    assert_eq!(state(), Some((AsyncState::Running, 1)));
    assert!(matches!(
        store.begin_attempt(&tenant, early.id),
        Err(StoreError::State { state: "running", .. })
    ));
    assert_eq!(due(99), [listed(&late)]);

    store.retry_at(&tenant, early.id, 50, "{\"e\":1}".into()).unwrap();
    assert_eq!(state(), Some((AsyncState::Queued { not_before_ms: 50 }, 1)));
    store.begin_attempt(&tenant, early.id).unwrap();
    store.bury(&tenant, early.id, "{\"e\":2}".into()).unwrap();
    assert_eq!(state(), Some((AsyncState::Dead, 2)));
    let dead = store.dead_letters(&f).unwrap();
    assert_eq!((dead.len(), dead[0].last_error.as_deref()), (1, Some("{\"e\":2}")));
    assert_eq!(dead[0].request, listed(&early));
    assert!(store.dead_letters(&key("default", "ff")).unwrap().is_empty());

    store.requeue(&tenant, early.id).unwrap();
    assert_eq!(state(), Some((AsyncState::Queued { not_before_ms: 10 }, 0)));
    assert!(store.dead_letters(&f).unwrap().is_empty());
    store.begin_attempt(&tenant, early.id).unwrap();
    store.succeed(&tenant, early.id).unwrap();
    assert_eq!(state(), Some((AsyncState::Succeeded, 1)));
    assert!(store.async_record(&tenant, early.id).unwrap().unwrap().request.payload.is_empty());
    store.forget(&tenant, early.id).unwrap();
    assert_eq!(state(), None);
    assert!(matches!(store.forget(&tenant, early.id), Err(StoreError::NotFound { .. })));
}

#[test]
fn what_was_running_is_queued_again() {
    let dir = tempfile::tempdir().unwrap();
    let (tenant, f) = (TenantId::default(), key("default", "f"));
    let one = request(&f, 10);
    {
        let store = Store::open(dir.path()).unwrap();
        enqueue(&store, &one).unwrap();
        store.begin_attempt(&tenant, one.id).unwrap();
    }
    let store = Store::open(dir.path()).unwrap();
    assert!(store.due(99, 9).unwrap().is_empty());
    assert_eq!((store.recover().unwrap(), store.recover().unwrap()), (1, 0));
    let due = store.due(99, 9).unwrap();
    assert_eq!((due[0].attempts, &due[0].request), (1, &listed(&one)));
    assert_eq!(store.async_record(&tenant, one.id).unwrap().map(|r| r.request), Some(one));
}

#[test]
fn old_successes_are_dropped() {
    let (_dir, store) = open();
    let (tenant, f) = (TenantId::default(), key("default", "f"));
    let requests: Vec<_> = (0..10_050).map(|i| request(&f, i)).collect();
    // All at once, each step after the other: the writer keeps the order in which changes arrive.
    let (answer, results) = channel();
    for one in &requests {
        let answer = answer.clone();
        store.enqueue(one.clone(), Box::new(move |r| answer.send(r).unwrap()));
    }
    drop(answer);
    assert_eq!(results.iter().filter(Result::is_ok).count(), requests.len());
    std::thread::scope(|scope| {
        for part in requests.chunks(requests.len() / 32) {
            let (store, tenant) = (&store, &tenant);
            scope.spawn(move || {
                for one in part {
                    store.begin_attempt(tenant, one.id).unwrap();
                    store.succeed(tenant, one.id).unwrap();
                }
            });
        }
    });
    let kept = requests.iter().filter(|r| store.async_record(&tenant, r.id).unwrap().is_some()).count();
    assert_eq!(kept, 10_000);
}

#[test]
fn a_second_agent_is_refused() {
    let (dir, store) = open();
    let error = Store::open(dir.path()).err().unwrap();
    assert!(matches!(&error, StoreError::InUse { path } if path == dir.path()), "{error}");
    drop(store);
    Store::open(dir.path()).unwrap();
}

#[test]
fn blobs_live_as_long_as_a_version_needs_them() {
    let (dir, store) = open();
    let f = key("default", "f");
    let adopt = |text: &str| {
        let temp = store.blobs().temp_dir().unwrap();
        let file = temp.path().join("image");
        std::fs::write(&file, text).unwrap();
        store.blobs().adopt(&file).unwrap()
    };
    let adopted = adopt("a");
    assert_eq!((adopted.digest(), adopted.size()), (Digest::of(b"a"), 1));
    let path = store.blobs().path(&adopted.digest());
    assert_eq!(store.blobs().collect_garbage().unwrap(), 0, "a pinned blob stays");
    store.commit_version(&f, version("a")).unwrap();
    drop(adopted);
    assert_eq!(store.blobs().collect_garbage().unwrap(), 0, "a referenced blob stays");
    drop(adopt("b"));
    assert_eq!(store.blobs().collect_garbage().unwrap(), 1, "an orphan goes");
    assert_eq!(std::fs::read(&path).unwrap(), b"a");

    let link = store.blobs().temp_dir().unwrap().keep();
    std::os::unix::fs::symlink("/etc/hostname", link.join("image")).unwrap();
    assert!(store.blobs().adopt(&link.join("image")).is_err(), "a link is no image");
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert!(!link.exists(), "what a killed agent was making is gone");
    store.remove(&f).unwrap();
    assert_eq!(store.blobs().collect_garbage().unwrap(), 1);
    assert!(!path.exists());
}

#[test]
fn a_damaged_state_file_is_named_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    {
        let store = Store::open(dir.path()).unwrap();
        for i in 0..20 {
            store.commit_version(&key("default", "f"), version(&format!("{i}").repeat(3000))).unwrap();
        }
    }
    let whole = std::fs::read(&path).unwrap();
    let mut scratched = whole.clone();
    // Past the header: the pages of the trees.
    for byte in &mut scratched[4096..] {
        *byte ^= 0x55;
    }
    let cases =
        [("noise", vec![7; 20_000]), ("half", whole[..whole.len() / 2].to_vec()), ("scratched", scratched)];
    for (what, bytes) in cases {
        std::fs::write(&path, bytes).unwrap();
        let error = Store::open(dir.path()).err().unwrap_or_else(|| panic!("{what}: opened"));
        assert!(matches!(error, StoreError::Corrupt { .. }), "{what}: {error:?}");
        let text = error.to_string();
        assert!(text.contains("state.redb") && text.contains("backup"), "{what}: {text}");
    }
    std::fs::write(&path, whole).unwrap();
    assert_eq!(versions(&Store::open(dir.path()).unwrap(), &key("default", "f")).matches(' ').count(), 19);
}
