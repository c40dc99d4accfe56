//! The programs of an operating system image.

use std::path::PathBuf;
use std::process::Command;

use stratos_types::Digest;

use crate::build::Builder;
use crate::error::{BuildError, at};
use crate::os::ImageError;
use crate::run;

/// The static programs of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// PID 1.
    pub init: PathBuf,
    /// The agent.
    pub agent: PathBuf,
    /// Digest of both.
    pub digest: Digest,
}

impl Builder<'_> {
    /// Builds the programs with this machine's compiler.
    pub(crate) fn programs(&mut self) -> Result<Programs, BuildError> {
        let root = &self.options.repo_root;
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--release", "--target", "x86_64-unknown-linux-gnu"]);
        cargo.args(["-p", "stratos-agent", "-p", "stratos-init"]).current_dir(root);
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
        run::output(&mut cargo)
            .map_err(|source| ImageError::Run { step: "building the programs", source })?;
        let built = root.join("target/x86_64-unknown-linux-gnu/release");
        let (init, agent) = (built.join("stratos-init"), built.join("stratosd"));
        let mut all = Vec::new();
        for program in [&init, &agent] {
            all.extend(std::fs::read(program).map_err(at("read", program))?);
        }
        Ok(Programs { init, agent, digest: Digest::of(&all) })
    }
}
