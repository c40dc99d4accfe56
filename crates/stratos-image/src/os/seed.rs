//! Identities of an image's parts, made from the digest of its inputs: the same inputs give the same identities.

use stratos_types::Digest;

use super::gpt::Guid;

/// What identities are made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seed(Digest);

impl Seed {
    pub(crate) fn new(inputs: Digest) -> Self {
        Self(inputs)
    }

    /// A seed that depends on nothing, for what is the same in every image.
    pub(crate) fn fixed() -> Self {
        Self(Digest::of(b"StratOS"))
    }

    /// A digest that no other purpose gets.
    pub(crate) fn digest(self, purpose: &str) -> Digest {
        Digest::of(format!("{}\n{purpose}\n", self.0).as_bytes())
    }

    /// 32 bytes, such as a salt.
    pub(crate) fn bytes(self, purpose: &str) -> [u8; 32] {
        let hex = self.digest(purpose).hex();
        let byte = |n: usize| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).expect("a digest is hex digits");
        std::array::from_fn(byte)
    }

    /// A version 8 UUID (RFC 9562, section 5.8).
    pub(crate) fn uuid(self, purpose: &str) -> Guid {
        let mut bytes: [u8; 16] = self.bytes(purpose)[..16].try_into().expect("half of 32 bytes is 16");
        bytes[6] = bytes[6] & 0x0F | 0x80;
        bytes[8] = bytes[8] & 0x3F | 0x80;
        Guid(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_depend_on_inputs_and_purpose_and_are_well_formed() {
        let seed = Seed::new(Digest::of(b"inputs"));
        assert_eq!(seed.bytes("a"), Seed::new(Digest::of(b"inputs")).bytes("a"));
        assert_ne!(seed.bytes("a"), seed.bytes("b"));
        assert_ne!(seed.bytes("a"), Seed::fixed().bytes("a"));
        let uuid = seed.uuid("disk").to_string();
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "8"));
        assert!("89ab".contains(&uuid[19..20]), "{uuid}");
    }
}
