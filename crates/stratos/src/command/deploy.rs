//! `stratos deploy`: packs a folder, sends it, shows what the node does with it.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use http::Method;
use stratos_api::client::{Call, Endpoint};
use stratos_api::{ArtifactInfo, DeployEvent, FileBody, VersionInfo, path};
use stratos_types::{FunctionName, spec};

use crate::args::DeployArgs;
use crate::command::build::is_built;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::node::{Lines, Node, path_of};
use crate::output::{Output, note, size};
use crate::pack::{Package, pack};
use crate::progress::Progress;

/// Runs the command.
pub(crate) async fn run(args: &DeployArgs, node: &Node, output: Output) -> Result<()> {
    let started = Instant::now();
    let progress = Progress::new(output.json);
    let (name, version) = if is_built(&args.dir) {
        send_artifact(&args.dir, node, output, &progress).await?
    } else {
        check_folder(&args.dir)?;
        progress.step(&format!("packing {}", args.dir.display()));
        let package = pack(&args.dir)?;
        send(&args.dir, package, node, output, &progress).await?
    };
    drop(progress);
    if output.json {
        return Ok(());
    }
    let took = started.elapsed().as_secs_f64();
    output.line(&format!(
        "deployed {name} version {} ({}, {took:.1} s)",
        version.version,
        size(version.size)
    ))?;
    if let Some(artifact) = &version.artifact {
        output.line(&format!("checkpoint  {}", checkpoint_of(artifact)))?;
    }
    output.line(&format!("url   {}", function_url(node.endpoint(), &name)))?;
    version.notes.iter().for_each(|text| note(&format!("note: {text}")));
    if let Some(hint) = version.artifact.as_ref().and_then(|artifact| artifact.hint.as_ref()) {
        note(&format!("hint: {hint}"));
    }
    // A server is called by its URL.
    if version.kind == "http" {
        Ok(())
    } else {
        output.line(&format!("next  stratos invoke {name} -d '{{}}'"))
    }
}

/// What became of an artifact's checkpoint, in words.
fn checkpoint_of(artifact: &ArtifactInfo) -> String {
    let reason = artifact.reason.as_deref().unwrap_or("the artifact does not say why");
    match (artifact.checkpoint.as_str(), &artifact.signed_by) {
        ("taken", Some(key)) => format!("taken from the artifact (signed by {key})"),
        ("dropped", _) => format!("dropped: {reason}; the node makes its own"),
        ("none", _) => format!("none in the artifact: {reason}"),
        (other, _) => other.to_owned(),
    }
}

/// Tells what was left out of a package.
pub(crate) fn skipped(package: &Package, progress: &Progress) {
    for path in &package.skipped {
        progress
            .line(&format!("note: {path} is neither a file, a folder nor a symbolic link, and is left out"));
    }
}

/// Sends a package and follows the deploy to its end: the function's name and its new version.
pub(crate) async fn send(
    dir: &Path,
    package: Package,
    node: &Node,
    output: Output,
    progress: &Progress,
) -> Result<(String, VersionInfo)> {
    skipped(&package, progress);
    let sizes = (size(package.unpacked), size(package.bytes.len() as u64));
    progress.step(&format!("sending {} files, {} ({} compressed)", package.files, sizes.0, sizes.1));
    let path = match name_beside_spec(dir) {
        Some(name) => path_of(path::VERSIONS, &name),
        None => path::DEPLOY.to_owned(),
    };
    let call = Call::new(Method::POST, path, package.bytes)
        .header("content-type", "application/zstd")
        .header("accept", "application/x-ndjson");
    follow(node.stream(call).await?, output, progress).await
}

/// The same of an artifact.
async fn send_artifact(
    file: &Path,
    node: &Node,
    output: Output,
    progress: &Progress,
) -> Result<(String, VersionInfo)> {
    let failed = |e: std::io::Error| Failure::new(format!("cannot read {}", file.display())).because(&e);
    let open = std::fs::File::open(file).map_err(failed)?;
    let bytes = open.metadata().map_err(failed)?.len();
    progress.step(&format!("sending {}, {}", file.display(), size(bytes)));
    let call = Call::new(Method::POST, path::DEPLOY, Bytes::new())
        .header("content-type", "application/vnd.stratos.artifact")
        .header("accept", "application/x-ndjson");
    let events = node.stream_file(call, FileBody::new(open).map_err(failed)?).await?;
    let deployed = follow(events, output, progress).await;
    // The node knows no name of the file.
    deployed
        .map_err(|failure| Failure { message: format!("{}: {}", file.display(), failure.message), ..failure })
}

async fn follow(mut events: Lines, output: Output, progress: &Progress) -> Result<(String, VersionInfo)> {
    while let Some(event) = events.next::<DeployEvent>().await? {
        if output.json {
            output.item(&event)?;
        }
        match event {
            DeployEvent::Step { step } => progress.step(&step),
            DeployEvent::Output { line } => progress.line(&format!("  {line}")),
            DeployEvent::Done { name, version, .. } => return Ok((name, *version)),
            DeployEvent::Failed { error } => {
                // With --json the event that was just printed is the document about it.
                let failure = Failure::answered(error);
                return Err(Failure { printed: output.json, ..failure });
            }
        }
    }
    let failure = Failure::new("the node ended the deploy without a result");
    Err(Failure {
        exit: Exit::Platform,
        ..failure.hint("see its log; nothing or everything was deployed: stratos ls")
    })
}

/// Refuses what cannot be a function's folder, before anything is sent.
pub(crate) fn check_folder(dir: &Path) -> Result<()> {
    let meta = std::fs::metadata(dir)
        .map_err(|e| Failure::new(format!("cannot read the folder {}", dir.display())).because(&e))?;
    if !meta.is_dir() {
        let hint = "give the function's folder: the one that holds its stratos.toml";
        return Err(Failure::usage(format!("{} is not a folder", dir.display())).hint(hint));
    }
    Ok(())
}

/// The name to deploy under when the folder's files do not tell it: the folder's own. The node sees the files only.
pub(crate) fn name_beside_spec(dir: &Path) -> Option<FunctionName> {
    // A file that cannot be read or parsed is the node's to complain about: it names the line and the key.
    let toml = |text: String| text.parse::<toml::Table>().map(|t| t.contains_key("name")).unwrap_or(true);
    let json = |text: String| {
        serde_json::from_str::<serde_json::Value>(&text).map(|v| v.get("name").is_some()).unwrap_or(true)
    };
    let named = std::fs::read_to_string(dir.join(spec::FILE_NAME)).is_ok_and(toml)
        || std::fs::read_to_string(dir.join("package.json")).is_ok_and(json);
    let folder = || {
        Some(
            dir.canonicalize()
                .ok()?
                .file_name()?
                .to_str()?
                .to_ascii_lowercase()
                .replace(['_', '.', ' '], "-"),
        )
    };
    if named { None } else { folder()?.trim_matches('-').parse().ok() }
}

/// How a person reaches a function's own URL.
pub(crate) fn function_url(endpoint: &Endpoint, name: &str) -> String {
    match endpoint {
        Endpoint::Unix(socket) => format!("curl --unix-socket {} http://stratos/f/{name}/", socket.display()),
        tcp => format!("{tcp}/f/{name}/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_names_the_function_when_no_file_does() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("My_Function");
        std::fs::create_dir(&dir).unwrap();
        let name = || name_beside_spec(&dir).map(|n| n.to_string());
        assert_eq!(name().as_deref(), Some("my-function"));
        std::fs::write(dir.join("stratos.toml"), "memory = \"64MB\"").unwrap();
        assert_eq!(name().as_deref(), Some("my-function"));
        std::fs::write(dir.join("package.json"), "{\"name\":\"other\"}").unwrap();
        assert_eq!(name(), None);
        std::fs::remove_file(dir.join("package.json")).unwrap();
        for text in ["name = \"x\"", "not toml"] {
            std::fs::write(dir.join("stratos.toml"), text).unwrap();
            assert_eq!(name(), None, "{text}");
        }
    }
}
