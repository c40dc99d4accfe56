//! Putting a layer's tree together from its fetched packages, and checking that it is complete.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use stratos_types::Digest;

use crate::cache::Cache;
use crate::error::{BuildError, FileError, at};
use crate::lock::Sources;
use crate::run;
use crate::spec::{LayerSpec, VersionSource};
use crate::tree::Tree;
use crate::unpack::{self, Selection, UnpackError};
use crate::{elf, glob};

/// A file that is copied out of the repository.
#[derive(Debug, Serialize)]
pub(crate) struct Copied {
    /// Where it is; not part of what the layer is made from.
    #[serde(skip)]
    from: PathBuf,
    to: String,
    digest: Digest,
    executable: bool,
}

/// The repository's files that go into a layer, sorted by their place in it.
pub(crate) fn copies(repo_root: &Path, spec: &LayerSpec) -> Result<Vec<Copied>, FileError> {
    let mut found = BTreeMap::new();
    for copy in &spec.copy {
        let base = repo_root.join(&copy.from);
        let mut open = vec![(base.clone(), String::new())];
        while let Some((place, inner)) = open.pop() {
            let meta = std::fs::metadata(&place).map_err(at("find", &place))?;
            if meta.is_dir() {
                for entry in std::fs::read_dir(&place).map_err(at("list", &place))? {
                    let entry = entry.map_err(at("list", &place))?;
                    let name = entry.file_name().to_string_lossy().into_owned();
                    let inner = if inner.is_empty() { name } else { format!("{inner}/{name}") };
                    open.push((entry.path(), inner));
                }
            } else if copy.include.is_empty()
                || copy.include.iter().any(|pattern| glob::matches(pattern, &inner))
            {
                let to = if inner.is_empty() { copy.to.clone() } else { format!("{}/{inner}", copy.to) };
                let file = File::open(&place).map_err(at("open", &place))?;
                let digest = Digest::of_reader(file).map_err(at("read", &place))?;
                let executable = meta.permissions().mode() & 0o111 != 0;
                found.insert(to.clone(), Copied { from: place, to, digest, executable });
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Adds the error's place: the layer it happened in.
fn in_layer(layer: &str) -> impl Fn(UnpackError) -> BuildError + '_ {
    move |error| match error {
        UnpackError::Tree(source) => BuildError::Tree { layer: layer.to_owned(), source },
        UnpackError::Run(source) => BuildError::Run { layer: layer.to_owned(), step: "unpacking", source },
    }
}

/// Unpacks a layer's Debian packages.
pub(crate) fn debs(
    cache: &Cache,
    tree: &mut Tree,
    spec: &LayerSpec,
    sources: &Sources,
) -> Result<(), BuildError> {
    for deb in &spec.deb {
        let locked = sources.deb(&deb.name).expect("every package of a layer has been fetched");
        let selection = Selection::new(&deb.name, &deb.include, &deb.exclude, &spec.exclude);
        unpack::deb(tree, &cache.download(&locked.sha256), selection).map_err(in_layer(&spec.name))?;
    }
    Ok(())
}

/// Adds all that a layer has besides Debian packages.
pub(crate) fn rest(
    cache: &Cache,
    tree: &mut Tree,
    spec: &LayerSpec,
    sources: &Sources,
    copies: &[Copied],
) -> Result<(), BuildError> {
    let unpack_error = in_layer(&spec.name);
    let tree_error = |source| BuildError::Tree { layer: spec.name.clone(), source };
    for wheel in &spec.wheel {
        let locked = sources.wheel(&wheel.name).expect("every wheel of a layer has been fetched");
        let selection = Selection::new(&wheel.name, &wheel.include, &wheel.exclude, &spec.exclude);
        let file = cache.download(&locked.sha256);
        unpack::wheel(tree, &file, &wheel.strip, &wheel.to, selection).map_err(&unpack_error)?;
    }
    for copy in copies {
        let file = File::open(&copy.from).map_err(at("open", &copy.from))?;
        tree.file(&copy.to, copy.executable, file, "stratos").map_err(tree_error)?;
    }
    for text in &spec.text {
        tree.file(&text.path, false, text.content.as_bytes(), "stratos").map_err(tree_error)?;
    }
    for link in &spec.symlink {
        tree.link(&link.path, &link.target, "stratos").map_err(tree_error)?;
    }
    if let Some(bundle) = &spec.ca_bundle {
        let locked = sources.deb(&bundle.package).expect("the certificates' package has been fetched");
        let file = cache.download(&locked.sha256);
        let certificates =
            unpack::deb_files(&file, &bundle.package, &bundle.certificates).map_err(&unpack_error)?;
        tree.file(&bundle.path, false, certificates.concat().as_slice(), &bundle.package)
            .map_err(tree_error)?;
    }
    for folder in &spec.mountpoints {
        tree.folder(folder, "layout").map_err(tree_error)?;
    }
    Ok(())
}

/// Compiles the Python modules a layer wants compiled, with its own interpreter. The result does not depend on file
/// times: each module's bytecode is taken as it is, since neither can change in a read-only layer.
pub(crate) fn bytecode(tree: &Tree, spec: &LayerSpec) -> Result<(), BuildError> {
    let Some(bytecode) = &spec.bytecode else { return Ok(()) };
    let fail = |source| BuildError::Run { layer: spec.name.clone(), step: "compiling bytecode", source };
    let mut command = run::tree_command(tree.root(), &bytecode.interpreter).map_err(fail)?;
    command.args(["-B", "-s", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash", "-s"]);
    command.arg(tree.root()).args(["-p", "/"]);
    command.args(bytecode.paths.iter().map(|path| tree.root().join(path.trim_start_matches('/'))));
    command.env("PYTHONHOME", tree.root().join("usr")).env("PYTHONHASHSEED", "0");
    run::output(&mut command).map_err(fail)?;
    Ok(())
}

/// Checks that all programs, libraries and links of a layer lead to something in it.
pub(crate) fn check(tree: &Tree, spec: &LayerSpec) -> Result<(), BuildError> {
    tree.check_links().map_err(|source| BuildError::Tree { layer: spec.name.clone(), source })?;
    elf::check(tree).map_err(|source| BuildError::Elf { layer: spec.name.clone(), source })
}

/// The version of what a layer holds.
pub(crate) fn version(tree: &Tree, spec: &LayerSpec, sources: &Sources) -> Result<String, BuildError> {
    match &spec.version {
        VersionSource::Package { package } => {
            Ok(sources.deb(package).expect("the description was checked to hold it").version.clone())
        }
        VersionSource::Run { run: words, strip, expect } => {
            let fail =
                |source| BuildError::Run { layer: spec.name.clone(), step: "asking for its version", source };
            let mut command = run::tree_command(tree.root(), &words[0]).map_err(fail)?;
            command.args(&words[1..]).env("PYTHONHOME", tree.root().join("usr"));
            let output = run::output(&mut command).map_err(fail)?;
            let text = String::from_utf8_lossy(&output.stdout);
            let word = text.split_whitespace().last().unwrap_or_default();
            let found = word.strip_prefix(strip.as_str()).unwrap_or(word).to_owned();
            if !found.starts_with(expect.as_str()) {
                let (layer, expected) = (spec.name.clone(), expect.clone());
                return Err(BuildError::Version { layer, found, expected });
            }
            Ok(found)
        }
    }
}
