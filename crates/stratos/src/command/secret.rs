//! `stratos secret`: values go to the node and never come back.

use bytes::Bytes;
use http::Method;
use stratos_api::client::Call;
use stratos_api::{SecretInfo, path};
use stratos_types::SecretName;

use super::secret_value;
use crate::args::{SecretCommand, SecretRmArgs, SecretSetArgs};
use crate::failure::Result;
use crate::node::Node;
use crate::output::{Output, Table, note, when};

/// Runs the command.
pub(crate) async fn run(command: SecretCommand, node: &Node, output: Output) -> Result<()> {
    match command {
        SecretCommand::Set(args) => set(&args, node, output).await,
        SecretCommand::List => list(node, output).await,
        SecretCommand::Rm(args) => remove(&args, node, output).await,
    }
}

fn path_of(name: &SecretName) -> String {
    path::SECRET.replace("{name}", name.as_str())
}

async fn set(args: &SecretSetArgs, node: &Node, output: Output) -> Result<()> {
    let mut value = match &args.from_file {
        Some(file) => secret_value::of_file(file)?,
        None => secret_value::of_stdin(&args.name).await?,
    };
    // Sent without a copy of its own; the buffer is overwritten where it ends.
    let body = Bytes::from_owner(zeroize::Zeroizing::new(std::mem::take(&mut *value)));
    let call = Call::new(Method::PUT, path_of(&args.name), body);
    let info: SecretInfo = node.json(call.header("content-type", "application/octet-stream")).await?;
    if output.json {
        return output.document(&info);
    }
    output.line(&match info.used_by.as_slice() {
        [] => format!("set {}", info.name),
        users => format!("set {}, for {}", info.name, users.join(", ")),
    })
}

async fn list(node: &Node, output: Output) -> Result<()> {
    let secrets: Vec<SecretInfo> = node.get(path::SECRETS).await?;
    if output.json {
        return output.document(&secrets);
    }
    if secrets.is_empty() {
        note("no secrets yet; set one with `stratos secret set NAME`");
        return Ok(());
    }
    let mut table = Table::new(&["NAME", "UPDATED", "USED BY"], &[]);
    for secret in secrets {
        let users = if secret.used_by.is_empty() { "-".into() } else { secret.used_by.join(", ") };
        table.row([secret.name, when(&secret.updated_at), users]);
    }
    output.bytes(table.render().as_bytes())
}

async fn remove(args: &SecretRmArgs, node: &Node, output: Output) -> Result<()> {
    let force = if args.force { "?force=true" } else { "" };
    node.fetch(Call::new(Method::DELETE, path_of(&args.name) + force, Bytes::new())).await?;
    if output.json {
        return output.document(&serde_json::json!({ "removed": args.name.as_str() }));
    }
    output.line(&format!("removed {}", args.name))
}
