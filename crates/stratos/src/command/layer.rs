//! `stratos layer build`, `lock`, `ls`: the runtime layers in this machine's cache.

use std::path::{Path, PathBuf};

use serde_json::json;
use stratos_image::{
    BuildError, BuildOptions, LayerSpec, Step, build_all, build_layer, default_cache_dir, relock,
};
use stratos_types::LayerManifest;

use crate::args::{LayerArgs, LayerBuildArgs};
use crate::failure::{Failure, Result};
use crate::output::{Output, Table, note, size};
use crate::progress::Progress;

/// `stratos layer build`.
pub(crate) fn build(args: LayerBuildArgs, output: Output) -> Result<()> {
    let reporter = Reporter::new(output);
    let options = BuildOptions { locked: args.locked, ..options(args.layer, &reporter)? };
    let manifests = if args.names.is_empty() {
        build_all(&options)?
    } else {
        let specs =
            args.names.iter().map(|name| LayerSpec::load(&options.repo_root, name).map_err(BuildError::from));
        let specs = specs.collect::<Result<Vec<_>, _>>()?;
        specs.iter().map(|spec| build_layer(spec, &options)).collect::<Result<_, _>>()?
    };
    drop(reporter);
    print(&manifests, output)
}

/// `stratos layer lock`.
pub(crate) fn lock(args: LayerArgs, output: Output) -> Result<()> {
    let reporter = Reporter::new(output);
    let changes = relock(&options(args, &reporter)?)?;
    drop(reporter);
    if output.json {
        let changes = changes.iter().map(|c| json!({ "name": c.name, "from": c.from, "to": c.to }));
        return output.document(&changes.collect::<Vec<_>>());
    }
    if changes.is_empty() {
        note("the lock is up to date");
        return Ok(());
    }
    let mut table = Table::new(&["PACKAGE", "FROM", "TO"], &[]);
    for change in changes {
        let version = |version: Option<String>| version.unwrap_or_else(|| "-".into());
        table.row([change.name, version(change.from), version(change.to)]);
    }
    output.bytes(table.render().as_bytes())
}

/// `stratos layer ls`.
pub(crate) fn list(output: Output) -> Result<()> {
    let folder = cache()?.join("layers");
    let failed = |path: &Path, e: &dyn std::error::Error| {
        Failure::new(format!("cannot read {}", path.display())).because(e)
    };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>().map_err(|e| failed(&folder, &e))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(failed(&folder, &e)),
    };
    let is_manifest = |name: &str| name.ends_with(".json") && !name.ends_with(".files.json");
    let mut files: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).collect();
    files.retain(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(is_manifest));
    files.sort();
    let mut manifests = Vec::new();
    for file in files {
        let bytes = std::fs::read(&file).map_err(|e| failed(&file, &e))?;
        let manifest: LayerManifest = serde_json::from_slice(&bytes)
            .map_err(|e| failed(&file, &e).hint("build it again with `stratos layer build`"))?;
        manifests.push(manifest);
    }
    if manifests.is_empty() && !output.json {
        note("no layers yet; build them with `stratos layer build`");
        return Ok(());
    }
    print(&manifests, output)
}

fn print(manifests: &[LayerManifest], output: Output) -> Result<()> {
    if output.json {
        return output.document(&manifests);
    }
    let mut table = Table::new(&["LAYER", "VERSION", "SIZE", "DIGEST"], &[2]);
    for m in manifests {
        table.row([m.name.clone(), m.version.clone(), size(m.size), m.image_digest.to_string()]);
    }
    output.bytes(table.render().as_bytes())
}

pub(super) fn cache() -> Result<PathBuf> {
    default_cache_dir()
        .ok_or_else(|| Failure::new("there is no folder for the cache").hint("set STRATOS_CACHE to a folder"))
}

pub(super) fn options(args: LayerArgs, reporter: &Reporter) -> Result<BuildOptions<'_>> {
    let root = match args.root {
        Some(root) => root,
        None => find_root(
            &std::env::current_dir()
                .map_err(|e| Failure::new("cannot tell the current folder").because(&e))?,
        )?,
    };
    let options = BuildOptions::new(cache()?, root, reporter);
    // clap has read the environment already.
    Ok(BuildOptions { mirror: args.debian_mirror.filter(|mirror| !mirror.is_empty()), ..options })
}

/// The nearest folder, from `start` upwards, that describes layers.
fn find_root(start: &Path) -> Result<PathBuf> {
    let found = start.ancestors().find(|folder| folder.join("distro/layers").is_dir());
    found.map(Path::to_owned).ok_or_else(|| {
        Failure::usage("neither this folder nor one above it holds distro/layers")
            .hint("run it inside the StratOS source tree, or name that with --root DIR")
    })
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        let failure = Self::from_chain(&error);
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// Shows what a build reports.
pub(super) struct Reporter(Progress);

impl Reporter {
    pub(super) fn new(output: Output) -> Self {
        Self(Progress::new(output.json))
    }
}

impl stratos_image::Progress for Reporter {
    fn step(&self, layer: &str, step: Step) {
        match step {
            Step::Done => {}
            step => self.0.step(&format!("{step} {layer}")),
        }
    }

    fn bytes(&self, _: &str, done: u64, total: u64) {
        self.0.bytes(done, total);
    }

    fn detail(&self, _: &str, detail: &str) {
        self.0.detail(detail);
    }

    fn notice(&self, message: &str) {
        // Also with --json: a replaced version must never go unseen.
        self.0.loud(&format!("notice: {message}"));
    }
}
