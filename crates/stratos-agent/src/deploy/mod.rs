//! From an uploaded package to a version: unpack, understand, resolve, image, commit.
//!
//! All or nothing: everything is made in a folder of the deploy's own below the state's `blobs/tmp`, which goes on
//! every way out and at the next start, and the version is committed last, in one transaction. Nothing of a package is
//! executed here; pip, npm and mkfs.erofs run in a sandbox, and no package's own script runs at all. What parses bytes of
//! a package ([`check_entry`], [`unpack`], [`infer`](infer()), [`requirements`], [`elf`]) is public, so that it can be fuzzed.

mod artifact;
mod build;
pub mod elf;
mod entry;
mod error;
mod folder;
mod hint;
mod image;
mod infer;
mod node;
mod pack;
mod package;
mod package_entry;
mod python;
pub mod requirements;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stratos_api::DeployEvent;
use stratos_checkpoint::machine::Machine;
use stratos_sandbox::Sandbox;
use stratos_sandbox::seccomp::SeccompFilter;
use stratos_store::{FromArtifact, NewVersion, Store, VersionRecord};
use stratos_types::spec::{FILE_NAME, SpecError};
use stratos_types::{
    Digest, Entry, FunctionKey, FunctionName, FunctionSpec, NodeEnvironment, Runtime, TenantId,
};
use tempfile::TempDir;

pub use build::BuildConfig;
pub use error::DeployError;
pub use infer::{Seen, TopFile, infer};
pub use package::{MAX_BYTES, MAX_ENTRIES, PackageError, unpack, unpack_built};
pub use package_entry::{CheckedEntry, Kind, MAX_PATH, check_built_entry, check_entry};

use build::Builder;
use folder::{Folder, TidyError};

use crate::engine::TakenCheckpoint;
use crate::keys::TrustedKeys;
use crate::layers::{Layer, Layers};

/// Versions kept of each function.
const KEEP_VERSIONS: usize = 10;
/// The folder of a deploy that becomes the image.
const TASK: &str = "task";
/// The layer with mkfs.erofs.
const TOOLS: &str = "tools";

/// Deploys functions on one node.
pub struct Deployer {
    store: Store,
    sandbox: Arc<Sandbox>,
    layers: Arc<Layers>,
    build: BuildConfig,
    seccomp: Arc<SeccompFilter>,
    trust: Trust,
}

/// What decides about the checkpoints of artifacts.
#[derive(Debug, Clone)]
pub struct Trust {
    /// Whose signatures are believed.
    pub keys: TrustedKeys,
    /// What checkpoints must be of.
    pub machine: Machine,
    /// Whether this node restores instances at all.
    pub restores: bool,
    /// Variables that it gives to functions.
    pub environment: NodeEnvironment,
}

/// A function with its dependencies and its image, not yet stored. Its folder goes with it.
pub struct Made {
    /// What it is.
    pub spec: FunctionSpec,
    /// The layer it runs on.
    pub layer: Arc<Layer>,
    /// Its dependencies as they were resolved: name, version, digest.
    pub dependencies: Vec<(String, String, String)>,
    scratch: TempDir,
    image: PathBuf,
}

impl Made {
    /// A folder that goes with it.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// Its image, and the digest of that.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn image(&self) -> Result<(&Path, Digest), DeployError> {
        let read = |e| DeployError::io("read", &self.image, e);
        Ok((&self.image, File::open(&self.image).and_then(Digest::of_reader).map_err(read)?))
    }
}

/// A version that was stored.
pub struct Deployment {
    /// What it is.
    pub spec: FunctionSpec,
    /// How it is stored.
    pub record: VersionRecord,
    /// The checkpoint of its artifact.
    pub checkpoint: Option<TakenCheckpoint>,
}

impl Deployer {
    /// A deployer that keeps versions in `store`, builds as `build` says, and believes whom `trust` names.
    ///
    /// # Errors
    /// When the system call profile of builds is not usable.
    pub fn new(
        store: Store,
        sandbox: Arc<Sandbox>,
        layers: Arc<Layers>,
        build: BuildConfig,
        trust: Trust,
    ) -> Result<Self, DeployError> {
        let seccomp = Arc::new(SeccompFilter::for_runtime("build")?);
        Ok(Self { store, sandbox, layers, build, seccomp, trust })
    }

    /// Deploys the package or artifact at `archive` for `tenant`: the new version is stored and current when this returns.
    /// Blocks, often for seconds. `progress` is told of each step and of each line that pip and npm print; `Done` and
    /// `Failed` are the caller's to say. The caller is on a thread of a tokio runtime that may block (`spawn_blocking`).
    ///
    /// # Errors
    /// See [`DeployError`]; no version was made then. A runtime layer that came with a believed artifact may have been
    /// added, and stays.
    pub fn deploy(
        &self,
        tenant: &TenantId,
        expected_name: Option<&FunctionName>,
        archive: &Path,
        progress: &mut dyn FnMut(DeployEvent),
    ) -> Result<Deployment, DeployError> {
        let (made, artifact, checkpoint) = match artifact::open(archive)? {
            Some(file) => {
                let received = self.receive(tenant, expected_name, file, progress)?;
                (received.made, Some(received.from), received.checkpoint)
            }
            None => (self.make(expected_name, archive, progress)?, None, None),
        };
        let (spec, record) = self.store(tenant, made, artifact, progress)?;
        Ok(Deployment { spec, record, checkpoint })
    }

    /// Makes the image of the package at `archive`, as [`Deployer::deploy`] does.
    ///
    /// # Errors
    /// See [`DeployError`].
    pub fn make(
        &self,
        expected_name: Option<&FunctionName>,
        archive: &Path,
        progress: &mut dyn FnMut(DeployEvent),
    ) -> Result<Made, DeployError> {
        progress(DeployEvent::Step { step: "unpacking".into() });
        let (scratch, task) = self.task_folder()?;
        unpack(archive, &task)?;
        let folder = Folder::open(&task).map_err(|e| DeployError::io("open", &task, e))?;
        tidy(&folder)?;

        let spec = read_spec(&folder, expected_name)?;
        check_cpu(&spec, crate::machine::cpus())?;
        let layer = self.layer("the function's runtime", spec.runtime.as_str())?;
        let tools = self.layer("image building", TOOLS)?;
        let builder = self.builder(&scratch);
        // Before the long work where it can be; only a dependency can bring what is missing now.
        let early = entry::check(&spec, &folder);
        let dependencies = match spec.runtime {
            Runtime::Native => Vec::new(),
            _ if early.is_err() && !may_come(&spec, &folder)? => Vec::new(),
            Runtime::Node24 => node::resolve(&builder, &layer.image, &folder, progress)?,
            Runtime::Python313 => python::resolve(&builder, &layer.image, &folder, progress)?,
        };
        entry::check(&spec, &folder)?;
        tidy(&folder)?;
        let image = image::make(&builder, &tools.image, &folder, progress)?;
        Ok(Made { spec, layer, dependencies, scratch, image })
    }

    /// Packs a function's folder as the code of an artifact.
    ///
    /// # Errors
    /// When it holds what no artifact can, or cannot be read or written.
    pub fn pack(&self, made: &Made) -> Result<File, DeployError> {
        pack::pack(&made.scratch.path().join(TASK), &made.scratch.path().join("code"))
    }

    /// A folder of a deploy's own, and in it the one that a package is unpacked into.
    fn task_folder(&self) -> Result<(TempDir, PathBuf), DeployError> {
        let scratch = self.store.blobs().temp_dir()?;
        let task = scratch.path().join(TASK);
        fs::create_dir(&task).map_err(|e| DeployError::io("create", &task, e))?;
        // Jobs run as users of their own; what is above this folder stays the agent's.
        fs::set_permissions(&task, fs::Permissions::from_mode(0o755))
            .map_err(|e| DeployError::io("set the mode of", &task, e))?;
        Ok((scratch, task))
    }

    fn builder<'a>(&'a self, scratch: &'a TempDir) -> Builder<'a> {
        Builder {
            sandbox: &self.sandbox,
            config: &self.build,
            seccomp: &self.seccomp,
            scratch: scratch.path(),
        }
    }

    fn store(
        &self,
        tenant: &TenantId,
        made: Made,
        artifact: Option<FromArtifact>,
        progress: &mut dyn FnMut(DeployEvent),
    ) -> Result<(FunctionSpec, VersionRecord), DeployError> {
        let Made { spec, layer, dependencies, scratch, image } = made;
        let image = self.store.blobs().adopt(&image)?;
        progress(DeployEvent::Step { step: "storing the version".into() });
        let key = FunctionKey { tenant: tenant.clone(), name: spec.name.clone() };
        let new = NewVersion {
            spec_toml: spec.to_toml(),
            image: image.digest(),
            image_size: image.size(),
            layer_name: layer.manifest.name.clone(),
            layer_version: layer.manifest.version.clone(),
            layer_digest: layer.manifest.image_digest,
            dependencies,
            deployed_at_ms: crate::clock::now_ms(),
            artifact,
        };
        let record = self.store.commit_version(&key, new)?;
        drop(image);
        self.clean_up(&key);
        if let Err(error) = scratch.close() {
            tracing::warn!(%error, "a deploy's folder is left until the next start");
        }
        Ok((spec, record))
    }

    /// The layers of the node.
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    fn layer(&self, what: &'static str, name: &str) -> Result<Arc<Layer>, DeployError> {
        self.layers.get(name).map_err(|source| DeployError::Layer { what, source })
    }

    /// Drops what the new version made superfluous. The deploy has happened whether or not this works, and the next one
    /// tries again.
    fn clean_up(&self, key: &FunctionKey) {
        let cleaned = self.store.prune(key, KEEP_VERSIONS).and_then(|_| self.store.blobs().collect_garbage());
        if let Err(error) = cleaned {
            tracing::warn!(function = %key, %error, "old versions were not removed");
        }
    }
}

fn tidy(folder: &Folder) -> Result<(), DeployError> {
    folder.tidy().map_err(|error| match error {
        TidyError::TooLarge { limit } => DeployError::TooLarge { limit },
        TidyError::Io(source) => DeployError::io("prepare", folder.path(), source),
    })
}

/// True when a dependency could bring the entry that is not in the package.
fn may_come(spec: &FunctionSpec, folder: &Folder) -> Result<bool, DeployError> {
    let files: &[&str] = match (spec.runtime, &spec.entry) {
        (Runtime::Node24, Entry::Handler(handler)) if !handler.starts_with("node_modules/") => &[],
        (Runtime::Node24, _) => &["package.json"],
        (Runtime::Python313, _) => &["requirements.txt", "pyproject.toml"],
        (Runtime::Native, _) => &[],
    };
    for name in files {
        if folder.has_file(name).map_err(|e| DeployError::io("read", folder.path(), e))? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read_spec(folder: &Folder, expected: Option<&FunctionName>) -> Result<FunctionSpec, DeployError> {
    let read = |source| DeployError::io("read", folder.path(), source);
    let files = folder.top_files().map_err(read)?;
    if files.is_empty() {
        let hint =
            "pack the content of the function's folder, not the folder: tar -C FOLDER -cf package.tar .";
        return Err(spec_error(None, "there is no file at the top of the package", hint));
    }
    let text = match folder.settings(FILE_NAME)? {
        Some(text) => text,
        None if files.contains_key(FILE_NAME) => {
            return Err(spec_error(None, "is not UTF-8", "write it anew with `stratos new`"));
        }
        None => String::new(),
    };
    let package_json = folder.settings("package.json")?;
    let seen = Seen {
        spec: &text,
        package_json: package_json.as_deref(),
        files: &files,
        expected_name: expected,
        // A source that cannot be read tells nothing; the check of the entry names it.
        source: &|name| folder.text(name).ok().flatten(),
    };
    let spec = FunctionSpec::parse(&text, &infer(&seen)?)?;
    match expected {
        Some(expected) if *expected != spec.name => Err(spec_error(
            Some("name"),
            format!("is `{}`, and the deploy is for `{expected}`", spec.name),
            "deploy under the name that the file says, or change it there",
        )),
        _ => Ok(spec),
    }
}

/// Refuses a function that asks for more processors than the machine has.
fn check_cpu(spec: &FunctionSpec, cpus: u32) -> Result<(), DeployError> {
    match spec.cpu {
        Some(cpu) if cpu.millis() > cpus.saturating_mul(1000) => Err(spec_error(
            Some("cpu"),
            format!("is {cpu}, and this node has {cpus} CPUs"),
            &format!("write at most \"{cpus}\", or leave it out for no limit"),
        )),
        _ => Ok(()),
    }
}

fn spec_error(key: Option<&str>, message: impl Into<String>, hint: &str) -> DeployError {
    let key = key.map(str::to_owned);
    SpecError { file: FILE_NAME.into(), key, message: message.into(), hint: hint.into() }.into()
}
