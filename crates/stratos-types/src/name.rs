//! Names that people choose.

use std::fmt;
use std::str::FromStr;

/// Why a text is not a name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{given}` is not a {what} name (1 to 63 of a-z, 0-9 and -, starting and ending with a letter or digit)"
)]
pub struct NameError {
    what: &'static str,
    given: String,
}

/// One DNS label, lower case (RFC 1123): it fits host names, file names and cgroup names as it is.
fn is_label(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                match is_label(text) {
                    true => Ok(Self(text.to_owned())),
                    false => Err(NameError { what: $what, given: text.chars().take(80).collect() }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

label! {
    /// The name of a function, unique for one tenant.
    FunctionName, "function"
}

label! {
    /// Who owns a function. A node on its own has one tenant, `default`.
    TenantId, "tenant"
}

label! {
    /// The name of a secret, unique for one tenant on one node.
    SecretName, "secret"
}

impl Default for TenantId {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// A function of a tenant: the key under which a node keeps everything about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionKey {
    /// Whose function.
    pub tenant: TenantId,
    /// Which one.
    pub name: FunctionName,
}

impl FunctionKey {
    /// The key of a function of the tenant `default`.
    pub fn of_default_tenant(name: FunctionName) -> Self {
        Self { tenant: TenantId::default(), name }
    }
}

impl fmt::Display for FunctionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for right in ["a", "hello-node", "0x", &"a".repeat(63)] {
            assert_eq!(right.parse::<FunctionName>().unwrap().as_str(), right);
        }
        for wrong in ["", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", "ü", &"a".repeat(64)] {
            assert!(wrong.parse::<FunctionName>().is_err(), "{wrong}");
        }
    }
}
