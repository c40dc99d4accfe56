//! What an instance is given at its release: the frame that ends its parking, and the variables of the node in it.
//!
//! Secrets and the node's own variables belong to no version and to no checkpoint: they are looked up for each instance
//! when it is released, restored or fresh, and are nowhere before that.

use std::ffi::CString;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use stratos_api::{ApiError, ErrorCode};
use stratos_store::{SecretValue, StoreError};
use stratos_types::{Entry, FunctionSpec, NodeEnvironment, Runtime};
use zeroize::{Zeroize as _, Zeroizing};

use super::deployed::Deployed;
use super::{Engine, failure};

/// Bytes of a frame before its environment (docs/formats/release-frame.md).
const HEADER_BYTES: usize = 52;
/// Most bytes of a frame: what a pipe holds, so that writing one never waits for a process to read it.
const MAX_FRAME: usize = 64 << 10;
/// What of a frame's environment is for variables of the instance itself.
const OWN_BYTES: usize = 256;
/// Most bytes of what an instance is given, as the frame has it.
pub(super) const MAX_GIVEN: usize = MAX_FRAME - HEADER_BYTES - OWN_BYTES;

/// The variables that an instance is given, each ended by a NUL. Overwritten when dropped; nothing shows them.
pub(super) struct Given(Zeroizing<Vec<u8>>);

impl Given {
    /// `pairs` of names and values without NUL.
    ///
    /// # Errors
    /// How many bytes they have, if that is more than a frame takes.
    fn new(pairs: &[(&str, &str)]) -> Result<Self, usize> {
        let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        if bytes > MAX_GIVEN {
            return Err(bytes);
        }
        // Of its final size: one that grows leaves copies behind.
        let mut block = Zeroizing::new(Vec::with_capacity(bytes));
        for (name, value) in pairs {
            for part in [name.as_bytes(), b"=", value.as_bytes(), b"\0"] {
                block.extend_from_slice(part);
            }
        }
        Ok(Self(block))
    }

    fn variables(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == 0).filter(|variable| !variable.is_empty())
    }

    /// An environment with these variables in place of those of the same names. To be ended with [`wipe`].
    pub(super) fn over(&self, environment: &[CString]) -> Vec<CString> {
        fn name(variable: &[u8]) -> Option<&[u8]> {
            variable.split(|byte| *byte == b'=').next()
        }
        let is_given = |own: &&CString| self.variables().any(|given| name(given) == name(own.to_bytes()));
        let own = environment.iter().filter(|own| !is_given(own)).cloned();
        own.chain(self.variables().map(|given| CString::new(given).expect("split at each NUL"))).collect()
    }
}

/// Overwrites an environment.
pub(super) fn wipe(environment: Vec<CString>) {
    environment.into_iter().for_each(|variable| variable.into_bytes_with_nul().zeroize());
}

/// Whether a fresh instance has what it is given from its first instruction on. Else it is in the release frame.
///
/// Our own bootstraps read the frame when the handler is loaded, so that loading it sees the same in every start, be it
/// one that a checkpoint is made of. All other programs that start afresh read it before their own code or not at all.
pub(super) fn is_given_at_start(spec: &FunctionSpec) -> bool {
    let bootstrap =
        matches!((&spec.entry, spec.runtime), (Entry::Handler(_), Runtime::Node24 | Runtime::Python313));
    !bootstrap || spec.checkpoint == stratos_types::CheckpointMode::Off
}

/// The frame that releases a parked instance. `own`: its own variables, each ended by a NUL, where its environment is that
/// of another; a fresh start got them from execve(2).
///
/// # Errors
/// When the system has no random numbers or no time.
pub(super) fn frame(own: &[u8], given: Option<&Given>) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(io::Error::other)?;
    let wall_ns = u64::try_from(now.as_nanos()).map_err(io::Error::other)?;
    debug_assert!(own.len() <= OWN_BYTES);
    let given = given.map(|given| given.0.as_slice()).unwrap_or_default();
    let bytes = u32::try_from(own.len() + given.len()).map_err(io::Error::other)?;
    let mut frame = Zeroizing::new(Vec::with_capacity(HEADER_BYTES + own.len() + given.len()));
    frame.extend_from_slice(b"SREL");
    frame.extend_from_slice(&1u32.to_le_bytes());
    frame.extend_from_slice(&wall_ns.to_le_bytes());
    frame.extend_from_slice(&seed);
    frame.extend_from_slice(&bytes.to_le_bytes());
    frame.extend_from_slice(own);
    frame.extend_from_slice(given);
    Ok(frame)
}

impl Engine {
    /// Looks up what an instance of a version is given if it is released now.
    ///
    /// # Errors
    /// `secret_missing`, `environment_too_large`, or that the store of secrets cannot be read.
    pub(super) async fn given(&self, deployed: &Deployed) -> Result<Arc<Given>, ApiError> {
        let secrets = self.secrets_of(deployed).await?;
        let pairs = pairs(&self.0.config.environment, &deployed.spec, &secrets);
        let given =
            Given::new(&pairs).map_err(|bytes| failure::environment_too_large(&deployed.key, bytes))?;
        Ok(Arc::new(given))
    }

    /// The values of a version's secrets, in the order of their variables.
    async fn secrets_of(&self, deployed: &Deployed) -> Result<Vec<SecretValue>, ApiError> {
        if deployed.spec.secrets.is_empty() {
            return Ok(Vec::new());
        }
        let (store, key, spec) = (self.0.store.clone(), deployed.key.clone(), Arc::clone(&deployed.spec));
        let read = move || {
            let value = |name| {
                let value = store.secrets().get(&key.tenant, name);
                let value = value.map_err(|error| unreadable(name.as_str(), &error))?;
                value.ok_or_else(|| failure::secret_missing(&key, name))
            };
            spec.secrets.values().map(value).collect()
        };
        tokio::task::spawn_blocking(read).await.map_err(|error| {
            ApiError::new(ErrorCode::Internal, "reading the function's secrets failed").caused_by(&error)
        })?
    }
}

fn unreadable(name: &str, error: &StoreError) -> ApiError {
    ApiError::new(ErrorCode::StorageFailed, format!("the secret `{name}` cannot be read")).caused_by(error)
}

/// Whether a function is given anything.
pub(crate) fn is_given(node: &NodeEnvironment, spec: &FunctionSpec) -> bool {
    !spec.secrets.is_empty() || !pairs(node, spec, &[]).is_empty()
}

/// What a function is given: the node's variables that it has not set otherwise, and its secrets.
fn pairs<'a>(
    node: &'a NodeEnvironment,
    spec: &'a FunctionSpec,
    secrets: &'a [SecretValue],
) -> Vec<(&'a str, &'a str)> {
    let of_node =
        node.iter().filter(|(name, _)| !spec.env.contains_key(*name) && !spec.secrets.contains_key(*name));
    let secrets = spec.secrets.keys().map(String::as_str).zip(secrets.iter().map(SecretValue::expose));
    of_node.chain(secrets).collect()
}

#[cfg(test)]
mod tests {
    use stratos_types::spec::Inferred;

    use super::*;

    fn spec(toml: &str) -> FunctionSpec {
        FunctionSpec::parse(&format!("name = \"f\"\n{toml}"), &Inferred::default()).unwrap()
    }

    #[test]
    fn a_frame_is_as_its_format_says() {
        let given = Given::new(&[("A", "b=c"), ("EMPTY", "")]).unwrap();
        for own in ["", "AWS_LAMBDA_LOG_STREAM_NAME=0123456789ab\0"] {
            let frame = frame(own.as_bytes(), Some(&given)).unwrap();
            let environment = format!("{own}A=b=c\0EMPTY=\0");
            assert_eq!((&frame[..4], &frame[4..8]), (&b"SREL"[..], &1u32.to_le_bytes()[..]));
            assert_eq!(frame[48..52], (environment.len() as u32).to_le_bytes());
            assert_eq!(&frame[52..], environment.as_bytes());
        }
        assert_eq!(frame(b"", None).unwrap().len(), HEADER_BYTES);
    }

    #[test]
    fn no_more_is_given_than_a_pipe_holds() {
        let most = "x".repeat(MAX_GIVEN - 3);
        let given = Given::new(&[("A", &most)]).unwrap();
        assert!(frame(&[b'x'; OWN_BYTES], Some(&given)).unwrap().len() <= MAX_FRAME);
        assert_eq!(Given::new(&[("A", &most), ("B", "")]).err(), Some(MAX_GIVEN + 3));
    }

    #[test]
    fn what_a_function_sets_wins_over_what_the_node_gives() {
        let node = NodeEnvironment::parse("A = 'node'\nB = 'node'\nC = 'node'\nTZ = 'node'").unwrap();
        let spec = spec("runtime = 'native'\nhandler = 'b'\n[env]\nA = 'own'\n[secrets]\nB = 'b'");
        let secrets = [SecretValue::new(b"hush".to_vec()).unwrap()];
        let pairs = pairs(&node, &spec, &secrets);
        assert_eq!(pairs, [("C", "node"), ("TZ", "node"), ("B", "hush")]);
        let before = ["A=own", "TZ=:UTC"].map(|text| CString::new(text).unwrap());
        let environment = Given::new(&pairs).unwrap().over(&before);
        let texts: Vec<_> = environment.iter().map(|text| text.to_str().unwrap()).collect();
        assert_eq!(texts, ["A=own", "C=node", "TZ=node", "B=hush"]);
        wipe(environment);
        assert!(is_given(&NodeEnvironment::default(), &spec));
        let without = super::tests::spec("runtime = 'native'\nhandler = 'b'\n[env]\nA = 'own'");
        assert!(
            is_given(&node, &without) && !is_given(&NodeEnvironment::parse("A = 'x'").unwrap(), &without)
        );
    }

    #[test]
    fn handlers_are_given_it_when_they_are_loaded() {
        for (toml, at_start) in [
            ("runtime = 'node24'\nhandler = 'i.h'", false),
            ("runtime = 'python3.13'\nhandler = 'i.h'\ncheckpoint = 'required'", false),
            ("runtime = 'node24'\nhandler = 'i.h'\ncheckpoint = 'off'", true),
            ("runtime = 'node24'\nstart = 'node s.js'", true),
            ("runtime = 'python3.13'\nhandler = 'i.h'\nstart = 'python3 -m awslambdaric i.h'", true),
            ("runtime = 'native'\nhandler = 'b'", true),
        ] {
            assert_eq!(is_given_at_start(&spec(toml)), at_start, "{toml}");
        }
    }
}
