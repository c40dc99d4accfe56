//! The root: a tree with the two programs, what the description lists, and the layers' manifests. PID 1 mounts its image
//! read-only, every block checked.

use std::fs::File;
use std::path::Path;

use stratos_types::LayerManifest;

use super::check;
use super::error::ImageError;
use super::files::Files;
use crate::assemble::{self, Copied};
use crate::build::Builder;
use crate::error::{BuildError, at};
use crate::lock::Sources;
use crate::programs::Programs;
use crate::spec::LayerSpec;
use crate::tree::Tree;

/// Folder of StratOS's own data in the root.
const SHARE: &str = "/usr/share/stratos";
/// The file of [`Files`] in the root.
pub(crate) const FILES: &str = "/usr/share/stratos/files.json";

/// What the root is made from.
pub(crate) struct Parts<'a> {
    /// Packages, files, links and folders of the description.
    pub(crate) spec: &'a LayerSpec,
    /// Its packages as locked.
    pub(crate) sources: &'a Sources,
    /// Its files of the repository.
    pub(crate) copies: &'a [Copied],
    /// The agent and PID 1.
    pub(crate) programs: &'a Programs,
    /// The layers, with their places in the pack.
    pub(crate) layers: &'a [LayerManifest],
    /// StratOS's version.
    pub(crate) version: &'a str,
}

/// What `/etc/os-release` says, and the same section of the unified kernel image.
pub(crate) fn os_release(version: &str) -> String {
    format!(
        "NAME=\"StratOS\"\nID=stratos\nVERSION_ID={version}\nPRETTY_NAME=\"StratOS {version}\"\nIMAGE_ID=stratos\n\
         IMAGE_VERSION={version}\n"
    )
}

impl Builder<'_> {
    /// Assembles the root in the folder `to`, but for its list of files, which is made last.
    pub(crate) fn root_tree(&self, to: &Path, parts: &Parts<'_>) -> Result<Tree, BuildError> {
        let mut tree = Tree::new(to.to_owned()).map_err(ImageError::Tree)?;
        assemble::debs(&self.cache, &mut tree, parts.spec, parts.sources)?;
        assemble::rest(&self.cache, &mut tree, parts.spec, parts.sources, parts.copies)?;
        add(&mut tree, parts)?;
        Ok(tree)
    }
}

fn add(tree: &mut Tree, parts: &Parts<'_>) -> Result<(), ImageError> {
    for (path, program) in
        [("/usr/bin/stratosd", &parts.programs.agent), ("/usr/bin/stratos-init", &parts.programs.init)]
    {
        let file = File::open(program).map_err(at("open", program))?;
        tree.file(path, true, file, "stratos")?;
    }
    tree.file("/etc/os-release", false, os_release(parts.version).as_bytes(), "stratos")?;
    for layer in parts.layers {
        let json = serde_json::to_vec_pretty(layer).expect("a manifest is plain data");
        tree.file(&format!("{SHARE}/layers/{}.json", layer.name), false, json.as_slice(), "stratos")?;
    }
    Ok(())
}

/// Adds the list of all files, itself included, and checks what the root must not hold.
pub(crate) fn finish(tree: &mut Tree, files: &mut Files, parts: &Parts<'_>) -> Result<Vec<u8>, ImageError> {
    let mut owners = tree.owners().clone();
    owners.insert(FILES.trim_start_matches('/').to_owned(), "stratos".to_owned());
    files.add("root", &owners, parts.sources, parts.version);
    let json = serde_json::to_vec(files).expect("a map of strings");
    tree.file(FILES, false, json.as_slice(), "stratos")?;
    check::root(tree, &parts.spec.mountpoints)?;
    Ok(json)
}
