//! `stratos key`: keys that sign artifacts, and keys that a node believes.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use bytes::Bytes;
use http::Method;
use serde_json::json;
use stratos_api::client::Call;
use stratos_api::{KeyInfo, path};
use stratos_artifact::{PublicKey, SecretKey};

use crate::args::{KeyFileArg, KeyGenerateArgs, KeyIdArg};
use crate::failure::{Failure, Result};
use crate::node::Node;
use crate::output::{Output, Table, note, when};

const PUBLIC: &str = "pub";

/// `stratos key generate`.
pub(crate) fn generate(args: &KeyGenerateArgs, output: Output) -> Result<()> {
    let public = args.output.with_extension(PUBLIC);
    if public == args.output {
        let message = format!("{} would be both the private and the public key", public.display());
        return Err(Failure::usage(message).hint("give the private key's file another ending, such as .key"));
    }
    // Neither is replaced: what a lost key has signed cannot be signed again by another.
    for path in [&args.output, &public] {
        if path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
    }
    let (key, pem) = SecretKey::generate().map_err(|e| Failure::from_chain(&e))?;
    write_new(&args.output, &pem, 0o600)?;
    write_new(&public, &key.public().to_pem(), 0o644)?;
    let id = key.public().id().to_string();
    if output.json {
        return output.document(&json!({ "id": id, "private": args.output, "public": public }));
    }
    output.line(&format!("made {}, the key {id}, and {}", args.output.display(), public.display()))?;
    output.line(&format!("next  stratos key enroll {}", public.display()))
}

fn exists(path: &Path) -> Failure {
    Failure::new(format!("{} is there already", path.display()))
        .hint("keys are not replaced: choose another name with -o, or move the file away")
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => exists(path),
        _ => Failure::new(format!("cannot write {}", path.display())).because(&e),
    })
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| Failure::new(format!("cannot read {}", path.display())).because(&e))
}

/// The private key in a file.
pub(crate) fn secret(path: &Path) -> Result<SecretKey> {
    SecretKey::from_pem(&read(path)?).map_err(|e| {
        let failure = Failure::new(format!("{} is not a private key", path.display())).because(&e);
        failure.hint("`stratos key generate -o NAME.key` makes one")
    })
}

/// The public key in a file.
fn public(path: &Path) -> Result<PublicKey> {
    PublicKey::from_pem(&read(path)?).map_err(|e| {
        let failure = Failure::new(format!("{} is not a public key", path.display())).because(&e);
        failure.hint("`stratos key generate` writes it beside the private one, with the ending .pub")
    })
}

/// `stratos key show`.
pub(crate) fn show(args: &KeyFileArg, output: Output) -> Result<()> {
    let text = read(&args.file)?;
    let (key, kind) = match (PublicKey::from_pem(&text), SecretKey::from_pem(&text)) {
        (Ok(key), _) => (key, "public"),
        (_, Ok(key)) => (key.public(), "private"),
        (Err(error), Err(_)) => {
            let failure = Failure::new(format!("{} is not a key", args.file.display())).because(&error);
            return Err(failure.hint("keys are Ed25519, in PEM: `stratos key generate` makes them"));
        }
    };
    let id = key.id().to_string();
    if output.json {
        return output.document(&json!({ "id": id, "kind": kind, "public_key": key.to_pem() }));
    }
    output.line(&format!("{id}  {kind}"))
}

/// `stratos key enroll`.
pub(crate) async fn enroll(args: &KeyFileArg, node: &Node, output: Output) -> Result<()> {
    // Read first: a private key is not to leave this machine by mistake.
    let key = public(&args.file)?;
    let call =
        Call::new(Method::POST, path::KEYS, key.to_pem()).header("content-type", "application/x-pem-file");
    let info: KeyInfo = node.json(call).await?;
    if output.json {
        return output.document(&info);
    }
    output.line(&format!("enrolled {}: the node believes artifacts that it has signed", info.id))
}

/// `stratos key list`.
pub(crate) async fn list(node: &Node, output: Output) -> Result<()> {
    let keys: Vec<KeyInfo> = node.get(path::KEYS).await?;
    if output.json {
        return output.document(&keys);
    }
    if keys.is_empty() {
        note("the node believes no key; `stratos key enroll NAME.pub` makes it believe one");
        return Ok(());
    }
    let mut table = Table::new(&["KEY", "ENROLLED"], &[]);
    for key in keys {
        table.row([key.id, when(&key.enrolled_at)]);
    }
    output.bytes(table.render().as_bytes())
}

/// `stratos key remove`.
pub(crate) async fn remove(args: &KeyIdArg, node: &Node, output: Output) -> Result<()> {
    let path = path::KEY.replace("{id}", &args.id.to_string());
    node.fetch(Call::new(Method::DELETE, path, Bytes::new())).await?;
    if output.json {
        return output.document(&json!({ "removed": args.id.to_string() }));
    }
    output.line(&format!("removed {}: checkpoints that came with its artifacts are made anew", args.id))
}
