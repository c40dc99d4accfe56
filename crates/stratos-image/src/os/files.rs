//! Which package each file of an image comes from: `files.json`, beside the image and in its root.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::lock::Sources;

/// Where a file comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Source {
    /// A Debian package, a wheel, `stratos` for what this repository holds, or `layout` for links that every tree has.
    package: String,
    /// Its version.
    version: String,
}

/// Every file and link of the image: by where it is (`root`, `initramfs`, `layers/NAME`), then by its path there.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Files(BTreeMap<String, BTreeMap<String, Source>>);

impl Files {
    /// Adds a place's files by their owners. What is no package of `sources` is StratOS's own, of `version`.
    pub(crate) fn add(
        &mut self,
        place: &str,
        owners: &BTreeMap<String, String>,
        sources: &Sources,
        version: &str,
    ) {
        let files = self.0.entry(place.to_owned()).or_default();
        for (path, owner) in owners {
            let deb = sources.deb(owner).map(|deb| deb.version.as_str());
            let found = deb.or_else(|| sources.wheel(owner).map(|wheel| wheel.version.as_str()));
            let version = found.unwrap_or(version).to_owned();
            files.insert(path.clone(), Source { package: owner.clone(), version });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::LockedDeb;
    use stratos_types::Digest;

    #[test]
    fn files_are_listed_by_place_with_package_and_version() {
        let deb = LockedDeb {
            name: "ca-certificates".to_owned(),
            version: "2025".to_owned(),
            arch: "all".to_owned(),
            sha256: Digest::of(b""),
            size: 1,
        };
        let sources = Sources { deb: vec![deb], wheel: Vec::new() };
        let owners = [("etc/ca.crt", "ca-certificates"), ("usr/bin/stratosd", "stratos")];
        let owners = owners.map(|(path, owner)| (path.to_owned(), owner.to_owned())).into();
        let mut files = Files::default();
        files.add("root", &owners, &sources, "0.1.0");
        assert_eq!(
            serde_json::to_string(&files).unwrap(),
            "{\"root\":{\"etc/ca.crt\":{\"package\":\"ca-certificates\",\"version\":\"2025\"},\
             \"usr/bin/stratosd\":{\"package\":\"stratos\",\"version\":\"0.1.0\"}}}"
        );
    }
}
