//! Python dependencies: pip of the layer into `.stratos/python`, then bytecode for everything.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use serde::Deserialize;
use stratos_api::DeployEvent;
use stratos_sandbox::Image;

use super::build::{Bind, Builder, Ended, Job};
use super::entry::PYTHON_PACKAGES;
use super::error::DeployError;
use super::folder::Folder;
use super::hint;
use super::requirements::{self, Text};

const PYTHON: &str = "/usr/bin/python3.13";
/// Where the layer has pip: one wheel, which the interpreter runs as it is.
const WHEELS: &str = "usr/share/python-wheels";
const REPORT: &str = ".stratos/report.json";
const REQUIREMENTS: &str = ".stratos/requirements.txt";

/// What pip's report says of each package it installed.
#[derive(Deserialize)]
struct Report {
    install: Vec<Installed>,
}

#[derive(Deserialize)]
struct Installed {
    metadata: Metadata,
    download_info: DownloadInfo,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    version: String,
}

#[derive(Deserialize)]
struct DownloadInfo {
    #[serde(default)]
    archive_info: ArchiveInfo,
}

#[derive(Default, Deserialize)]
struct ArchiveInfo {
    #[serde(default)]
    hashes: std::collections::BTreeMap<String, String>,
}

/// Installs what `requirements.txt` or `pyproject.toml` asks for; gives what was installed.
pub(super) fn resolve(
    builder: &Builder<'_>,
    layer: &Arc<Image>,
    folder: &Folder,
    progress: &mut dyn FnMut(DeployEvent),
) -> Result<Vec<(String, String, String)>, DeployError> {
    let read = |source| DeployError::io("read", folder.path(), source);
    let mut dependencies = Vec::new();
    let asked = if folder.has_file("requirements.txt").map_err(read)? {
        Some(("requirements.txt", "requirements.txt"))
    } else {
        write_requirements(folder)?.then_some(("pyproject.toml", REQUIREMENTS))
    };
    if let Some((file, path)) = asked {
        requirements::check(path, &|name| match folder.text(name) {
            Ok(Some(text)) => Text::Read(text),
            Ok(None) if !folder.has_file(name).unwrap_or(true) => Text::Missing,
            _ => Text::Unreadable,
        })?;
        progress(DeployEvent::Step { step: "resolving dependencies with pip".into() });
        let ended = install(builder, layer, folder, path, progress)?;
        if !ended.ok {
            return Err(failed(file, &ended));
        }
        dependencies = installed(folder, file)?;
    }
    compile(builder, layer, folder, progress)?;
    Ok(dependencies)
}

/// True when `pyproject.toml` names dependencies, which then stand in a requirements file.
fn write_requirements(folder: &Folder) -> Result<bool, DeployError> {
    let text = folder.settings("pyproject.toml")?;
    let Some(project) = text.and_then(|text| text.parse::<toml::Table>().ok()) else { return Ok(false) };
    let listed = project.get("project").and_then(|p| p.get("dependencies")).and_then(|d| d.as_array());
    let lines: Vec<&str> = listed.into_iter().flatten().filter_map(|line| line.as_str()).collect();
    if lines.is_empty() {
        return Ok(false);
    }
    // No entry of a package is below `.stratos`: nothing there can be a link.
    let own = folder.path().join(".stratos");
    fs::create_dir_all(&own).map_err(|e| DeployError::io("create", &own, e))?;
    let path = folder.path().join(REQUIREMENTS);
    fs::write(&path, lines.join("\n") + "\n").map_err(|e| DeployError::io("write", &path, e))?;
    Ok(true)
}

fn task(folder: &Folder) -> Bind {
    Bind { source: folder.path().to_owned(), target: "/var/task".into(), writable: true }
}

fn install(
    builder: &Builder<'_>,
    layer: &Arc<Image>,
    folder: &Folder,
    requirements: &str,
    progress: &mut dyn FnMut(DeployEvent),
) -> Result<Ended, DeployError> {
    let words = [
        "install",
        "--target",
        &format!("/var/task/{PYTHON_PACKAGES}"),
        // No compiler is in the layer, and a source package runs its author's code to be built.
        "--only-binary",
        ":all:",
        // Bytecode that pip makes goes stale with the image's fixed times.
        "--no-compile",
        "--no-cache-dir",
        "--no-input",
        "--disable-pip-version-check",
        "--no-warn-script-location",
        "--root-user-action",
        "ignore",
        "--progress-bar",
        "off",
        "--report",
        &format!("/var/task/{REPORT}"),
        "--requirement",
        &format!("/var/task/{requirements}"),
    ];
    let own = folder.path().join(".stratos");
    fs::create_dir_all(&own).map_err(|e| DeployError::io("create", &own, e))?;
    let mut argv = vec![PYTHON.to_owned(), "-I".into(), pip(layer)?];
    argv.extend(words.map(str::to_owned));
    let job = Job {
        what: "pip",
        layer,
        binds: vec![task(folder)],
        argv,
        cwd: "/var/task",
        env: vec![("TMPDIR".into(), "/tmp".into())],
        network: true,
    };
    builder.run(job, progress)
}

/// The path of pip inside the layer.
fn pip(layer: &Image) -> Result<String, DeployError> {
    let folder = layer.mount_point().join(WHEELS);
    let entries = fs::read_dir(&folder).map_err(|e| DeployError::io("list", &folder, e))?;
    let mut names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let wheel = names.find(|name| name.starts_with("pip-") && name.ends_with(".whl"));
    let wheel =
        wheel.ok_or_else(|| DeployError::Settings { reason: "the Python layer holds no pip".into() })?;
    Ok(format!("/{WHEELS}/{wheel}/pip"))
}

/// Reads pip's report and removes it: it names the node's package index.
fn installed(folder: &Folder, file: &'static str) -> Result<Vec<(String, String, String)>, DeployError> {
    let text = folder.text(REPORT).map_err(|e| DeployError::io("read", folder.path(), e))?;
    let report = text.and_then(|text| serde_json::from_str::<Report>(&text).ok());
    let report = report.ok_or_else(|| DeployError::Dependencies {
        file,
        tail: Vec::new(),
        hint: "pip's report is missing or unreadable; deploy again".into(),
    })?;
    for name in [REPORT, REQUIREMENTS] {
        let path = folder.path().join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(DeployError::io("delete", &path, e));
            }
            _ => {}
        }
    }
    let packages: BTreeSet<_> = report
        .install
        .into_iter()
        .map(|package| {
            let digest = package.download_info.archive_info.hashes.get("sha256");
            let digest = digest.map(|hex| format!("sha256:{hex}")).unwrap_or_default();
            (package.metadata.name, package.metadata.version, digest)
        })
        .collect();
    if let Some((name, ..)) = packages.iter().find(|(_, _, digest)| digest.is_empty()) {
        return Err(DeployError::Dependencies {
            file,
            tail: vec![format!("{name} came without a digest")],
            hint: "name packages of an index; a folder or repository cannot be locked by digest".into(),
        });
    }
    Ok(packages.into_iter().collect())
}

/// Compiles the function and its packages. Unchecked: the image never changes, and a check at each import is a cost
/// of every cold start. Files that are no valid Python stay without; the import says so, if there is one.
fn compile(
    builder: &Builder<'_>,
    layer: &Arc<Image>,
    folder: &Folder,
    progress: &mut dyn FnMut(DeployEvent),
) -> Result<(), DeployError> {
    progress(DeployEvent::Step { step: "compiling bytecode".into() });
    let words = ["-I", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash", "/var/task"];
    let job = Job {
        what: "the compilation of bytecode",
        layer,
        binds: vec![task(folder)],
        argv: std::iter::once(PYTHON).chain(words).map(str::to_owned).collect(),
        cwd: "/var/task",
        env: Vec::new(),
        network: false,
    };
    let ended = builder.run(job, progress)?;
    if ended.oom_killed || ended.timed_out {
        tracing::warn!("bytecode was not compiled in full; cold starts of this version are slower");
    }
    Ok(())
}

fn failed(file: &'static str, ended: &Ended) -> DeployError {
    let hint = hint::of_job(ended).unwrap_or_else(|| hint::of_pip(&ended.lines));
    DeployError::Dependencies { file, tail: ended.tail(None), hint }
}
