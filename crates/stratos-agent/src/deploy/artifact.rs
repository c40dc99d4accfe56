//! From an artifact to a version, and what is believed of it.
//!
//! An artifact is read from the node's own copy, which nobody else can open, and all of it is compared with its digests
//! before any of it is used. Its code goes the way of a package, whoever signed it: unpacked and checked entry by entry,
//! and made into an image here, for the kernel's reader of file systems is not made for images of strangers. What is only
//! believed when an enrolled key signed it is what cannot be checked by looking at it: the checkpoint, which is memory and
//! registers, and a runtime layer that this node lacks.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::Path;

use stratos_api::DeployEvent;
use stratos_artifact::{Artifact, CheckpointPart, KeyId, RuntimePart, Section, is_artifact};
use stratos_checkpoint::image::Image;
use stratos_checkpoint::machine::cpu_flags;
use stratos_store::{ArtifactCheckpoint, FromArtifact};
use stratos_types::spec::Inferred;
use stratos_types::{FunctionKey, FunctionName, FunctionSpec, LayerManifest, TenantId};

use super::error::DeployError;
use super::folder::Folder;
use super::{Deployer, Made, TOOLS, check_cpu, entry, image, spec_error, tidy, unpack_built};
use crate::engine::{TakenCheckpoint, chain, is_given, subject};

/// Differences of processors that are named.
const FLAGS_NAMED: usize = 8;

/// What came of an artifact.
pub(super) struct Received {
    pub(super) made: Made,
    pub(super) from: FromArtifact,
    pub(super) checkpoint: Option<TakenCheckpoint>,
}

/// Whose word an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signer {
    /// Nobody's.
    None,
    /// That of a key which is not enrolled here.
    Unknown(KeyId),
    /// That of an enrolled key, which was checked.
    Known(KeyId),
}

/// Why a checkpoint is not taken.
struct Dropped {
    reason: String,
    hint: Option<&'static str>,
}

impl From<String> for Dropped {
    fn from(reason: String) -> Self {
        Self { reason, hint: None }
    }
}

/// The file, when it is an artifact and not a package.
pub(super) fn open(path: &Path) -> Result<Option<File>, DeployError> {
    let read = |error| DeployError::io("read", path, error);
    let mut file = File::open(path).map_err(read)?;
    let mut head = Vec::new();
    file.by_ref().take(8).read_to_end(&mut head).map_err(read)?;
    file.rewind().map_err(read)?;
    Ok(is_artifact(&head).then_some(file))
}

impl Deployer {
    /// Makes a version's image of an artifact, and takes its checkpoint when that may be used here.
    pub(super) fn receive(
        &self,
        tenant: &TenantId,
        expected_name: Option<&FunctionName>,
        file: File,
        progress: &mut dyn FnMut(DeployEvent),
    ) -> Result<Received, DeployError> {
        progress(DeployEvent::Step { step: "verifying the artifact".into() });
        let artifact = Artifact::open(file)?;
        artifact.verify()?;
        let signer = self.signer(&artifact)?;
        let manifest = artifact.manifest();
        let spec = FunctionSpec::parse(&manifest.spec, &Inferred::default())?;
        check_name(&spec, &manifest.function, expected_name)?;
        check_cpu(&spec, crate::machine::cpus())?;
        if spec.runtime.as_str() != manifest.runtime.name {
            let message =
                format!("is `{}`, and the artifact's layer `{}`", spec.runtime, manifest.runtime.name);
            return Err(spec_error(Some("runtime"), message, "make the artifact anew with `stratos build`"));
        }
        self.provide_layer(&artifact, signer, progress)?;
        let layer = self.layer("the function's runtime", &manifest.runtime.name)?;
        let tools = self.layer("image building", TOOLS)?;

        progress(DeployEvent::Step { step: "unpacking".into() });
        let (scratch, task) = self.task_folder()?;
        unpack_built(io::BufReader::new(artifact.section(Section::Code).expect("each has code")), &task)?;
        let folder = Folder::open(&task).map_err(|e| DeployError::io("open", &task, e))?;
        tidy(&folder)?;
        entry::check(&spec, &folder)?;
        let image = image::make(&self.builder(&scratch), &tools.image, &folder, progress)?;
        let dependencies = manifest.code.dependencies.clone();
        let made = Made { spec, layer, dependencies, scratch, image };

        let key = FunctionKey { tenant: tenant.clone(), name: made.spec.name.clone() };
        let taken = match &manifest.checkpoint {
            Some(part) => Some(self.take(&artifact, part, signer, &key, &made)?),
            None => None,
        };
        let (outcome, checkpoint) = match taken {
            Some(Ok(checkpoint)) => (ArtifactCheckpoint::Taken, Some(checkpoint)),
            Some(Err(Dropped { reason, hint })) => {
                tracing::info!(function = %key, %reason, "an artifact's checkpoint is dropped");
                (ArtifactCheckpoint::Dropped { reason, hint: hint.map(str::to_owned) }, None)
            }
            None => (ArtifactCheckpoint::None { reason: manifest.no_checkpoint.clone() }, None),
        };
        let signed_by = match signer {
            Signer::Known(key) => Some(key.to_string()),
            Signer::None | Signer::Unknown(_) => None,
        };
        Ok(Received { made, from: FromArtifact { signed_by, checkpoint: outcome }, checkpoint })
    }

    /// Who signed it. A signature that is not what an enrolled key would have made is as bad as a wrong digest.
    fn signer(&self, artifact: &Artifact) -> Result<Signer, DeployError> {
        let Some(signature) = artifact.signature() else { return Ok(Signer::None) };
        match self.trust.keys.find(signature.key) {
            Some(key) => {
                artifact.check_signature(signature, &key)?;
                Ok(Signer::Known(signature.key))
            }
            None => Ok(Signer::Unknown(signature.key)),
        }
    }

    /// Takes the runtime layer from the artifact, when this node has none of its name.
    fn provide_layer(
        &self,
        artifact: &Artifact,
        signer: Signer,
        progress: &mut dyn FnMut(DeployEvent),
    ) -> Result<(), DeployError> {
        let RuntimePart { name, version, inputs_digest, image_digest, size, .. } =
            artifact.manifest().runtime.clone();
        if self.layers.has(&name) {
            return Ok(());
        }
        let refuse = |reason, hint| Err(DeployError::ArtifactLayer { name: name.clone(), reason, hint });
        let section = match (artifact.section(Section::Runtime), signer) {
            (Some(section), Signer::Known(_)) => section,
            (Some(_), Signer::None) => {
                return refuse(
                    "takes none from an artifact that is not signed",
                    "sign it with `stratos build --sign`, or make the layer here with `stratos layer build`",
                );
            }
            (Some(_), Signer::Unknown(_)) => {
                return refuse(
                    "takes none from an artifact that an unknown key has signed",
                    "`stratos key enroll` makes its key known, `stratos layer build` the layer",
                );
            }
            (None, _) => {
                return refuse(
                    "there is none in the artifact",
                    "build without --no-runtime, or make the layer here with `stratos layer build`",
                );
            }
        };
        progress(DeployEvent::Step { step: format!("taking the runtime layer {name} {version}") });
        let image = format!("{name}-{}.erofs", &inputs_digest.hex()[..16]);
        let manifest =
            LayerManifest { name, version, inputs_digest, image, image_digest, size, packed: None };
        let mut section = io::BufReader::new(section);
        self.layers
            .install(&manifest, &mut section)
            .map_err(|source| DeployError::Layer { what: "the function's runtime", source })
    }

    /// The checkpoint, if everything that it depends on is the same here.
    fn take(
        &self,
        artifact: &Artifact,
        part: &CheckpointPart,
        signer: Signer,
        key: &FunctionKey,
        made: &Made,
    ) -> Result<Result<TakenCheckpoint, Dropped>, DeployError> {
        let dropped = |reason: String| Ok(Err(Dropped::from(reason)));
        let signed_by = match signer {
            Signer::Known(key) => key,
            Signer::None => {
                let hint = Some("sign it with `stratos build --sign`, with a key that this node trusts");
                return Ok(Err(Dropped { reason: "the artifact is not signed".into(), hint }));
            }
            Signer::Unknown(key) => {
                let hint = Some("`stratos key enroll` makes its key known to this node");
                return Ok(Err(Dropped { reason: format!("it is signed by the unknown key {key}"), hint }));
            }
        };
        if !self.trust.restores {
            return dropped("this node restores none (--checkpoints off)".into());
        }
        let (runtime, layer) = (&artifact.manifest().runtime, &made.layer.manifest);
        let image = made.image()?.1;
        let differs = differs(&self.trust.machine, part).or_else(|| {
            (runtime.image_digest != layer.image_digest).then(|| {
                format!(
                    "it was made on the layer {} {}, and here is {}",
                    layer.name, runtime.image_digest, layer.image_digest
                )
            })
        });
        let differs = differs.or_else(|| {
            let expected = artifact.manifest().code.image;
            (image != expected)
                .then(|| format!("it was made for the image {expected}, and the code gives {image} here"))
        });
        if let Some(reason) = differs {
            return dropped(reason);
        }
        let mut file = self.store.blobs().temp_file()?;
        let mut section = artifact.section(Section::Checkpoint).expect("the manifest says so");
        io::copy(&mut section, &mut file).map_err(|e| DeployError::io("write", file.path(), e))?;
        file.as_file().sync_all().map_err(|e| DeployError::io("write", file.path(), e))?;
        // What it says itself counts, and is checked again when it is read for use.
        let checkpoint = match Image::open(file.path()) {
            Ok(image) => image,
            Err(error) => return dropped(chain(&error)),
        };
        if let Some(reason) = checkpoint.checkpoint().machine.differs_from(&self.trust.machine) {
            return dropped(reason);
        }
        let expected = |is_given| subject(&made.spec, key, layer.image_digest, image, is_given);
        let found = &checkpoint.checkpoint().subject;
        let given = is_given(&self.trust.environment, &made.spec);
        if *found == expected(!given) && *found != expected(given) {
            let reason = "here it is given other variables than where the checkpoint was made, and does not wait for them";
            return dropped(reason.into());
        }
        if *found != expected(given) {
            return dropped("it is of another function, or of other settings".into());
        }
        Ok(Ok(TakenCheckpoint { file, signed_by }))
    }
}

/// What of a machine a checkpoint was made on is another here.
fn differs(here: &stratos_checkpoint::machine::Machine, part: &CheckpointPart) -> Option<String> {
    if part.kernel != here.kernel {
        return Some(format!(
            "it was made on the kernel `{}`, and this node runs `{}`",
            part.kernel, here.kernel
        ));
    }
    if part.processor == here.processor {
        return None;
    }
    let own = cpu_flags().unwrap_or_default();
    let named = |of: &[String], others: &[String]| {
        let mut names: Vec<&str> = of.iter().filter(|f| !others.contains(f)).map(String::as_str).collect();
        if names.len() > FLAGS_NAMED {
            names.truncate(FLAGS_NAMED);
            names.push("...");
        }
        names.join(", ")
    };
    let (lacking, besides) = (named(&part.cpu_flags, &own), named(&own, &part.cpu_flags));
    Some(match (lacking.as_str(), besides.as_str()) {
        ("", "") => format!(
            "it was made on the processor `{}`, and this node has `{}`",
            part.processor, here.processor
        ),
        ("", besides) => {
            format!("this node's processor can do what the one it was made on cannot: {besides}")
        }
        (lacking, _) => format!("this node's processor lacks what the one it was made on can do: {lacking}"),
    })
}

fn check_name(
    spec: &FunctionSpec,
    function: &str,
    expected: Option<&FunctionName>,
) -> Result<(), DeployError> {
    if spec.name.as_str() != function {
        let message = format!("is `{}`, and the artifact is of `{function}`", spec.name);
        return Err(spec_error(Some("name"), message, "make the artifact anew with `stratos build`"));
    }
    match expected {
        Some(expected) if *expected != spec.name => Err(spec_error(
            Some("name"),
            format!("is `{}`, and the deploy is for `{expected}`", spec.name),
            "deploy it under the name that it was built with",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use stratos_checkpoint::machine::Machine;
    use stratos_types::Digest;

    use super::*;

    #[test]
    fn what_differs_is_named() {
        let flags = cpu_flags().unwrap();
        let here = Machine::current().unwrap();
        let same = CheckpointPart {
            bytes: 1,
            digest: Digest::of(b""),
            kernel: here.kernel.clone(),
            processor: here.processor.clone(),
            cpu_flags: flags.clone(),
        };
        assert_eq!(differs(&here, &same), None);
        let kernel = CheckpointPart { kernel: "5.0 #1".into(), ..same.clone() };
        assert!(
            differs(&here, &kernel)
                .unwrap()
                .starts_with("it was made on the kernel `5.0 #1`, and this node runs `")
        );
        let other = |cpu_flags| CheckpointPart { processor: "x".into(), cpu_flags, ..same.clone() };
        let lacking = differs(&here, &other([&flags[..], &["amx-fp99".into()]].concat())).unwrap();
        assert_eq!(lacking, "this node's processor lacks what the one it was made on can do: amx-fp99");
        let besides = differs(&here, &other(flags[1..].to_vec())).unwrap();
        assert!(besides.ends_with(&format!("cannot: {}", flags[0])), "{besides}");
        assert!(differs(&here, &other(flags)).unwrap().starts_with("it was made on the processor `x`"));
    }
}
