//! What an artifact says about itself.

use std::fmt;

use serde::{Deserialize, Serialize};
use stratos_types::{Digest, FunctionName};

use crate::ArtifactError;

/// Bytes that sections and header are multiples of.
pub(crate) const PAGE: u64 = 4096;
const MOST_CODE: u64 = 1 << 30;
const MOST_LAYER: u64 = 4 << 30;
const MOST_CHECKPOINT: u64 = 8 << 30;
const MOST_NAME: usize = 64;
const MOST_REASON: usize = 4096;
const MOST_FLAGS: usize = 1024;
const MOST_DEPENDENCIES: usize = 20_000;
const MOST_SPEC: usize = 256 << 10;

/// A part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// The function's folder.
    Code,
    /// The runtime layer's image.
    Runtime,
    /// The checkpoint's image.
    Checkpoint,
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Code => "code",
            Self::Runtime => "runtime",
            Self::Checkpoint => "checkpoint",
        })
    }
}

/// What an artifact holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The function's name.
    pub function: String,
    /// Its complete specification.
    pub spec: String,
    /// Its code.
    pub code: Code,
    /// The layer it was built against.
    pub runtime: RuntimePart,
    /// Its checkpoint, if it has one.
    pub checkpoint: Option<CheckpointPart>,
    /// Why it has none.
    pub no_checkpoint: Option<String>,
    /// When it was built (RFC 3339, UTC).
    pub built_at: String,
    /// The version of StratOS that built it.
    pub built_by: String,
}

/// The code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// Bytes of the section.
    pub bytes: u64,
    /// Its digest.
    pub digest: Digest,
    /// Digest of the EROFS image that a node makes of it.
    pub image: Digest,
    /// Resolved dependencies: name, version, digest of the archive they came in.
    pub dependencies: Vec<(String, String, String)>,
}

/// The runtime layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimePart {
    /// Its name.
    pub name: String,
    /// Version of what it holds.
    pub version: String,
    /// Digest of everything it was built from.
    pub inputs_digest: Digest,
    /// Digest of its image.
    pub image_digest: Digest,
    /// Bytes of its image.
    pub size: u64,
    /// Whether the image is a section.
    pub included: bool,
}

/// The checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointPart {
    /// Bytes of the section.
    pub bytes: u64,
    /// Its digest.
    pub digest: Digest,
    /// Release and build of the kernel it was made on.
    pub kernel: String,
    /// The processor's make, and a digest of what it can do.
    pub processor: String,
    /// What the processor can do, so that a difference can be named.
    pub cpu_flags: Vec<String>,
}

impl Manifest {
    /// Reads a manifest and checks what it says.
    ///
    /// # Errors
    /// When it is no JSON of this form, or contradicts itself.
    pub fn parse(json: &[u8]) -> Result<Self, ArtifactError> {
        let manifest: Self =
            serde_json::from_slice(json).map_err(|source| ArtifactError::Manifest { source })?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The sections in their order, with bytes and digest.
    pub fn sections(&self) -> impl Iterator<Item = (Section, u64, Digest)> + '_ {
        let runtime = &self.runtime;
        let runtime = runtime.included.then_some((Section::Runtime, runtime.size, runtime.image_digest));
        let checkpoint = self.checkpoint.as_ref().map(|part| (Section::Checkpoint, part.bytes, part.digest));
        [Some((Section::Code, self.code.bytes, self.code.digest)), runtime, checkpoint].into_iter().flatten()
    }

    /// Bytes of all sections, with the zeros behind each.
    pub(crate) fn sections_bytes(&self) -> u64 {
        self.sections().map(|(_, bytes, _)| bytes.next_multiple_of(PAGE)).sum()
    }

    fn check(&self) -> Result<(), ArtifactError> {
        let ensure = |holds: bool, problem: &str| match holds {
            true => Ok(()),
            false => Err(ArtifactError::Invalid { problem: problem.to_owned() }),
        };
        let shown = |text: &str, most: usize| {
            !text.is_empty() && text.len() <= most && !text.contains(char::is_control)
        };
        ensure(self.function.parse::<FunctionName>().is_ok(), "`function` is no name")?;
        ensure(self.spec.len() <= MOST_SPEC, "`spec` is too long")?;
        ensure((1..=MOST_CODE).contains(&self.code.bytes), "the size of its code")?;
        let dependencies = &self.code.dependencies;
        let named = dependencies.iter().flat_map(|(name, version, digest)| [name, version, digest]);
        ensure(dependencies.len() <= MOST_DEPENDENCIES, "it has too many dependencies")?;
        ensure(
            named.into_iter().all(|text| shown(text, 256)),
            "a dependency has no name, version or digest",
        )?;
        // The name becomes that of a file.
        ensure(is_layer_name(&self.runtime.name), "`runtime.name` is no name")?;
        ensure(shown(&self.runtime.version, MOST_NAME), "`runtime.version` is no version")?;
        ensure((1..=MOST_LAYER).contains(&self.runtime.size), "the size of its runtime layer")?;
        if let Some(part) = &self.checkpoint {
            ensure((1..=MOST_CHECKPOINT).contains(&part.bytes), "the size of its checkpoint")?;
            ensure(shown(&part.kernel, 512) && shown(&part.processor, 512), "where its checkpoint was made")?;
            let flags =
                part.cpu_flags.len() <= MOST_FLAGS && part.cpu_flags.iter().all(|flag| shown(flag, 64));
            ensure(flags, "`checkpoint.cpu_flags`")?;
        }
        let reason = self.no_checkpoint.as_ref();
        ensure(reason.is_none_or(|reason| shown(reason, MOST_REASON)), "`no_checkpoint`")?;
        ensure(
            reason.is_none() || self.checkpoint.is_none(),
            "a checkpoint, and a reason why there is none",
        )?;
        ensure(
            shown(&self.built_at, MOST_NAME) && shown(&self.built_by, MOST_NAME),
            "when it was built, or by what",
        )
    }
}

/// As runtimes and layers are named: `node24`, `python3.13`.
fn is_layer_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    (1..=MOST_NAME).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}

/// One line of text that a manifest takes: what is no text for people is replaced, what is too long cut.
pub(crate) fn reason(text: &str) -> String {
    let mut reason = text.replace(char::is_control, " ");
    let end = (0..=MOST_REASON.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
    reason.truncate(end.unwrap_or_default());
    reason
}
