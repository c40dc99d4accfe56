//! The description of an operating system image, `distro/image/stratos.toml`: what its root holds beside programs and
//! layers, which modules its initramfs loads, the kernel's command line, and the disk's partitions.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::gpt::Guid;
use crate::error::at;
use crate::spec::{self, CaBundle, CopyIn, Deb, LayerSpec, SpecError, Symlink, TextFile, VersionSource};

/// Folder of the descriptions of images and of what builds them, relative to the repository.
pub const IMAGE_FOLDER: &str = "distro/image";
/// The image's description in it, without `.toml`.
const PROFILE: &str = "stratos";

/// The debug layer's description, and that of the programs that build disks.
pub(crate) const DEBUG: &str = "debug";
pub(crate) const DISK_TOOLS: &str = "disk-tools";

/// An operating system image, as described.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ImageProfile {
    /// The image's name; also the file's name without `.toml`.
    pub name: String,
    /// What the image is for.
    pub reason: String,
    /// Options of the kernel's command line, in their order; the root hash comes before them.
    #[serde(default)]
    pub option: Vec<KernelOption>,
    /// Modules that the initramfs loads when the kernel has them as files, in their order; what they depend on is
    /// found at the build.
    #[serde(default)]
    pub module: Vec<KernelModule>,
    /// Partitions, in the disk's order.
    pub partition: Vec<PartitionSpec>,
    /// Debian packages whose files the root holds.
    #[serde(default)]
    pub deb: Vec<Deb>,
    /// Files and folders of the repository.
    #[serde(default)]
    pub copy: Vec<CopyIn>,
    /// Files whose text stands in the description.
    #[serde(default)]
    pub text: Vec<TextFile>,
    /// Symbolic links.
    #[serde(default)]
    pub symlink: Vec<Symlink>,
    /// The bundle of trusted certificate authorities.
    pub ca_bundle: Option<CaBundle>,
    /// Empty folders that are mounted over.
    #[serde(default)]
    pub mountpoint: Vec<MountPoint>,
}

/// An option of the kernel's command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelOption {
    /// The option, with its value.
    pub text: String,
    /// Why it is given.
    pub reason: String,
}

/// A kernel module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelModule {
    /// Its name.
    pub name: String,
    /// Why it is loaded.
    pub reason: String,
}

/// An empty folder of the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountPoint {
    /// Absolute path.
    pub path: String,
    /// What is mounted there.
    pub reason: String,
}

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The EFI system partition.
    Esp,
    /// The root's file system.
    Root,
    /// The root's hash tree.
    RootVerity,
    /// The runtime layers.
    Layers,
    /// What a node keeps.
    State,
}

impl Role {
    /// Each role stands for one partition or one of either slot.
    const ALL: [Self; 5] = [Self::Esp, Self::Root, Self::RootVerity, Self::Layers, Self::State];

    /// Whether there are two of it: one in use, one for the next version.
    pub(crate) fn has_slots(self) -> bool {
        !matches!(self, Self::Esp | Self::State)
    }
}

/// A partition, or the two of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionSpec {
    /// What it is for.
    pub role: Role,
    /// The type's GUID.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its size in MiB.
    pub mib: u32,
    /// Why it is there and has this size.
    pub reason: String,
}

impl ImageProfile {
    /// Reads the repository's image description.
    ///
    /// # Errors
    /// A file that cannot be read, or a description that is wrong.
    pub fn load(repo_root: &Path) -> Result<Self, SpecError> {
        let file = repo_root.join(IMAGE_FOLDER).join(PROFILE).with_extension("toml");
        let text = std::fs::read_to_string(&file).map_err(at("read", &file))?;
        Self::parse(&text, &file)
    }

    /// Parses a description found in `file`.
    ///
    /// # Errors
    /// Unknown or missing keys, and values that make no sense.
    pub fn parse(text: &str, file: &Path) -> Result<Self, SpecError> {
        let profile: Self = spec::toml(text, file)?;
        profile.check(file)?;
        Ok(profile)
    }

    /// The root's packages, files, links and folders, in a layer's form.
    pub(crate) fn root(&self) -> LayerSpec {
        LayerSpec {
            name: "root".to_owned(),
            reason: self.reason.clone(),
            base: None,
            // Never asked for: a root has StratOS's own version.
            version: VersionSource::Package { package: String::new() },
            deb: self.deb.clone(),
            wheel: Vec::new(),
            copy: self.copy.clone(),
            text: self.text.clone(),
            symlink: self.symlink.clone(),
            ca_bundle: self.ca_bundle.clone(),
            bytecode: None,
            exclude: Vec::new(),
            mountpoints: self.mountpoint.iter().map(|point| point.path.clone()).collect(),
        }
    }

    /// Bytes of the partition, or of each of the two, with this role.
    pub(crate) fn size(&self, role: Role) -> u64 {
        let partition = self.partition.iter().find(|partition| partition.role == role);
        u64::from(partition.expect("the description was checked to have every role").mib) << 20
    }

    fn check(&self, file: &Path) -> Result<(), SpecError> {
        let wrong = |key: &str, problem: &str| {
            Err(SpecError::Invalid {
                file: file.to_owned(),
                key: key.to_owned(),
                problem: problem.to_owned(),
            })
        };
        if file.file_stem().is_none_or(|stem| stem != self.name.as_str()) {
            return wrong("name", "has to be the file's name without .toml");
        }
        let reasons = (self.option.iter().map(|x| (x.text.as_str(), &x.reason)))
            .chain(self.module.iter().map(|x| (x.name.as_str(), &x.reason)))
            .chain(self.mountpoint.iter().map(|x| (x.path.as_str(), &x.reason)))
            .chain(self.partition.iter().map(|x| (x.kind.as_str(), &x.reason)))
            .chain([("image", &self.reason)]);
        for (key, reason) in reasons {
            if reason.trim().is_empty() {
                return wrong(key, "its `reason` is empty");
            }
        }
        let mut modules = BTreeSet::new();
        for module in &self.module {
            let legal = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
            if module.name.is_empty() || !module.name.chars().all(legal) {
                return wrong(&module.name, "is not a module's name");
            }
            if !modules.insert(module.name.replace('-', "_")) {
                return wrong(&module.name, "is listed twice");
            }
        }
        for option in &self.option {
            let legal = |c: char| c.is_ascii_graphic() && c != '"';
            if option.text.is_empty() || !option.text.chars().all(legal) {
                return wrong(&option.text, "is not one option without blanks and quotes");
            }
        }
        self.check_partitions().or_else(|(key, problem)| wrong(&key, problem))?;
        self.root().check_entries(file)
    }

    fn check_partitions(&self) -> Result<(), (String, &'static str)> {
        for role in Role::ALL {
            if self.partition.iter().filter(|partition| partition.role == role).count() != 1 {
                return Err((format!("{role:?}").to_lowercase(), "has to be the role of one partition"));
            }
        }
        if self.partition.last().is_none_or(|partition| partition.role != Role::State) {
            return Err(("state".to_owned(), "has to be the last partition: it grows to the disk's end"));
        }
        for partition in &self.partition {
            if Guid::parse(&partition.kind).is_none() {
                return Err((partition.kind.clone(), "is not a GUID"));
            }
            if partition.mib == 0 {
                return Err((partition.kind.clone(), "has no size"));
            }
        }
        Ok(())
    }
}

/// Whatever has packages in the folder of images: the root, the debug layer, and the programs that build disks.
pub(crate) fn packages(repo_root: &Path) -> Result<Vec<LayerSpec>, SpecError> {
    let mut specs = vec![ImageProfile::load(repo_root)?.root()];
    for name in [DEBUG, DISK_TOOLS] {
        specs.push(LayerSpec::load_from(repo_root, IMAGE_FOLDER, name)?);
    }
    Ok(specs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    #[test]
    fn every_description_of_the_repository_loads() {
        let profile = ImageProfile::load(&repository()).unwrap();
        assert_eq!(profile.name, "stratos");
        for spec in packages(&repository()).unwrap() {
            assert!(!spec.reason.trim().is_empty(), "{}", spec.name);
        }
        let entries = std::fs::read_dir(repository().join(IMAGE_FOLDER)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(
            names,
            ["debug.toml", "disk-tools.toml", "stratos.toml"],
            "no file but those that are loaded"
        );
    }

    #[test]
    fn wrong_descriptions_are_refused_by_key() {
        let file = repository().join(IMAGE_FOLDER).join("stratos.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let problem = |text: &str| match ImageProfile::parse(text, &file) {
            Ok(_) => "parsed".to_owned(),
            Err(error) => match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            },
        };
        assert_eq!(problem(&text), "parsed");
        let esp = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
        for (text, expected) in [
            (format!("colour = 'red'\n{text}"), "unknown field `colour`"),
            (text.replacen("name = \"stratos\"", "name = \"x\"", 1), "name: has to be the file's name"),
            (format!("{text}[[module]]\nname = \"x\"\nreason = \" \"\n"), "x: its `reason` is empty"),
            (format!("{text}[[module]]\nname = \"erofs\"\nreason = \"r\"\n"), "erofs: is listed twice"),
            (format!("{text}[[module]]\nname = \"../x\"\nreason = \"r\"\n"), "../x: is not a module's name"),
            (format!("{text}[[option]]\ntext = \"a b\"\nreason = \"r\"\n"), "a b: is not one option"),
            (text.replace(esp, "C12A7328"), "C12A7328: is not a GUID"),
            (text.replace("role = \"esp\"", "role = \"root\""), "esp: has to be the role of one partition"),
            (
                format!("{text}[[text]]\npath = \"etc/x\"\nreason = \"r\"\ncontent = \"\"\n"),
                "etc/x: has to be an absolute path",
            ),
        ] {
            let found = problem(&text);
            assert!(found.contains(expected), "{found}\nexpected {expected}");
        }
    }
}
