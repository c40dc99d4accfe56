//! Building layers: from a description and the lock to an image and its manifest in the cache.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use stratos_types::{Digest, LayerManifest};

use crate::apt::Apt;
use crate::arch;
use crate::assemble::{self, Copied};
use crate::cache::{self, Cache};
use crate::erofs::{self, Packing};
use crate::error::{BuildError, at};
use crate::lock::{Lock, Sources, replace_file};
use crate::progress::{Progress, Step};
use crate::spec::LayerSpec;
use crate::tree::Tree;

/// Raised when the way images are made changes, so that none made the old way is taken for current.
const IMAGE_FORMAT: u32 = 2;
/// The layer that holds `mkfs.erofs`.
pub(crate) const TOOLS_LAYER: &str = "tools";

/// What a build works with.
#[derive(Clone)]
pub struct BuildOptions<'a> {
    /// The cache folder; made if it is not there.
    pub cache: PathBuf,
    /// The folder that holds `distro` and `runtimes`.
    pub repo_root: PathBuf,
    /// Whether everything has to be as locked.
    pub locked: bool,
    /// A Debian archive to use instead of the one that the host's apt configuration names.
    pub mirror: Option<String>,
    /// Where to report to.
    pub progress: &'a dyn Progress,
}

impl<'a> BuildOptions<'a> {
    /// Options of a usual build: not `locked`, the mirror from the environment variable `STRATOS_DEBIAN_MIRROR`.
    pub fn new(cache: PathBuf, repo_root: PathBuf, progress: &'a dyn Progress) -> Self {
        let mirror = std::env::var("STRATOS_DEBIAN_MIRROR").ok().filter(|mirror| !mirror.is_empty());
        Self { cache, repo_root, locked: false, mirror, progress }
    }
}

/// Builds one layer, unless the cache has it already, and gives its manifest.
///
/// # Errors
/// See [`BuildError`]; nothing that looks finished is left behind.
pub fn build_layer(spec: &LayerSpec, options: &BuildOptions<'_>) -> Result<LayerManifest, BuildError> {
    Builder::open(options)?.build(spec)
}

/// Builds all layers that the repository describes, in the order of their names.
///
/// # Errors
/// As [`build_layer`]; stops at the first layer that fails.
pub fn build_all(options: &BuildOptions<'_>) -> Result<Vec<LayerManifest>, BuildError> {
    let mut builder = Builder::open(options)?;
    LayerSpec::load_all(&options.repo_root)?.iter().map(|spec| builder.build(spec)).collect()
}

/// One run of builds: it holds the cache, and asks the archive's index at most once.
pub(crate) struct Builder<'a> {
    pub(crate) options: &'a BuildOptions<'a>,
    pub(crate) cache: Cache,
    pub(crate) lock: Lock,
    pub(crate) apt: Option<Apt>,
}

/// Everything an image is made from; its digest names the image.
#[derive(Serialize)]
struct Inputs<'a> {
    image_format: u32,
    arch: &'a str,
    spec: &'a LayerSpec,
    sources: &'a Sources,
    copies: &'a [Copied],
    tools: Digest,
}

impl<'a> Builder<'a> {
    pub(crate) fn open(options: &'a BuildOptions<'a>) -> Result<Self, BuildError> {
        let cache = Cache::open(&options.cache, options.progress)?;
        let lock = Lock::load(&options.repo_root)?;
        Ok(Self { options, cache, lock, apt: None })
    }

    pub(crate) fn apt(&mut self) -> Result<&Apt, BuildError> {
        if self.apt.is_none() {
            self.apt = Some(Apt::open(&self.cache, self.options.mirror.as_deref())?);
        }
        Ok(self.apt.as_ref().expect("it was opened above"))
    }

    pub(crate) fn build(&mut self, spec: &LayerSpec) -> Result<LayerManifest, BuildError> {
        let folder = self.cache.layers();
        self.build_into(spec, &folder)
    }

    /// Builds a layer whose image and manifest are kept in `folder`.
    pub(crate) fn build_into(
        &mut self,
        spec: &LayerSpec,
        folder: &Path,
    ) -> Result<LayerManifest, BuildError> {
        let progress = self.options.progress;
        let copies = assemble::copies(&self.options.repo_root, spec)?;
        let tools_spec = LayerSpec::load(&self.options.repo_root, TOOLS_LAYER)?;
        let (recorded, tools) = (self.recorded(spec)?, self.recorded(&tools_spec)?);
        if recorded.missing.is_empty() && tools.missing.is_empty() {
            let inputs = inputs_digest(spec, &recorded.sources, &copies, &tools.sources);
            if let Some(manifest) = self.finished(spec, folder, inputs)? {
                if recorded.replaced {
                    self.notice_in_use(spec);
                }
                progress.step(&spec.name, Step::Done);
                return Ok(manifest);
            }
        }
        let sources = self.fetch(spec, recorded)?;
        let tools = self.recorded(&tools_spec)?;
        let tools = self.fetch(&tools_spec, tools)?;
        let inputs = inputs_digest(spec, &sources, &copies, &tools);
        if let Some(manifest) = self.finished(spec, folder, inputs)? {
            progress.step(&spec.name, Step::Done);
            return Ok(manifest);
        }
        let mkfs = self.tool_tree(TOOLS_LAYER)?;
        let manifest = self.make(spec, folder, &sources, &copies, inputs, &mkfs)?;
        progress.step(&spec.name, Step::Done);
        Ok(manifest)
    }

    fn make(
        &self,
        spec: &LayerSpec,
        folder: &Path,
        sources: &Sources,
        copies: &[Copied],
        inputs: Digest,
        mkfs: &Path,
    ) -> Result<LayerManifest, BuildError> {
        let progress = self.options.progress;
        let temp = self.cache.temp()?;
        let root = temp.path().join("tree");
        progress.step(&spec.name, Step::Unpack);
        let mut tree =
            Tree::new(root).map_err(|source| BuildError::Tree { layer: spec.name.clone(), source })?;
        assemble::debs(&self.cache, &mut tree, spec, sources)?;
        assemble::rest(&self.cache, &mut tree, spec, sources, copies)?;
        progress.step(&spec.name, Step::Compile);
        assemble::bytecode(&tree, spec)?;
        progress.step(&spec.name, Step::Check);
        assemble::check(&tree, spec)?;
        let version = assemble::version(&tree, spec, sources)?;

        progress.step(&spec.name, Step::Image);
        let built = temp.path().join("image");
        erofs::write(&tree, &built, &inputs, mkfs, &temp.path().join("log"), Packing::Plain).map_err(
            |source| BuildError::Run { layer: spec.name.clone(), step: "writing the image", source },
        )?;
        let file = std::fs::File::open(&built).map_err(at("open", &built))?;
        let mode = std::fs::Permissions::from_mode(0o644);
        file.set_permissions(mode).map_err(at("set the mode of", &built))?;
        file.sync_all().map_err(at("sync", &built))?;
        let size = file.metadata().map_err(at("inspect", &built))?.len();
        let image_digest = Digest::of_reader(file).map_err(at("read", &built))?;

        let stem = format!("{}-{}", spec.name, &inputs.hex()[..16]);
        let owners = serde_json::to_vec_pretty(tree.owners()).expect("a map of strings");
        replace_file(&folder.join(format!("{stem}.files.json")), &owners)?;
        let image = format!("{stem}.erofs");
        let place = folder.join(&image);
        std::fs::rename(&built, &place).map_err(at("rename", &built))?;
        let name = spec.name.clone();
        let manifest =
            LayerManifest { name, version, inputs_digest: inputs, image, image_digest, size, packed: None };
        // The manifest is what makes the layer exist, so it comes last.
        let json = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
        replace_file(&manifest_file(folder, spec), &json)?;
        Ok(manifest)
    }

    /// The layer's manifest, if it is of these inputs and its image is there.
    fn finished(
        &self,
        spec: &LayerSpec,
        folder: &Path,
        inputs: Digest,
    ) -> Result<Option<LayerManifest>, BuildError> {
        let file = manifest_file(folder, spec);
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at("read", &file)(error).into()),
        };
        // One that is not understood is of another version of StratOS; the layer is built again.
        let Ok(manifest) = serde_json::from_slice::<LayerManifest>(&bytes) else { return Ok(None) };
        let image = std::fs::metadata(folder.join(&manifest.image));
        let whole = image.is_ok_and(|image| image.len() == manifest.size);
        Ok((manifest.inputs_digest == inputs && whole).then_some(manifest))
    }

    /// The unpacked Debian packages of a layer, to run their programs from.
    pub(crate) fn tool_tree(&mut self, name: &str) -> Result<PathBuf, BuildError> {
        let mut spec = LayerSpec::load(&self.options.repo_root, name)?;
        spec.wheel.clear();
        self.unpacked(&spec)
    }

    /// The unpacked Debian packages of a description.
    pub(crate) fn unpacked(&mut self, spec: &LayerSpec) -> Result<PathBuf, BuildError> {
        let name = &spec.name;
        let recorded = self.recorded(spec)?;
        let sources = self.fetch(spec, recorded)?;
        let described = serde_json::to_vec(&(IMAGE_FORMAT, &spec.deb, &spec.exclude, &sources.deb));
        let digest = Digest::of(&described.expect("descriptions are plain data"));
        let place = self.cache.trees().join(format!("{name}-{}", &digest.hex()[..16]));
        if place.is_dir() {
            return Ok(place);
        }
        let temp = self.cache.temp()?;
        let root = temp.path().join("tree");
        let mut tree =
            Tree::new(root.clone()).map_err(|source| BuildError::Tree { layer: name.to_owned(), source })?;
        assemble::debs(&self.cache, &mut tree, spec, &sources)?;
        cache::put(&root, &place)?;
        Ok(place)
    }
}

fn manifest_file(folder: &Path, spec: &LayerSpec) -> PathBuf {
    folder.join(format!("{}.json", spec.name))
}

fn inputs_digest(spec: &LayerSpec, sources: &Sources, copies: &[Copied], tools: &Sources) -> Digest {
    let tools = tools.digest();
    let inputs = Inputs { image_format: IMAGE_FORMAT, arch: arch::debian(), spec, sources, copies, tools };
    Digest::of(&serde_json::to_vec(&inputs).expect("inputs are plain data"))
}
