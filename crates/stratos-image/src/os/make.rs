//! Putting an image together, part by part, and finishing it: its manifest comes last.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use stratos_types::{Digest, ImageManifest, KernelChoice, LayerManifest};

use super::disk::{self, Contents};
use super::error::ImageError;
use super::files::Files;
use super::gpt::Guid;
use super::inputs::{Inputs, VERSION};
use super::profile::{DEBUG, IMAGE_FOLDER};
use super::root::{self, Parts};
use super::seed::Seed;
use super::uki::{self, Part};
use super::verity::Verity;
use super::{initramfs, measure, modules, oci, pack};
use crate::arch;
use crate::build::{Builder, TOOLS_LAYER};
use crate::erofs::{self, Packing};
use crate::error::{BuildError, FileError, at};
use crate::lock::replace_file;
use crate::programs::Programs;
use crate::progress::Step;
use crate::spec::LayerSpec;
use crate::tree::Tree;

/// The EFI stub in the tree of tools.
const STUB: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";
/// How many images of a kernel the cache keeps: the newest, and the one before for machines that still run from it.
const KEPT: usize = 2;
/// Type of the partition on the debug layer's disk: that of layers.
const DEBUG_TYPE: &str = "6A6D1B1E-6F1C-4C0F-9B6E-5374726174AF";

impl Builder<'_> {
    /// Builds an image, unless the cache has it.
    pub(crate) fn image(
        &mut self,
        choice: KernelChoice,
        programs: Programs,
    ) -> Result<ImageManifest, BuildError> {
        let inputs = self.image_inputs(choice, programs)?;
        if let Some(manifest) = self.finished_image(choice, inputs.digest)? {
            self.options.progress.step("the image", Step::Done);
            return Ok(manifest);
        }
        let mkfs = self.tool_tree(TOOLS_LAYER)?;
        let tools = self.unpacked(&inputs.tools)?;
        let temp = self.cache.temp()?;
        let making =
            Making { builder: self, inputs: &inputs, temp: temp.path(), out: temp.path().join("image") };
        let (root_hash, cmdline) = making.parts(&mkfs, &tools)?;
        self.options.progress.step("the image", Step::Measure);
        let manifest = ImageManifest {
            version: VERSION.to_owned(),
            arch: arch::debian().to_owned(),
            kernel: choice,
            kernel_version: inputs.kernel.version.clone(),
            inputs_digest: inputs.digest,
            folder: format!("{choice}-{}", &inputs.digest.hex()[..16]),
            root_hash,
            debug_root_hash: None,
            cmdline,
            files: measure::files(&temp.path().join("image"))?,
        };
        let place = self.cache.images().join(&manifest.folder);
        self.remove_image(&place)?;
        let made = temp.path().join("image");
        std::fs::rename(&made, &place).map_err(at("rename", &made))?;
        self.save_image(&manifest)?;
        self.forget_old_images(choice)?;
        self.options.progress.step("the image", Step::Done);
        Ok(manifest)
    }

    /// Adds the debug layer's disk to an image.
    pub(crate) fn debug(&mut self, mut manifest: ImageManifest) -> Result<ImageManifest, BuildError> {
        let spec = LayerSpec::load_from(&self.options.repo_root, IMAGE_FOLDER, DEBUG)?;
        let folder = self.cache.debug();
        let layer = self.build_into(&spec, &folder)?;
        self.options.progress.step("the debug layer's disk", Step::Write);
        let temp = self.cache.temp()?;
        let made = temp.path().join("debug.img");
        let kind = Guid::parse(DEBUG_TYPE).expect("it is a GUID");
        let image = folder.join(&layer.image);
        let root_hash = disk::write_single(&made, "stratos-debug", kind, &image, layer.inputs_digest)?;
        let files = measure::files(temp.path())?;
        let place = self.cache.images().join(&manifest.folder).join("debug.img");
        std::fs::rename(&made, &place).map_err(at("rename", &made))?;
        manifest.files.retain(|file| file.name != "debug.img");
        manifest.files.extend(files);
        manifest.files.sort_by(|a, b| a.name.cmp(&b.name));
        manifest.debug_root_hash = Some(root_hash);
        self.save_image(&manifest)?;
        self.options.progress.step("the debug layer's disk", Step::Done);
        Ok(manifest)
    }

    fn save_image(&self, manifest: &ImageManifest) -> Result<(), FileError> {
        let json = serde_json::to_vec_pretty(manifest).expect("a manifest is plain data");
        replace_file(&self.image_manifest(manifest.kernel), &json)
    }

    fn remove_image(&self, place: &Path) -> Result<(), FileError> {
        match std::fs::remove_dir_all(place) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at("remove", place)(error)),
            _ => Ok(()),
        }
    }

    /// Removes all images of a kernel but the newest.
    fn forget_old_images(&self, choice: KernelChoice) -> Result<(), FileError> {
        let folder = self.cache.images();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(at("list", &folder))? {
            let path = entry.map_err(at("list", &folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(&format!("{choice}-")) && path.is_dir() {
                let made = std::fs::metadata(&path).and_then(|meta| meta.modified());
                found.push((made.map_err(at("inspect", &path))?, path));
            }
        }
        found.sort();
        found.iter().rev().skip(KEPT).try_for_each(|(_, path)| self.remove_image(path))
    }
}

/// An image in the making.
struct Making<'a, 'b> {
    builder: &'a Builder<'b>,
    inputs: &'a Inputs,
    temp: &'a Path,
    out: PathBuf,
}

impl Making<'_, '_> {
    fn step(&self, what: &str, step: Step) {
        self.builder.options.progress.step(what, step);
    }

    /// Writes all files but the manifest, and gives the root hash and the command line.
    fn parts(&self, mkfs: &Path, tools: &Path) -> Result<(Digest, String), BuildError> {
        let Inputs { kernel, programs, profile, .. } = self.inputs;
        std::fs::create_dir(&self.out).map_err(at("create", &self.out))?;
        let seed = Seed::new(self.inputs.digest);
        self.step("all layers", Step::Pack);
        let pack = self.out.join("layers.pack");
        let layers: Vec<LayerManifest> = self.inputs.layers.iter().map(|(_, layer)| layer.clone()).collect();
        let layers = pack::write(&pack, &self.builder.cache.layers(), &layers)?;
        let layers_digest = digest(&pack)?;

        self.step("the initramfs", Step::Write);
        let wanted: Vec<&str> = profile.module.iter().map(|module| module.name.as_str()).collect();
        let modules = kernel.modules.as_deref().map(|folder| modules::closure(folder, &wanted)).transpose();
        let modules = modules.map_err(ImageError::Modules)?.unwrap_or_default();
        let initrd = self.out.join("initramfs.img");
        let in_initrd = initramfs::write(&initrd, &programs.init, &modules, &kernel.owner)?;

        self.step("the root", Step::Unpack);
        let parts = Parts {
            spec: &self.inputs.root,
            sources: &self.inputs.sources,
            copies: &self.inputs.copies,
            programs,
            layers: &layers,
            version: VERSION,
        };
        let mut tree = self.builder.root_tree(&self.temp.join("root"), &parts)?;
        let mut files = self.layers_files()?;
        files.add("initramfs", &in_initrd, &self.builder.kernel_sources(kernel), VERSION);
        self.step("the root", Step::Check);
        let json = root::finish(&mut tree, &mut files, &parts)?;
        self.put("files.json", &json)?;
        self.step("the root", Step::Image);
        let root_hash = self.verified_root(&tree, seed, mkfs)?;
        oci::write(&tree, &self.out.join("oci"), VERSION)?;

        self.step("the unified kernel image", Step::Write);
        let mut cmdline = format!("roothash={}", root_hash.hex());
        for option in &profile.option {
            cmdline = format!("{cmdline} {}", option.text);
        }
        self.copy(&kernel.image, "vmlinuz")?;
        if let Some(vmlinux) = &kernel.vmlinux {
            self.copy(vmlinux, "vmlinux")?;
        }
        self.unified(&tools.join(STUB), &cmdline, &initrd)?;

        self.step("the disk", Step::Write);
        let contents = Contents {
            root: &self.out.join("root.erofs"),
            verity: &self.out.join("root.verity"),
            root_hash,
            layers: &pack,
            layers_digest,
            uki: &self.out.join("stratos.efi"),
            version: VERSION,
        };
        disk::write(&self.out.join("disk.img"), profile, &contents, seed, tools)?;
        Ok((root_hash, cmdline))
    }

    /// The files of all layers, as their builds have listed them.
    fn layers_files(&self) -> Result<Files, BuildError> {
        let mut files = Files::default();
        for (spec, manifest) in &self.inputs.layers {
            let stem = manifest.image.trim_end_matches(".erofs");
            let list = self.builder.cache.layers().join(format!("{stem}.files.json"));
            let bytes = std::fs::read(&list).map_err(at("read", &list))?;
            let owners = serde_json::from_slice(&bytes)
                .map_err(|error| at("read", &list)(std::io::Error::other(error)))?;
            let sources = self.builder.recorded(spec)?.sources;
            files.add(&format!("layers/{}", spec.name), &owners, &sources, VERSION);
        }
        Ok(files)
    }

    /// Writes the root's file system and its hash tree, and gives the root hash.
    fn verified_root(&self, tree: &Tree, seed: Seed, mkfs: &Path) -> Result<Digest, ImageError> {
        let (image, hashes) = (self.out.join("root.erofs"), self.out.join("root.verity"));
        erofs::write(tree, &image, &self.inputs.digest, mkfs, &self.temp.join("log"), Packing::Compressed)
            .map_err(|source| ImageError::Run { step: "writing the root's image", source })?;
        let data = File::open(&image).map_err(at("open", &image))?;
        let verity = Verity::of(data, seed.bytes("verity salt"), seed.uuid("verity").0);
        let verity = verity.map_err(at("read", &image))?;
        let out = File::create_new(&hashes).map_err(at("create", &hashes))?;
        verity.write(BufWriter::new(out)).map_err(at("write", &hashes))?;
        Ok(verity.root())
    }

    /// Writes the unified kernel image.
    fn unified(&self, stub: &Path, cmdline: &str, initrd: &Path) -> Result<(), ImageError> {
        let read = |path: &Path| std::fs::read(path).map_err(at("read", path));
        let (release, kernel, initrd) =
            (root::os_release(VERSION), read(&self.inputs.kernel.image)?, read(initrd)?);
        let parts = [
            Part { name: ".osrel", content: release.as_bytes() },
            Part { name: ".cmdline", content: cmdline.as_bytes() },
            Part { name: ".uname", content: self.inputs.kernel.version.as_bytes() },
            Part { name: ".initrd", content: &initrd },
            Part { name: ".linux", content: &kernel },
        ];
        let image = uki::assemble(&read(stub)?, &parts)
            .map_err(|problem| ImageError::Stub { path: stub.to_owned(), problem })?;
        Ok(self.put("stratos.efi", &image)?)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), FileError> {
        let file = self.out.join(name);
        std::fs::write(&file, bytes).map_err(at("write", &file))
    }

    fn copy(&self, from: &Path, name: &str) -> Result<(), FileError> {
        std::fs::copy(from, self.out.join(name)).map_err(at("copy", from))?;
        Ok(())
    }
}

fn digest(file: &Path) -> Result<Digest, FileError> {
    let open = File::open(file).map_err(at("open", file))?;
    Digest::of_reader(open).map_err(at("read", file))
}
