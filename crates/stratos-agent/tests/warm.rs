//! Reading ahead what a first start touched, on a real image.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stratos_agent::config::Memory;
use stratos_agent::layers::Layers;
use stratos_agent::warm::recording::{Owner, Recording};
use stratos_agent::warm::{Find, Warmer, starts};
use stratos_sandbox::{Sandbox, SandboxConfig};

/// Longest wait for the thread, which gives way to everything else on the machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn layers_dir() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = from("STRATOS_CACHE").unwrap_or_else(|| {
        let home = || from("HOME").unwrap_or_else(|| "/root".into()).join(".cache");
        from("XDG_CACHE_HOME").unwrap_or_else(home).join("stratos")
    });
    cache.join("layers")
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn resident(file: &Path) -> u64 {
    let file = fs::File::open(file).unwrap();
    let ranges = stratos_sys::pages::resident(&file, file.metadata().unwrap().len()).unwrap();
    ranges.iter().map(|range| range.end - range.start).sum()
}

#[test]
fn what_was_touched_is_remembered_and_read_ahead() {
    let test = "what_was_touched_is_remembered_and_read_ahead";
    let obstacle = match layers_dir().join("native.json").exists() {
        _ if !rustix::process::geteuid().is_root() => Some("not root"),
        false => Some("no layer `native` (build it with `stratos layer build`)"),
        true => None,
    };
    if let Some(obstacle) = obstacle {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} must run in CI: {obstacle}");
        eprintln!("skipped: {test}: {obstacle}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Arc::new(
        Sandbox::open(SandboxConfig {
            state_dir: dir.path().to_owned(),
            run_dir: dir.path().join("run"),
            require_limits: false,
            netns_pool: 1,
            cgroup: None,
            swap_percent: 0,
        })
        .unwrap(),
    );
    let open = || Arc::new(Layers::new(layers_dir(), Arc::clone(&sandbox)));
    let find = |layers: Arc<Layers>| -> Find {
        Box::new(move |owner| match owner {
            Owner::Layer(name) => layers.get(name).ok().map(|layer| layer.source()),
            Owner::Function(_) => None,
        })
    };
    let library = "usr/lib/x86_64-linux-gnu/libc.so.6";

    let layers = open();
    let layer = layers.get("native").unwrap();
    let path = layer.image.mount_point().join(library);
    fs::read(&path).unwrap();
    let touched = resident(&path);
    let (tell, told) = starts();
    let warmer = Warmer::start(dir.path(), told, find(Arc::clone(&layers))).unwrap();
    let file = dir.path().join("warm.json");
    let recorded = || fs::read(&file).ok().and_then(|text| Recording::parse(&text));
    tell.tell(layer.source());
    wait_for("a record", || recorded().is_some());
    warmer.stop();
    let recording = recorded().unwrap();
    let image = recording.image(&layer.manifest.image_digest).unwrap();
    assert_eq!(image.of, Owner::Layer("native".into()));
    assert!(image.files.iter().any(|file| file.path == library), "{image:?}");
    // Once its last user is gone the image is unmounted, and its pages with it.
    drop((layer, layers));

    let layers = open();
    let layer = layers.get("native").unwrap();
    let path = layer.image.mount_point().join(library);
    let before = resident(&path);
    assert!(before < touched / 2, "{before} of {touched} bytes are resident already");
    let (_tell, told) = starts();
    let warmer = Warmer::start(dir.path(), told, find(Arc::clone(&layers))).unwrap();
    wait_for("reading ahead", || resident(&path) >= touched);
    warmer.stop();

    // A large program is whole in memory before anybody starts it, where there is memory for that.
    let node = layers.get("node24").unwrap().image.mount_point().join("usr/bin/node");
    let expected =
        if Memory::of_machine().unwrap().total >= 4 << 30 { 80 << 20..u64::MAX } else { 0..8 << 20 };
    assert!(expected.contains(&resident(&node)), "{} bytes are resident", resident(&node));
}
