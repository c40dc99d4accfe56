//! Ids made at random, once, for one thing.

use std::fmt;
use std::str::FromStr;

/// The id of one invocation: a version 4 UUID (RFC 9562), as the Lambda Runtime API's clients expect.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InvocationId([u8; 16]);

/// Why a text is not an invocation id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an invocation id (a lower-case UUID)")]
pub struct IdError;

/// 16 bytes from the kernel's generator.
///
/// # Panics
/// When the kernel has no random numbers to give: getrandom(2) cannot fail this way after boot, and no id made
/// without it could be trusted to be unique.
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

impl InvocationId {
    /// A new id.
    pub fn random() -> Self {
        let mut bytes = random_bytes::<16>();
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }
}

impl fmt::Display for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for InvocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for InvocationId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let text = text.as_bytes();
        if text.len() != 36 {
            return Err(IdError);
        }
        let mut bytes = [0; 16];
        let mut at = 0;
        for (i, byte) in bytes.iter_mut().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                if text[at] != b'-' {
                    return Err(IdError);
                }
                at += 1;
            }
            for _ in 0..2 {
                let digit = match text[at] {
                    d @ b'0'..=b'9' => d - b'0',
                    d @ b'a'..=b'f' => d - b'a' + 10,
                    _ => return Err(IdError),
                };
                *byte = *byte << 4 | digit;
                at += 1;
            }
        }
        Ok(Self(bytes))
    }
}

/// The id of one instance on one node: 12 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceId([u8; 6]);

impl InstanceId {
    /// A new id.
    pub fn random() -> Self {
        Self(random_bytes())
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invocation_ids_are_version_4_uuids() {
        let id = InvocationId::random();
        let text = id.to_string();
        assert_eq!(text.as_bytes()[14], b'4');
        assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        assert_eq!(text.parse(), Ok(id));
        for wrong in ["", "x", &text[1..], &text.to_uppercase().replace('4', "G"), &text.replace('-', "0")] {
            assert_eq!(wrong.parse::<InvocationId>(), Err(IdError), "{wrong}");
        }
    }
}
