//! Why an artifact or a key is not used.

use std::io;

use crate::Section;

/// Why a file is not used as an artifact. Whoever knows the file's name says it.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// It cannot be read or written.
    #[error("cannot {operation} the artifact")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// It is none, or one of another version, or cut off.
    #[error("the artifact's header is damaged: {reason}")]
    Header {
        /// What is wrong with it.
        reason: String,
    },
    /// The manifest has another digest than the header says.
    #[error("the artifact's manifest is damaged: its digest is another than the header says")]
    ManifestDigest,
    /// The manifest is no JSON of this format.
    #[error("the artifact's manifest is not one")]
    Manifest {
        /// Why not.
        source: serde_json::Error,
    },
    /// The manifest contradicts itself or the header.
    #[error("the artifact's manifest makes no sense: {problem}")]
    Invalid {
        /// What is wrong with it.
        problem: String,
    },
    /// A section has another digest than the manifest says.
    #[error("the artifact's section `{section}` is damaged: its digest is another than the manifest says")]
    Section {
        /// Which.
        section: Section,
    },
    /// Bytes between sections are not zero.
    #[error("the artifact is damaged: the bytes after its section `{section}` are not zero")]
    Padding {
        /// The section before them.
        section: Section,
    },
    /// The signature block is none.
    #[error("the artifact's signature is damaged: {problem}")]
    SignatureBlock {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The key did not make this signature of this artifact.
    #[error("the artifact's signature is not one that the key {key} made of it")]
    Signature {
        /// Which key it names.
        key: crate::KeyId,
    },
}

/// Why a text is not a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is no PEM.
    #[error("it is not PEM text")]
    Pem,
    /// It is PEM of something else.
    #[error("it holds a `{found}`, and not a `{expected}`")]
    Tag {
        /// What was wanted.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// It is a key of another kind.
    #[error("it is not an Ed25519 key")]
    Kind,
    /// There is no randomness.
    #[error("the system gives no random numbers")]
    Random,
    /// A key id has another form.
    #[error("`{0}` is not a key id (16 hexadecimal digits)")]
    Id(String),
}
