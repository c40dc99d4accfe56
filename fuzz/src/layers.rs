//! Descriptions, lock and manifests of runtime layers and of operating system images.

use std::path::{Path, PathBuf};

use stratos_image::os::profile::ImageProfile;
use stratos_image::{LayerSpec, Lock};
use stratos_types::{ImageManifest, LayerManifest};

/// Any of them.
pub fn layers(data: &[u8]) {
    if let Ok(manifest) = serde_json::from_slice::<LayerManifest>(data) {
        let written = serde_json::to_vec(&manifest).expect("a manifest is plain data");
        assert_eq!(serde_json::from_slice::<LayerManifest>(&written).ok(), Some(manifest));
    }
    if let Ok(manifest) = serde_json::from_slice::<ImageManifest>(data) {
        let written = serde_json::to_vec(&manifest).expect("a manifest is plain data");
        assert_eq!(serde_json::from_slice::<ImageManifest>(&written).ok(), Some(manifest));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = Path::new("stratos.lock");
    if let Ok(lock) = Lock::parse(text, file) {
        let written = toml::to_string(&lock).expect("a lock is plain data");
        assert_eq!(Lock::parse(&written, file).expect("what is written is valid"), lock);
    }
    let file = Path::new("x.toml");
    let no_base = |name: &str| Ok((PathBuf::from(name), String::new()));
    if let Ok(spec) = LayerSpec::parse(text, file, no_base) {
        assert_eq!(spec.name, "x");
        let written = toml::to_string(&spec).expect("a description is plain data");
        assert_eq!(LayerSpec::parse(&written, file, no_base).expect("what is written is valid"), spec);
    }
    let file = Path::new("stratos.toml");
    if let Ok(profile) = ImageProfile::parse(text, file) {
        let written = toml::to_string(&profile).expect("a description is plain data");
        assert_eq!(ImageProfile::parse(&written, file).expect("what is written is valid"), profile);
    }
}
