//! What an image is made from, and whether one of just that is there already.

use serde::Serialize;
use stratos_types::{Digest, ImageManifest, KernelChoice, LayerManifest};

use super::profile::{DISK_TOOLS, IMAGE_FOLDER, ImageProfile};
use crate::assemble::{self, Copied};
use crate::build::Builder;
use crate::error::{BuildError, at};
use crate::kernel::Kernel;
use crate::lock::{LockedDeb, Sources};
use crate::programs::Programs;
use crate::spec::LayerSpec;
use crate::{arch, build};

/// Raised when the way images are made changes, so that none made the old way is taken for current.
const FORMAT: u32 = 2;
/// Version of StratOS.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Everything an image is made from, fetched and built.
pub(crate) struct Inputs {
    pub(crate) profile: ImageProfile,
    /// The root's part of the description.
    pub(crate) root: LayerSpec,
    pub(crate) sources: Sources,
    pub(crate) copies: Vec<Copied>,
    pub(crate) layers: Vec<(LayerSpec, LayerManifest)>,
    pub(crate) kernel: Kernel,
    pub(crate) programs: Programs,
    /// The tree's description with `mke2fs` and the EFI stub.
    pub(crate) tools: LayerSpec,
    /// Digest of all of it; it names the image.
    pub(crate) digest: Digest,
}

/// What the digest covers.
#[derive(Serialize)]
struct Digested<'a> {
    format: u32,
    arch: &'a str,
    version: &'a str,
    profile: &'a ImageProfile,
    sources: &'a Sources,
    copies: &'a [Copied],
    layers: Vec<Digest>,
    kernel: (&'a str, Digest),
    programs: Digest,
    tools: [Digest; 2],
}

impl Builder<'_> {
    /// Gets or builds all that an image needs.
    pub(crate) fn image_inputs(
        &mut self,
        choice: KernelChoice,
        programs: Programs,
    ) -> Result<Inputs, BuildError> {
        let repo_root = &self.options.repo_root;
        let profile = ImageProfile::load(repo_root)?;
        let root = profile.root();
        let copies = assemble::copies(repo_root, &root)?;
        let tools = LayerSpec::load_from(repo_root, IMAGE_FOLDER, DISK_TOOLS)?;
        let mkfs = LayerSpec::load(repo_root, build::TOOLS_LAYER)?;
        let mut layers = Vec::new();
        for spec in LayerSpec::load_all(repo_root)? {
            let manifest = self.build(&spec)?;
            layers.push((spec, manifest));
        }
        let mut fetched = Vec::new();
        for spec in [&root, &tools, &mkfs] {
            let recorded = self.recorded(spec)?;
            fetched.push(self.fetch(spec, recorded)?);
        }
        let tool_digests = [fetched[1].digest(), fetched[2].digest()];
        let sources = fetched.swap_remove(0);
        let kernel = self.kernel(choice)?;
        let digested = Digested {
            format: FORMAT,
            arch: arch::debian(),
            version: VERSION,
            profile: &profile,
            sources: &sources,
            copies: &copies,
            layers: layers.iter().map(|(_, manifest)| manifest.inputs_digest).collect(),
            kernel: (choice.as_str(), kernel.digest),
            programs: programs.digest,
            tools: tool_digests,
        };
        let digest = Digest::of(&serde_json::to_vec(&digested).expect("inputs are plain data"));
        Ok(Inputs { profile, root, sources, copies, layers, kernel, programs, tools, digest })
    }

    /// The newest image's manifest of a kernel, if it is of these inputs and its files are there.
    pub(crate) fn finished_image(
        &self,
        choice: KernelChoice,
        inputs: Digest,
    ) -> Result<Option<ImageManifest>, BuildError> {
        let file = self.image_manifest(choice);
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at("read", &file)(error).into()),
        };
        // One that is not understood is of another version of StratOS; the image is built again.
        let Ok(manifest) = serde_json::from_slice::<ImageManifest>(&bytes) else { return Ok(None) };
        let folder = self.cache.images().join(&manifest.folder);
        let is_whole = manifest.files.iter().all(|file| {
            std::fs::metadata(folder.join(&file.name)).is_ok_and(|found| found.len() == file.size)
        });
        Ok((manifest.inputs_digest == inputs && is_whole).then_some(manifest))
    }

    /// The package that a kernel comes from, for the list of files.
    pub(crate) fn kernel_sources(&self, kernel: &Kernel) -> Sources {
        let deb = self.lock.deb(&kernel.owner, arch::debian()).cloned().unwrap_or_else(|| LockedDeb {
            name: kernel.owner.clone(),
            version: kernel.version.clone(),
            arch: arch::debian().to_owned(),
            sha256: kernel.digest,
            size: 0,
        });
        Sources { deb: vec![deb], wheel: Vec::new() }
    }

    /// Where the manifest of a kernel's newest image is.
    pub(crate) fn image_manifest(&self, choice: KernelChoice) -> std::path::PathBuf {
        self.cache.images().join(format!("{choice}.json"))
    }
}
