//! `stratos build`: has a node build an artifact, fetches it, signs it here.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::json;
use stratos_api::client::{Call, ClientError};
use stratos_api::{BuildEvent, BuildInfo, path};
use stratos_artifact::{Artifact, ArtifactError, KeyId, SecretKey, is_artifact};
use tempfile::NamedTempFile;

use crate::args::BuildArgs;
use crate::command::deploy::{check_folder, name_beside_spec, skipped};
use crate::command::key;
use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::node::Node;
use crate::output::{Output, note, size};
use crate::pack::pack;
use crate::progress::Progress;

/// Runs the command.
pub(crate) async fn run(args: &BuildArgs, node: &Node, output: Output) -> Result<()> {
    let started = Instant::now();
    check_folder(&args.dir)?;
    // Before the long work.
    let key = args.sign.as_deref().map(key::secret).transpose()?;
    let progress = Progress::new(output.json);
    let build = build(args, node, output, &progress).await?;
    let to = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}.stratos", build.name)));
    progress.step(&format!("fetching {}", size(build.bytes)));
    let fetched = fetch(&build, &to, node, key.as_ref(), &progress).await;
    // It would go by itself, later.
    let forget = Call::new(Method::DELETE, path::BUILD.replace("{id}", &build.id), Bytes::new());
    let forgotten = node.fetch(forget).await;
    let signed_by = fetched?;
    drop(progress);
    if let Err(failure) = forgotten {
        note(&format!("note: the node keeps the artifact for ten minutes: {}", failure.message));
    }
    if output.json {
        let signed_by = signed_by.map(|key| key.to_string());
        return output
            .item(&json!({ "event": "written", "file": to, "signed_by": signed_by, "build": build }));
    }
    print(&build, &to, signed_by, started.elapsed().as_secs_f64(), output)
}

fn print(build: &BuildInfo, to: &Path, signed_by: Option<KeyId>, took: f64, output: Output) -> Result<()> {
    output.line(&format!("built {} ({}, {took:.1} s)", to.display(), size(build.bytes)))?;
    let included = if build.runtime { "included" } else { "not included" };
    output.line(&format!("runtime     {} {}, {included}", build.layer.name, build.layer.version))?;
    let checkpoint = match (build.checkpoint_bytes, &build.no_checkpoint) {
        (Some(bytes), _) => size(bytes),
        (None, reason) => format!("none: {}", reason.as_deref().unwrap_or("the node gives no reason")),
    };
    output.line(&format!("checkpoint  {checkpoint}"))?;
    match signed_by {
        Some(key) => output.line(&format!("signed by   {key}"))?,
        None => {
            output.line("signed by   nobody")?;
            if build.checkpoint_bytes.is_some() {
                note(
                    "hint: nodes use the checkpoint only of a signed artifact: stratos build --sign KEYFILE",
                );
            }
        }
    }
    output.line(&format!("next  stratos deploy {}", to.display()))
}

/// Has the node build it.
async fn build(args: &BuildArgs, node: &Node, output: Output, progress: &Progress) -> Result<BuildInfo> {
    progress.step(&format!("packing {}", args.dir.display()));
    let package = pack(&args.dir)?;
    skipped(&package, progress);
    let name = name_beside_spec(&args.dir).map(|name| format!("&name={name}")).unwrap_or_default();
    let path =
        format!("{}?runtime={}&checkpoint={}{name}", path::BUILDS, !args.no_runtime, !args.no_checkpoint);
    let call = Call::new(Method::POST, path, package.bytes)
        .header("content-type", "application/zstd")
        .header("accept", "application/x-ndjson");
    let mut events = node.stream(call).await?;
    while let Some(event) = events.next::<BuildEvent>().await? {
        if output.json && !matches!(event, BuildEvent::Done { .. }) {
            output.item(&event)?;
        }
        match event {
            BuildEvent::Step { step } => progress.step(&step),
            BuildEvent::Output { line } => progress.line(&format!("  {line}")),
            BuildEvent::Done { build, .. } => return Ok(*build),
            BuildEvent::Failed { error } => {
                let failure = Failure::answered(error);
                return Err(Failure { printed: output.json, ..failure });
            }
        }
    }
    let failure = Failure::new("the node ended the build without a result");
    Err(Failure { exit: Exit::Platform, ..failure.hint("its log says why") })
}

/// Fetches an artifact, verifies and signs it, and puts it in its place.
async fn fetch(
    build: &BuildInfo,
    to: &Path,
    node: &Node,
    key: Option<&SecretKey>,
    progress: &Progress,
) -> Result<Option<KeyId>> {
    let failed = |e: std::io::Error| Failure::new(format!("cannot write {}", to.display())).because(&e);
    let folder = match to.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // For its owner alone, as the memory of a process should be.
    let mut file = NamedTempFile::new_in(folder).map_err(failed)?;
    let call = Call::new(Method::GET, path::BUILD.replace("{id}", &build.id), Bytes::new());
    let response = node.send(call).await?;
    if !response.status().is_success() {
        node.collect(response).await?;
        return Err(Failure::new("the node does not have what it has just built"));
    }
    let (mut body, mut done) = (response.into_body(), 0);
    while let Some(frame) = body.frame().await {
        let broken = |source| ClientError::Broken { endpoint: node.endpoint().clone(), source };
        let Ok(bytes) = frame.map_err(broken)?.into_data() else { continue };
        done += bytes.len() as u64;
        if done > build.bytes {
            break;
        }
        file.write_all(&bytes).map_err(failed)?;
        progress.bytes(done, build.bytes);
    }
    progress.step(if key.is_some() { "verifying and signing" } else { "verifying" });
    let copy = file.reopen().map_err(failed)?;
    // A handle that may also write.
    let own = file.as_file().try_clone().map_err(failed)?;
    let damaged =
        |e: ArtifactError| Failure::new("what the node sent is not the artifact it built").because(&e);
    let signed_by = match key {
        Some(key) => Some(stratos_artifact::sign(own, key).map_err(damaged)?.key),
        None => {
            Artifact::open(copy).and_then(|artifact| artifact.verify()).map_err(damaged)?;
            own.sync_all().map_err(failed)?;
            None
        }
    };
    file.persist(to).map_err(|e| failed(e.error))?;
    Ok(signed_by)
}

/// True when a path leads to an artifact.
pub(crate) fn is_built(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(8).read_to_end(&mut head));
    read.is_ok() && is_artifact(&head)
}
