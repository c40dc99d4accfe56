//! Deploys with a real sandbox, real layers and real package indexes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use stratos_agent::deploy::{BuildConfig, DeployError, Deployer, Trust};
use stratos_agent::keys::TrustedKeys;
use stratos_agent::layers::Layers;
use stratos_api::{ApiError, DeployEvent, ErrorCode};
use stratos_checkpoint::machine::Machine;
use stratos_sandbox::seccomp::SeccompFilter;
use stratos_sandbox::{Bind, Image, JobPlan, Sandbox, SandboxConfig};
use stratos_store::{Store, VersionRecord};
use stratos_types::{Entry, FunctionKey, FunctionSpec, NodeEnvironment, TenantId};

/// A node's parts without its servers.
struct Rig {
    deployer: Deployer,
    layers: Arc<Layers>,
    store: Store,
    sandbox: Arc<Sandbox>,
    state: PathBuf,
    /// What the gateways of builds run on.
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

fn layers_dir() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = from("STRATOS_CACHE").unwrap_or_else(|| {
        let home = || from("HOME").unwrap_or_else(|| "/root".into()).join(".cache");
        from("XDG_CACHE_HOME").unwrap_or_else(home).join("stratos")
    });
    cache.join("layers")
}

/// A rig, or `None` after saying why `test` is skipped. With `CI=true` nothing is skipped. `tmpfs_mib` puts the state
/// on a disk of that size.
fn rig(test: &str, tmpfs_mib: Option<u32>) -> Option<Rig> {
    let missing = ["tools", "node24", "python3.13", "native"]
        .into_iter()
        .find(|name| !layers_dir().join(format!("{name}.json")).exists());
    let obstacle = match missing {
        _ if !rustix::process::geteuid().is_root() => Some("not root".to_owned()),
        Some(layer) => Some(format!("no layer `{layer}` (build it with `stratos layer build`)")),
        None => None,
    };
    if let Some(obstacle) = obstacle {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} must run in CI: {obstacle}");
        eprintln!("skipped: {test}: {obstacle}");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    let config = SandboxConfig {
        state_dir: state.clone(),
        run_dir: dir.path().join("run"),
        require_limits: false,
        netns_pool: 1,
        cgroup: None,
        swap_percent: 0,
    };
    let sandbox = Arc::new(Sandbox::open(config).unwrap());
    if let Some(size) = tmpfs_mib {
        // In the sandbox's own mount namespace, so it goes with this test.
        let options = format!("size={size}m");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&state).status();
        assert!(mount.unwrap().success());
    }
    let store = Store::open(&state).unwrap();
    let layers = Arc::new(Layers::new(layers_dir(), Arc::clone(&sandbox)));
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let build = BuildConfig::of_host(std::env::vars(), home.as_deref());
    let keys = TrustedKeys::new(state.join("trusted-keys"));
    let trust = Trust {
        keys,
        machine: Machine::current().unwrap(),
        restores: true,
        environment: NodeEnvironment::default(),
    };
    let deployer =
        Deployer::new(store.clone(), Arc::clone(&sandbox), Arc::clone(&layers), build, trust).unwrap();
    // Made here: its threads are in the sandbox's mount namespace, as the agent's are.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    Some(Rig { deployer, layers, store, sandbox, state, runtime, dir })
}

type Deployed = Result<(FunctionSpec, VersionRecord), DeployError>;

impl Rig {
    /// Deploys files, each with its content; a name that starts with `*` is an executable.
    fn deploy(&self, files: &[(&str, &[u8])]) -> (Deployed, Vec<String>) {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(if name.starts_with('*') { 0o755 } else { 0o600 });
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name.trim_start_matches('*'), *content).unwrap();
        }
        let archive = self.dir.path().join("package.tar");
        fs::write(&archive, tar.into_inner().unwrap()).unwrap();
        let mut said = Vec::new();
        let _entered = self.runtime.enter();
        let deployed = self.deployer.deploy(&TenantId::default(), None, &archive, &mut |event| match event {
            DeployEvent::Step { step } => said.push(format!("# {step}")),
            DeployEvent::Output { line } => said.push(line),
            other => panic!("{other:?} is the caller's to say"),
        });
        (deployed.map(|deployment| (deployment.spec, deployment.record)), said)
    }

    fn deployed(&self, files: &[(&str, &[u8])]) -> (FunctionSpec, VersionRecord, Vec<String>) {
        match self.deploy(files) {
            (Ok((spec, record)), said) => (spec, record, said),
            (Err(error), said) => panic!("{:?}\n{}", ApiError::from(error), said.join("\n")),
        }
    }

    fn image(&self, record: &VersionRecord) -> Arc<Image> {
        self.sandbox.mount_image(&self.store.blobs().path(&record.image)).unwrap()
    }

    /// What a program of the layer prints with the deployed image at its place.
    fn run(&self, record: &VersionRecord, argv: &[&str]) -> String {
        let image = self.image(record);
        let plan = JobPlan {
            id: "check".into(),
            layer: Arc::clone(&self.layers.get(&record.layer_name).unwrap().image),
            binds: vec![Bind {
                source: image.mount_point().to_owned(),
                target: "/var/task".into(),
                writable: false,
            }],
            argv: argv.iter().map(|a| std::ffi::CString::new(*a).unwrap()).collect(),
            env: Vec::new(),
            cwd: "/var/task".into(),
            memory_bytes: 512 << 20,
            timeout: Duration::from_secs(60),
            seccomp: Arc::new(SeccompFilter::for_runtime(&record.layer_name).unwrap()),
            egress: None,
            output_limit: 4096,
            on_output: None,
        };
        String::from_utf8(self.sandbox.run_job(&plan).unwrap().output).unwrap()
    }

    /// Nothing is left of what was not deployed.
    fn assert_clean(&self, blobs: usize) {
        let list = |dir: &Path| -> Vec<_> {
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
        };
        let dir = self.state.join("blobs");
        assert_eq!(list(&dir.join("tmp")), [""; 0], "temporary files are left");
        assert_eq!(list(&dir).len(), blobs + 1, "{:?}", list(&dir));
    }
}

fn by_name(record: &VersionRecord) -> BTreeMap<&str, (&str, &str)> {
    record.dependencies.iter().map(|(n, v, d)| (n.as_str(), (v.as_str(), d.as_str()))).collect()
}

fn executable() -> Vec<u8> {
    fs::read(fs::canonicalize("/bin/true").unwrap()).unwrap()
}

#[test]
fn npm_installs_what_the_lock_says() {
    let Some(rig) = rig("npm_installs_what_the_lock_says", None) else { return };
    let fixture = |name: &str| fs::read(Path::new("tests/fixtures/express").join(name)).unwrap();
    let (package, lock, server) =
        (fixture("package.json"), fixture("package-lock.json"), fixture("server.js"));
    let files: [(&str, &[u8]); 3] =
        [("package.json", &package), ("package-lock.json", &lock), ("server.js", &server)];
    let (spec, record, said) = rig.deployed(&files);
    assert_eq!(spec.entry, Entry::Start(vec!["node".into(), "server.js".into()]));
    assert_eq!(
        (spec.name.as_str(), record.version, record.layer_name.as_str()),
        ("express-app", 1, "node24")
    );
    assert!(!said.iter().any(|line| line.contains("WARNING")), "{said:?}");
    let locked: serde_json::Value = serde_json::from_slice(&lock).unwrap();
    let express = &locked["packages"]["node_modules/express"];
    let expected = (express["version"].as_str().unwrap(), express["integrity"].as_str().unwrap());
    assert_eq!(by_name(&record)["express"], expected);
    assert!(record.dependencies.len() > 20);
    let code = "process.stdout.write(typeof require('/var/task/node_modules/express')())";
    assert_eq!(rig.run(&record, &["/usr/bin/node", "-e", code]), "function");
    rig.assert_clean(1);
    let (_, second, _) = rig.deployed(&files);
    assert_eq!(second.image, record.image, "the same package gives the same image");
    let refused = [
        ("package.json", package.as_slice()),
        ("x.js", b"" as &[u8]),
        ("stratos.toml", b"handler = \"i.h\""),
    ];
    let (error, said) = rig.deploy(&refused);
    assert!(matches!(error, Err(DeployError::Spec(_))), "{said:?}");
    assert!(!said.iter().any(|line| line.contains("npm")), "npm cannot bring the handler: {said:?}");

    // Without the lock it works, and says aloud what is missing.
    let (_, third, said) = rig.deployed(&[("package.json", &package), ("server.js", &server)]);
    assert!(said.iter().any(|line| line.contains("no package-lock.json")), "{said:?}");
    assert!(by_name(&third)["express"].1.starts_with("sha512-"));

    // A lock that does not fit is the author's to repair.
    let other = String::from_utf8(package.clone()).unwrap().replace("^5.1.0", "^4.0.0");
    let (error, said) = rig.deploy(&[
        ("package.json", other.as_bytes()),
        ("package-lock.json", &lock),
        ("server.js", &server),
    ]);
    let error = ApiError::from(error.unwrap_err());
    assert_eq!((error.code, error.file.as_deref()), (ErrorCode::DependencyFailed, Some("package-lock.json")));
    assert!(error.hint.unwrap().contains("npm install"), "{said:?}");
}

#[test]
fn pip_installs_with_bytecode() {
    let Some(rig) = rig("pip_installs_with_bytecode", None) else { return };
    let app = b"from flask import Flask\ndef handler(event, context):\n    return 1\n";
    let files: [(&str, &[u8]); 3] =
        [("stratos.toml", b"name = \"flask-app\""), ("requirements.txt", b"flask==3.1.*\n"), ("app.py", app)];
    let (spec, record, _) = rig.deployed(&files);
    assert_eq!(spec.entry, Entry::Handler("app.handler".into()));
    let packages = by_name(&record);
    let flask = packages.iter().find(|(name, _)| name.eq_ignore_ascii_case("flask")).unwrap().1;
    assert!(flask.0.starts_with("3.1.") && flask.1.starts_with("sha256:"), "{flask:?}");
    let (_, second, _) = rig.deployed(&files);
    assert_eq!(second.image, record.image, "the same package gives the same image");
    let image = rig.image(&record);
    for compiled in
        ["__pycache__/app.cpython-313.pyc", ".stratos/python/flask/__pycache__/app.cpython-313.pyc"]
    {
        let bytes = fs::read(image.mount_point().join(compiled)).unwrap();
        assert_eq!(bytes[4..8], [1, 0, 0, 0], "{compiled} is hash-based and unchecked");
    }
    assert!(!image.mount_point().join(".stratos/report.json").exists());
    let code = "import sys; sys.path[:0] = ['/var/task', '/var/task/.stratos/python']; import app, flask; \
                print(app.handler(0, 0), flask.__cached__[:9])";
    assert_eq!(rig.run(&record, &["/usr/bin/python3.13", "-I", "-c", code]).trim(), "1 /var/task");
    drop(image);

    let none: [(&str, &[u8]); 3] =
        [("stratos.toml", b"name = \"x\""), ("requirements.txt", b"flask==99999\n"), ("app.py", app)];
    let (error, said) = rig.deploy(&none);
    let error = ApiError::from(error.unwrap_err());
    assert_eq!((error.code, error.file.as_deref()), (ErrorCode::DependencyFailed, Some("requirements.txt")));
    assert!(error.hint.as_deref().unwrap().contains("no version fits"), "{error:?} {said:?}");
    assert!(error.causes.iter().any(|line| line.contains("flask==99999")), "{error:?}");
    rig.assert_clean(1);
}

#[test]
fn versions_beyond_ten_go_with_their_images() {
    let Some(rig) = rig("versions_beyond_ten_go_with_their_images", None) else { return };
    let program = executable();
    let deploy = |text: &str| {
        let name: (&str, &[u8]) = ("stratos.toml", b"name = \"native\"");
        rig.deployed(&[name, ("*bootstrap", &program), ("data/text", text.as_bytes())])
    };
    let (spec, first, _) = deploy("0");
    assert_eq!(spec.entry, Entry::Handler("bootstrap".into()));
    let image = rig.image(&first);
    use std::os::unix::fs::MetadataExt as _;
    let file = |name: &str| fs::metadata(image.mount_point().join(name)).unwrap();
    assert_eq!((file("bootstrap").mode() & 0o7777, file("data/text").mode() & 0o7777), (0o755, 0o644));
    assert_eq!((file("bootstrap").uid(), file("data").mode() & 0o7777), (0, 0o755));
    drop(image);
    for i in 1..12 {
        assert_eq!(deploy(&i.to_string()).1.version, i + 1);
    }
    let key = FunctionKey::of_default_tenant(spec.name);
    let kept: Vec<_> =
        rig.store.function(&key).unwrap().unwrap().versions.iter().map(|v| v.version).collect();
    assert_eq!(kept, (3..=12).collect::<Vec<_>>());
    rig.assert_clean(10);
}

#[test]
fn what_is_wrong_changes_nothing_and_is_named() {
    let Some(rig) = rig("what_is_wrong_changes_nothing_and_is_named", None) else { return };
    let program = executable();
    let mut foreign = program.clone();
    foreign[18..20].copy_from_slice(&if cfg!(target_arch = "x86_64") { 183u16 } else { 62 }.to_le_bytes());
    type Files<'a> = &'a [(&'a str, &'a [u8])];
    let toml = |text: &'static str| ("stratos.toml", text.as_bytes());
    let cases: [(Files<'_>, &str, &str, &str); 12] = [
        (
            &[
                ("package.json", br#"{"dependencies":{"a":"1.0.0"}}"#),
                (".npmrc", b"registry=https://host.example/${NPM_TOKEN}"),
                toml("name = \"a\""),
                ("index.mjs", b"export const handler = 1"),
            ],
            ".npmrc",
            "line 1",
            "variable",
        ),
        (&[("folder/index.mjs", b"export const handler = 1")], "stratos.toml", "-", "no file at the top"),
        (
            &[
                toml("name = \"a\""),
                ("requirements.txt", b"flask\n-e ./evil"),
                ("app.py", b"def handler(e, c): 1"),
            ],
            "requirements.txt",
            "line 2",
            "`-e`",
        ),
        (&[toml("name = ")], "stratos.toml", "-", "line 1"),
        (&[toml("name = \"a\"")], "stratos.toml", "runtime", "missing"),
        (&[toml("name = \"a\"\nmemry = \"1GB\"")], "stratos.toml", "memry", "unknown key"),
        (
            &[toml("name = \"a\"\nruntime = \"node24\"\nhandler = \"src/x.handler\""), ("index.js", b"1")],
            "stratos.toml",
            "handler",
            "`src/x`, which is not in the package",
        ),
        (
            &[toml("name = \"a\"\nruntime = \"python3.13\"\nhandler = \"x.handler\"")],
            "stratos.toml",
            "handler",
            "`x`, which is not in the package",
        ),
        (
            &[toml("name = \"a\"\nruntime = \"native\"\nhandler = \"run\""), ("*run", b"#!/bin/sh\n")],
            "stratos.toml",
            "handler",
            "not a Linux executable",
        ),
        (&[toml("name = \"a\""), ("*bootstrap", &foreign)], "stratos.toml", "handler", "is built for"),
        (
            &[toml("name = \"a\"\nruntime = \"native\"\nstart = \"./run\""), ("run", &program)],
            "stratos.toml",
            "start",
            "not marked executable",
        ),
        (&[("package.json", b"{"), ("index.js", b"")], "package.json", "-", "EOF"),
    ];
    for (files, file, key, message) in cases {
        let error =
            ApiError::from(rig.deploy(files).0.err().unwrap_or_else(|| panic!("{message}: deployed")));
        assert_eq!(error.code, ErrorCode::InvalidFunction, "{error:?}");
        let place = (error.file.as_deref().unwrap_or("-"), error.key.as_deref().unwrap_or("-"));
        assert_eq!(place, (file, key), "{error:?}");
        assert!(error.message.contains(message) && error.hint.is_some(), "{message}: {error:?}");
    }
    assert!(rig.store.functions(&TenantId::default()).unwrap().is_empty());
    rig.assert_clean(0);
}

/// npm runs what its settings name as git, and a package brings settings.
#[test]
fn a_package_cannot_name_a_program_for_npm_to_run() {
    let Some(rig) = rig("a_package_cannot_name_a_program_for_npm_to_run", None) else { return };
    let (deployed, said) = rig.deploy(&[
        ("stratos.toml", b"name = \"a\""),
        ("package.json", br#"{"dependencies":{"x":"git+https://host.example/x.git"}}"#),
        (".npmrc", b"git=/var/task/evil\n"),
        ("*evil", b"#!/usr/bin/node\nconsole.error('the program ran'); process.exit(1)\n"),
        ("index.mjs", b"export const handler = 1"),
    ]);
    let error = ApiError::from(deployed.expect_err("nothing can be fetched without git"));
    assert!(!said.iter().any(|line| line.contains("the program ran")), "{said:#?}");
    assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("repository")), "{error:?}\n{said:#?}");
    rig.assert_clean(0);
}

#[test]
fn a_full_disk_ends_a_deploy_and_nothing_else() {
    let Some(rig) = rig("a_full_disk_ends_a_deploy_and_nothing_else", Some(6)) else { return };
    let program = executable();
    let toml: (&str, &[u8]) = ("stratos.toml", b"name = \"a\"");
    rig.deployed(&[toml, ("*bootstrap", &program)]);
    for large in [8 << 20, 3 << 20] {
        // The larger does not fit when unpacked, the smaller not a second time as an image.
        let ballast = vec![b'x'; large];
        let error = ApiError::from(
            rig.deploy(&[toml, ("*bootstrap", &program), ("ballast", &ballast)]).0.unwrap_err(),
        );
        assert_eq!(error.code, ErrorCode::StorageFailed, "{error:?}");
        assert!(error.hint.is_some());
        rig.assert_clean(1);
    }
    let (_, record, _) = rig.deployed(&[toml, ("*bootstrap", &program), ("text", b"small")]);
    assert_eq!(record.version, 2);
}

/// A layer of a StratOS disk: its device is mounted as it is, for the kernel checks what is read from it.
/// A killed agent's part of a layer goes at the next start; one that is being written stays.
#[test]
fn parts_of_layers_are_swept() {
    struct Swept<'a>(&'a Layers, &'a [u8]);
    impl Read for Swept<'_> {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            self.0.sweep();
            self.1.read(to)
        }
    }
    let Some(rig) = rig("parts_of_layers_are_swept", None) else { return };
    let folder = rig.dir.path().join("some-layers");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(".layer-killed"), "half").unwrap();
    let layers = Layers::new(folder.clone(), Arc::clone(&rig.sandbox));
    let text = fs::read(layers_dir().join("native.json")).unwrap();
    let manifest: stratos_types::LayerManifest = serde_json::from_slice(&text).unwrap();
    layers.install(&manifest, &mut Swept(&layers, b"whole")).unwrap();
    assert_eq!(fs::read(folder.join(&manifest.image)).unwrap(), b"whole");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "image and manifest");
    assert_eq!(layers.list().len(), 1);
}

#[test]
fn packed_layers_are_devices_and_are_not_read_whole() {
    let Some(rig) = rig("packed_layers_are_devices_and_are_not_read_whole", None) else { return };
    let text = fs::read(layers_dir().join("native.json")).unwrap();
    let mut manifest: stratos_types::LayerManifest = serde_json::from_slice(&text).unwrap();
    let image = layers_dir().join(&manifest.image);
    // Were it read and compared, this would not be its digest.
    manifest.image_digest = stratos_types::Digest::of(b"something else");
    manifest.packed = Some(stratos_types::PackedLayer {
        offset: 0,
        length: 1 << 20,
        hash_offset: 4096,
        root_hash: manifest.image_digest,
    });
    let (manifests, devices) = (rig.dir.path().join("manifests"), rig.dir.path().join("devices"));
    fs::create_dir(&manifests).unwrap();
    fs::create_dir(&devices).unwrap();
    fs::write(manifests.join("native.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    let layers = Layers::new(manifests, Arc::clone(&rig.sandbox)).with_devices(devices.clone());
    let error = layers.get("native").err().unwrap();
    assert!(error.to_string().ends_with("devices/layer-native"), "{error}");
    assert!(error.hint().contains("stratos node boot"));
    std::os::unix::fs::symlink(&image, devices.join("layer-native")).unwrap();
    let layer = layers.get("native").unwrap();
    assert!(layer.image.mount_point().join("usr").is_dir());
    assert!(!layer.is_damaged(), "no device mapper knows it");
    assert_eq!(layers.list().len(), 1);
}
