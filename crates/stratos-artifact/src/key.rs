//! Ed25519 keys, as files of PEM.

use std::fmt;
use std::str::FromStr;

use pem::{EncodeConfig, LineEnding, Pem};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

use crate::KeyError;

const PUBLIC_TAG: &str = "PUBLIC KEY";
const PRIVATE_TAG: &str = "PRIVATE KEY";
/// SubjectPublicKeyInfo of an Ed25519 key up to its 32 bytes (RFC 8410, section 4).
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// PKCS #8 of an Ed25519 key up to its 32 bytes (RFC 8410, section 7): the form without the public key, which every
/// OpenSSL reads.
const PRIVATE_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// What a key is called: the first eight bytes of its digest. A name only: signatures are checked with the whole key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub(crate) [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let digits =
            text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let number = digits.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        let error = || KeyError::Id(text.chars().take(40).collect());
        number.map(|number| Self(number.to_be_bytes())).ok_or_else(error)
    }
}

/// A key that signatures are checked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Reads the PEM of a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// When it is something else.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let der = contents(text, PUBLIC_TAG)?;
        let bytes = der.strip_prefix(&PUBLIC_PREFIX).and_then(|rest| rest.try_into().ok());
        bytes.map(Self).ok_or(KeyError::Kind)
    }

    /// The same, written.
    pub fn to_pem(&self) -> String {
        written(PUBLIC_TAG, [&PUBLIC_PREFIX[..], &self.0].concat())
    }

    /// What it is called.
    pub fn id(&self) -> KeyId {
        let digest = Sha256::digest(self.0);
        KeyId(digest[..8].try_into().expect("a digest has 32 bytes"))
    }

    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

/// A key that signs.
pub struct SecretKey(Ed25519KeyPair);

/// Nothing of it is shown.
impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SecretKey").field(&self.public().id()).finish()
    }
}

impl SecretKey {
    /// Draws a new key; gives it with its PEM.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<(Self, String), KeyError> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| KeyError::Random)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::Kind)?;
        Ok((Self(pair), written(PRIVATE_TAG, [&PRIVATE_PREFIX[..], &seed].concat())))
    }

    /// Reads the PEM of a PKCS #8 key.
    ///
    /// # Errors
    /// When it is something else.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let der = contents(text, PRIVATE_TAG)?;
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map(Self).map_err(|_| KeyError::Kind)
    }

    /// The key that checks its signatures.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes"))
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

fn contents(text: &str, expected: &'static str) -> Result<Vec<u8>, KeyError> {
    let pem = pem::parse(text).map_err(|_| KeyError::Pem)?;
    match pem.tag() == expected {
        true => Ok(pem.into_contents()),
        false => Err(KeyError::Tag { expected, found: pem.tag().chars().take(80).collect() }),
    }
}

fn written(tag: &str, der: Vec<u8>) -> String {
    pem::encode_config(&Pem::new(tag, der), EncodeConfig::new().set_line_ending(LineEnding::LF))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_and_read() {
        let (secret, pem) = SecretKey::generate().unwrap();
        let again = SecretKey::from_pem(&pem).unwrap();
        assert_eq!(again.public(), secret.public());
        let public = secret.public();
        assert_eq!(PublicKey::from_pem(&public.to_pem()).unwrap(), public);
        assert_eq!(public.id().to_string().parse::<KeyId>().unwrap(), public.id());
        assert!(public.has_signed(b"text", &secret.sign(b"text")));
        assert!(!public.has_signed(b"texT", &secret.sign(b"text")));
        assert!(!SecretKey::generate().unwrap().0.public().has_signed(b"text", &secret.sign(b"text")));
        assert_eq!(format!("{secret:?}"), format!("SecretKey({})", public.id()));
    }

    /// Made with `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout`.
    #[test]
    fn keys_of_openssl_are_read() {
        let secret = "-----BEGIN PRIVATE KEY-----\n\
                      MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
                      -----END PRIVATE KEY-----\n";
        // RFC 8032, section 7.1, test 1 has this pair.
        let public = "-----BEGIN PUBLIC KEY-----\n\
                      MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
                      -----END PUBLIC KEY-----\n";
        let secret = SecretKey::from_pem(secret).unwrap();
        assert_eq!(secret.public().to_pem(), public);
        assert_eq!(secret.sign(b"")[..4], [0xe5, 0x56, 0x43, 0x00]);
    }

    #[test]
    fn what_is_no_key_is_named() {
        let (secret, pem) = SecretKey::generate().unwrap();
        let error = |text: &str| PublicKey::from_pem(text).unwrap_err().to_string();
        assert_eq!(error(&pem), "it holds a `PRIVATE KEY`, and not a `PUBLIC KEY`");
        assert_eq!(error("hello"), "it is not PEM text");
        assert_eq!(error(&written(PUBLIC_TAG, vec![0; 44])), "it is not an Ed25519 key");
        let error = SecretKey::from_pem(&secret.public().to_pem()).unwrap_err().to_string();
        assert_eq!(error, "it holds a `PUBLIC KEY`, and not a `PRIVATE KEY`");
        for wrong in ["", "0123", "0123456789ABCDEF", "+123456789abcdef", "0123456789abcdef0"] {
            assert!(wrong.parse::<KeyId>().is_err(), "{wrong}");
        }
    }
}
