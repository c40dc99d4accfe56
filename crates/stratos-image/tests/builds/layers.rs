//! Builds the repository's layers for real, in the cache that everything else uses, and runs what is in them.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Fixture, Record, chain, real_cache, repository};
use stratos_image::{BuildOptions, LayerSpec, Silent, Step, build_all, build_layer};
use stratos_types::LayerManifest;

fn layers() -> Vec<LayerManifest> {
    let options = BuildOptions::new(real_cache(), repository(), &Silent);
    build_all(&options).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn image(manifest: &LayerManifest) -> PathBuf {
    real_cache().join("layers").join(&manifest.image)
}

/// The libraries of a tree, for its own loader.
fn libraries(root: &Path) -> PathBuf {
    root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH))
}

/// A command for a program of an unpacked layer: in the layer as root, else by the layer's own loader.
fn in_layer(root: &Path, program: &str) -> Command {
    let root_user = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut command = if root_user {
        let mut command = Command::new("chroot");
        command.arg(root).arg(program);
        command
    } else {
        let mut command = Command::new(loader(root));
        command.arg("--library-path").arg(libraries(root)).arg(root.join(program.trim_start_matches('/')));
        command.env("PYTHONHOME", root.join("usr"));
        command
    };
    command.env_remove("LD_LIBRARY_PATH").env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin").env("HOME", "/tmp");
    command
}

fn loader(root: &Path) -> PathBuf {
    let entries = std::fs::read_dir(libraries(root)).unwrap().map(|entry| entry.unwrap().path());
    let mut loaders =
        entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("ld-linux"));
    loaders.next().expect("every layer has a loader")
}

fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Unpacks an image with the tools layer's own fsck.erofs, which checks it on the way.
fn unpack(manifest: &LayerManifest, to: &Path) {
    let trees = std::fs::read_dir(real_cache().join("trees")).unwrap().map(|entry| entry.unwrap().path());
    let mut tools = trees.filter(|path| path.join("usr/bin/fsck.erofs").is_file());
    let tools = tools.next().expect("the build unpacked its tools");
    let mut fsck = Command::new(loader(&tools));
    fsck.arg("--library-path").arg(libraries(&tools)).arg(tools.join("usr/bin/fsck.erofs"));
    fsck.arg(format!("--extract={}", to.display())).arg(image(manifest));
    stdout(&mut fsck);
}

#[test]
fn all_layers_build_and_their_runtimes_run() {
    let folder = tempfile::tempdir().unwrap();
    for manifest in layers() {
        let root = folder.path().join(&manifest.name);
        unpack(&manifest, &root);
        let mode = std::fs::metadata(&root).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o755, "the root of {}", manifest.name);
        for place in ["proc", "dev", "tmp", "var/task", "opt/stratos", "etc/ssl/certs/ca-certificates.crt"] {
            assert!(root.join(place).exists(), "{} has no /{place}", manifest.name);
        }
        for (link, target) in
            [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64"), ("sbin", "usr/sbin")]
        {
            assert_eq!(std::fs::read_link(root.join(link)).unwrap(), Path::new(target));
        }
        assert!(!root.join("usr/bin/sh").exists(), "{} has a shell", manifest.name);
        match manifest.name.as_str() {
            "node24" => node(&root, &manifest),
            "python3.13" => python(&root, &manifest),
            "tools" => {
                let text = stdout(in_layer(&root, "/usr/bin/mkfs.erofs").arg("--version"));
                assert!(text.contains(manifest.version.split('-').next().unwrap()), "{text}");
            }
            _ => native(&root),
        }
    }
}

fn node(root: &Path, manifest: &LayerManifest) {
    assert!(manifest.version.starts_with("24."), "{manifest:?}");
    assert_eq!(stdout(in_layer(root, "/usr/bin/node").arg("--version")), format!("v{}", manifest.version));
    let npm = "/usr/lib/node_modules/npm/bin/npm-cli.js";
    let root_user = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let npm = if root_user { PathBuf::from(npm) } else { root.join(npm.trim_start_matches('/')) };
    let version = stdout(in_layer(root, "/usr/bin/node").arg(npm).arg("--version"));
    assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{version}");
    assert!(root.join("opt/stratos/bootstrap.mjs").is_file());
}

fn python(root: &Path, manifest: &LayerManifest) {
    let version = stdout(in_layer(root, "/usr/bin/python3.13").arg("--version"));
    assert_eq!(version, format!("Python {}", manifest.version));
    // Every extension module's own libraries load, and bytecode is there for all of the library.
    let program = "import ssl, sqlite3, ctypes, lzma, bz2, zlib, uuid, curses, readline, decimal, hashlib, json\n\
                   import json.decoder, os.path, zoneinfo\n\
                   assert zoneinfo.ZoneInfo('Europe/Berlin').key\n\
                   assert os.path.exists(json.decoder.__cached__), json.decoder.__cached__\n\
                   print(len(ssl.create_default_context().get_ca_certs()) > 100, sqlite3.sqlite_version)";
    let text = stdout(in_layer(root, "/usr/bin/python3.13").args(["-c", program]));
    assert!(text.starts_with("True 3."), "{text}");
    let wheels = std::fs::read_dir(root.join("usr/share/python-wheels")).unwrap();
    let wheel = wheels.map(|entry| entry.unwrap().file_name().into_string().unwrap()).next().unwrap();
    let root_user = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let top = if root_user { PathBuf::from("/") } else { root.to_owned() };
    let pip = top.join("usr/share/python-wheels").join(wheel).join("pip");
    let text = stdout(in_layer(root, "/usr/bin/python3.13").arg(pip).arg("--version"));
    assert!(text.starts_with("pip "), "{text}");
}

/// The native layer has what a Rust program like this one is linked with.
fn native(root: &Path) {
    let program = root.join("tmp/program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let text = stdout(in_layer(root, "/tmp/program").arg("--list"));
    assert!(text.contains("layers::all_layers_build_and_their_runtimes_run"), "{text}");
}

#[test]
fn the_same_inputs_give_the_same_bytes_and_building_again_does_nothing() {
    let first = layers();
    for name in ["native", "python3.13"] {
        let fixture = Fixture::new().with_downloads();
        let record = Record::default();
        let options = fixture.options(&record);
        let spec = LayerSpec::load(&fixture.repo(), name).unwrap();
        let again = build_layer(&spec, &options).unwrap_or_else(|error| panic!("{}", chain(&error)));
        let before = first.iter().find(|manifest| manifest.name == name).unwrap();
        assert_eq!(again, *before, "{name} differs between two builds");
        assert!(record.steps(name).contains(&Step::Image));

        let idle = Record::default();
        let options = BuildOptions { progress: &idle, ..options };
        assert_eq!(build_layer(&spec, &options).unwrap(), again);
        assert_eq!(idle.steps(name), [Step::Done]);
    }
}
