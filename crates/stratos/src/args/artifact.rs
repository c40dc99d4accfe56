//! Arguments of `stratos build` and `stratos key`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use stratos_artifact::KeyId;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stratos build hello                           writes hello.stratos
  stratos build hello -o hello.stratos --sign release.key
  stratos build hello --no-runtime              for nodes that have the runtime layer
  stratos deploy hello.stratos --node https://other:8443

The node resolves dependencies and makes the checkpoint; nothing is deployed there. The key stays here. Without
a signature a node takes the code and makes the checkpoint itself. The checkpoint holds what the function had
in memory once it was initialised: treat the file as you treat its secrets.")]
pub(crate) struct BuildArgs {
    /// The function's folder
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// The artifact to write [default: NAME.stratos]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Private key to sign it with, from `stratos key generate`
    #[arg(long, value_name = "KEYFILE")]
    pub(crate) sign: Option<PathBuf>,
    /// Leave out the runtime layer
    #[arg(long)]
    pub(crate) no_runtime: bool,
    /// Leave out the checkpoint
    #[arg(long)]
    pub(crate) no_checkpoint: bool,
}

/// Keys that sign artifacts, and keys that a node believes.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a pair of keys: NAME.key, to be kept secret, and NAME.pub
    #[command(after_help = "Examples:
  stratos key generate -o release.key      writes release.key and release.pub
  stratos build hello --sign release.key")]
    Generate(KeyGenerateArgs),
    /// Print the id of a key in a file, private or public
    #[command(after_help = "Examples:
  stratos key show release.pub
  stratos key show release.key --json | jq -r .id")]
    Show(KeyFileArg),
    /// Make a node believe artifacts that this key has signed
    #[command(after_help = "Examples:
  stratos key enroll release.pub")]
    Enroll(KeyFileArg),
    /// List the keys that a node believes
    #[command(after_help = "Examples:
  stratos key list
  stratos key list --json | jq -r '.[].id'")]
    List,
    /// Make a node believe a key no more; checkpoints that came with its artifacts are made anew
    #[command(after_help = "Examples:
  stratos key remove 0123456789abcdef")]
    Remove(KeyIdArg),
}

#[derive(Debug, Args)]
pub(crate) struct KeyGenerateArgs {
    /// File for the private key; the public one goes beside it, with the ending .pub
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct KeyFileArg {
    /// File with the key
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct KeyIdArg {
    /// The key's id
    #[arg(value_parser = |text: &str| text.parse::<KeyId>())]
    pub(crate) id: KeyId,
}
