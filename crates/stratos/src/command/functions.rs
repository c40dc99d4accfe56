//! `stratos ls`, `show`, `versions`, `rollback`, `rm`: what is on a node and which version is current.

use std::io::{IsTerminal, Write};

use bytes::Bytes;
use http::Method;
use stratos_api::client::Call;
use stratos_api::{
    ArtifactInfo, CheckpointInfo, FunctionDetail, FunctionSummary, InvocationRecord, RollbackRequest,
    VersionInfo, path,
};
use stratos_types::FunctionName;

use crate::args::{RmArgs, RollbackArgs};
use crate::command::deploy::function_url;
use crate::failure::{Failure, Result};
use crate::node::{Node, path_of};
use crate::output::{Output, Table, ms, note, size, when};

/// `stratos ls`.
pub(crate) async fn list(node: &Node, output: Output) -> Result<()> {
    let functions: Vec<FunctionSummary> = node.get(path::FUNCTIONS).await?;
    if output.json {
        return output.document(&functions);
    }
    if functions.is_empty() {
        note("no functions yet; make one with `stratos new NAME`, deploy it with `stratos deploy NAME`");
        return Ok(());
    }
    let headings = ["NAME", "RUNTIME", "VERSION", "DEPLOYED", "INSTANCES", "INVOCATIONS", "ERRORS"];
    let mut table = Table::new(&headings, &[2, 4, 5, 6]);
    for f in functions {
        let counts = [f.instances.to_string(), f.invocations.to_string(), f.errors.to_string()];
        let [instances, invocations, errors] = counts;
        let version = f.version.to_string();
        table.row([f.name, f.runtime, version, when(&f.deployed_at), instances, invocations, errors]);
    }
    output.bytes(table.render().as_bytes())
}

/// `stratos show`.
pub(crate) async fn show(name: &FunctionName, node: &Node, output: Output) -> Result<()> {
    let detail: FunctionDetail = node.get(path_of(path::FUNCTION, name)).await?;
    if output.json {
        return output.document(&detail);
    }
    let current = &detail.current;
    let mut text = String::new();
    let mut field = |name: &str, value: &str| text.push_str(&format!("{name:<13}{value}\n"));
    field("name", &detail.name);
    field("version", &format!("{}, deployed {}", current.version, when(&current.deployed_at)));
    field("runtime", &format!("{} ({} {})", current.runtime, current.kind, current.layer.version));
    field("image", &format!("{} ({})", current.digest, size(current.size)));
    field("layer", &format!("{} {}", current.layer.name, current.layer.digest));
    field("url", &function_url(node.endpoint(), &detail.name));
    let counts = format!(
        "{} ({} errors, {} cold starts), {} waiting",
        detail.invocations, detail.errors, detail.cold_starts, detail.queued
    );
    field("invocations", &counts);
    field("checkpoint", &checkpoint(&detail.checkpoint));
    if let Some(artifact) = &current.artifact {
        field("artifact", &from_artifact(artifact));
    }
    current.notes.iter().for_each(|note| field("note", note));
    text.push_str("\nSPECIFICATION\n");
    text.extend(current.spec.trim_end().lines().map(|line| format!("  {line}").trim_end().to_owned() + "\n"));
    if !current.dependencies.is_empty() {
        let mut table = Table::new(&["DEPENDENCY", "VERSION", "DIGEST"], &[]);
        for d in &current.dependencies {
            table.row([d.name.clone(), d.version.clone(), d.digest.clone()]);
        }
        text.push_str(&format!("\n{}", table.render()));
    }
    if !detail.instances.is_empty() {
        let headings = ["INSTANCE", "VERSION", "STATE", "IN FLIGHT", "SERVED", "AGE s", "MEMORY"];
        let mut table = Table::new(&headings, &[1, 3, 4, 5, 6]);
        for i in &detail.instances {
            let memory = i.memory_kb.map_or_else(|| "-".into(), |kb| size(kb * 1024));
            let numbers = (i.in_flight.to_string(), i.served.to_string(), i.age_s.to_string());
            let (id, version, state) = (i.id.clone(), i.version.to_string(), i.state.clone());
            table.row([id, version, state, numbers.0, numbers.1, numbers.2, memory]);
        }
        text.push_str(&format!("\n{}", table.render()));
    }
    if !detail.recent.is_empty() {
        text.push_str(&format!("\n{}", invocations(&detail.recent).render()));
    }
    output.bytes(text.as_bytes())
}

/// What was done with the artifact at the deploy.
fn from_artifact(artifact: &ArtifactInfo) -> String {
    let signed = artifact.signed_by.as_ref().map(|key| format!("signed by {key}; ")).unwrap_or_default();
    let reason = artifact.reason.as_deref().unwrap_or("it does not say why");
    match artifact.checkpoint.as_str() {
        "taken" => format!("{signed}its checkpoint was taken"),
        "dropped" => format!("{signed}its checkpoint was dropped: {reason}"),
        "none" => format!("{signed}it has no checkpoint: {reason}"),
        other => format!("{signed}{other}"),
    }
}

/// How instances are started, and why not otherwise.
fn checkpoint(info: &CheckpointInfo) -> String {
    let mut text = info.state.clone();
    if let Some(bytes) = info.bytes {
        text += &format!(", {}{}", size(bytes), if info.in_memory { ", in memory" } else { "" });
    }
    if let Some(key) = &info.signed_by {
        text += &format!(", from the artifact (signed by {key})");
    }
    match &info.reason {
        Some(reason) => text + ": " + reason,
        None => text,
    }
}

/// Invocations with their phases in milliseconds.
pub(super) fn invocations(records: &[InvocationRecord]) -> Table {
    let headings = [
        "INVOCATION",
        "STARTED",
        "START",
        "QUEUE",
        "SANDBOX",
        "RUNTIME",
        "INIT",
        "HANDLER",
        "TOTAL ms",
        "OUTCOME",
    ];
    let mut table = Table::new(&headings, &[3, 4, 5, 6, 7, 8]);
    for r in records {
        let p = &r.phases;
        let outcome = match &r.blame {
            Some(blame) => format!("{} ({blame})", r.outcome),
            None => r.outcome.clone(),
        };
        table.row([
            r.id.clone(),
            when(&r.started_at),
            r.start().into(),
            ms(p.queue_us),
            ms(p.sandbox_us),
            ms(p.runtime_us),
            ms(p.init_us),
            ms(p.handler_us),
            ms(p.total_us),
            outcome,
        ]);
    }
    table
}

/// `stratos versions`.
pub(crate) async fn versions(name: &FunctionName, node: &Node, output: Output) -> Result<()> {
    let versions: Vec<VersionInfo> = node.get(path_of(path::VERSIONS, name)).await?;
    if output.json {
        return output.document(&versions);
    }
    let mut table = Table::new(&["VERSION", "", "DEPLOYED", "RUNTIME", "SIZE", "DIGEST"], &[0, 4]);
    for v in versions {
        let mark = if v.current { "current" } else { "" };
        let runtime = format!("{} {}", v.runtime, v.layer.version);
        table.row([
            v.version.to_string(),
            mark.into(),
            when(&v.deployed_at),
            runtime,
            size(v.size),
            v.digest,
        ]);
    }
    output.bytes(table.render().as_bytes())
}

/// `stratos rollback`.
pub(crate) async fn rollback(args: &RollbackArgs, node: &Node, output: Output) -> Result<()> {
    let request = RollbackRequest { version: args.to };
    let version: VersionInfo = node.post(path_of(path::ROLLBACK, &args.name), &request).await?;
    if output.json {
        return output.document(&version);
    }
    let deployed = when(&version.deployed_at);
    output.line(&format!("{} is back at version {}, deployed {deployed}", args.name, version.version))
}

/// `stratos rm`.
pub(crate) async fn remove(args: &RmArgs, node: &Node, output: Output) -> Result<()> {
    if !args.yes && !confirmed(&args.name)? {
        return Err(Failure::new("nothing was removed"));
    }
    node.fetch(Call::new(Method::DELETE, path_of(path::FUNCTION, &args.name), Bytes::new())).await?;
    if output.json {
        return output.document(&serde_json::json!({ "removed": args.name.as_str() }));
    }
    output.line(&format!("removed {}", args.name))
}

/// Asks a person. Without one to ask, only `--yes` will do.
fn confirmed(name: &FunctionName) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!("will not remove {name} without being told to")).hint("add --yes"));
    }
    let asked = write!(std::io::stderr(), "remove {name} with all its versions? [y/N] ");
    let mut answer = String::new();
    asked
        .and_then(|()| std::io::stdin().read_line(&mut answer))
        .map_err(|e| Failure::new("cannot ask").because(&e).hint("add --yes"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
