//! Function artifacts (docs/formats/artifact.md): one file with code, runtime layer and checkpoint, and who signed it.
//!
//! Nothing here decides what is done with an artifact: a reader is told whether the file is whole, and by which key it is
//! signed. Sizes are limited before anything is read, and sections are streamed.

mod error;
mod file;
mod header;
mod key;
mod manifest;
mod signature;

pub use self::error::{ArtifactError, KeyError};
pub use self::file::{Artifact, SectionReader, Sources, sign, write};
pub use self::header::{HEADER_BYTES, Head, MOST_BYTES, is_artifact};
pub use self::key::{KeyId, PublicKey, SecretKey};
pub use self::manifest::{CheckpointPart, Code, Manifest, RuntimePart, Section};
pub use self::signature::{SIGNATURE_BYTES, Signature};
