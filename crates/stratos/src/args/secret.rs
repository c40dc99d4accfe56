//! `stratos secret`, as clap reads it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use stratos_types::SecretName;

/// Work on a node's secrets.
#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Set a secret; its value is read from stdin, or typed unseen
    Set(SecretSetArgs),
    /// List the secrets and the functions that use them; never a value
    #[command(
        visible_alias = "ls",
        after_help = "Examples:
  stratos secret list
  stratos secret list --json"
    )]
    List,
    /// Remove a secret
    Rm(SecretRmArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stratos secret set db-password                         asks for it; what is typed is not shown
  pass show db | stratos secret set db-password
  stratos secret set tls-key --from-file key.pem

The value is no argument, for those of a process can be seen by all others. Of what is typed or piped, one
line end at the very end is left out; a file is taken as it is. Instances that hold the old value end as soon
as they are idle.")]
pub(crate) struct SecretSetArgs {
    /// Name of the secret
    pub(crate) name: SecretName,
    /// File with the value, which is taken as it is
    #[arg(short, long, value_name = "FILE")]
    pub(crate) from_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  stratos secret rm db-password
  stratos secret rm db-password --force      also when functions use it; they fail then")]
pub(crate) struct SecretRmArgs {
    /// Name of the secret
    pub(crate) name: SecretName,
    /// Also when functions use it, which then fail
    #[arg(long)]
    pub(crate) force: bool,
}
