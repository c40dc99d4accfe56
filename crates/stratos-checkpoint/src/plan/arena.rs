//! Memory that a plan fills for the restorer: every piece has its final address from the start.

use std::ffi::CStr;

use stratos_restorer::abi::Call;

/// Alignment of pieces that name none.
const ALIGNMENT: usize = 16;

/// Bytes that will lie at a fixed address.
#[derive(Debug)]
pub struct Arena {
    base: u64,
    bytes: Vec<u8>,
}

impl Arena {
    /// An empty one at an address, which must be that of a page.
    pub fn new(base: u64) -> Self {
        Self { base, bytes: Vec::new() }
    }

    /// Adds bytes; gives their address.
    pub fn put(&mut self, bytes: &[u8]) -> u64 {
        self.put_aligned(bytes, ALIGNMENT)
    }

    /// Adds bytes at an address that is a multiple of `alignment`.
    pub fn put_aligned(&mut self, bytes: &[u8], alignment: usize) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
        let address = self.base + self.bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
        address
    }

    /// Adds words.
    pub fn words(&mut self, words: &[u64]) -> u64 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(&bytes)
    }

    /// Adds a text with its zero.
    pub fn text(&mut self, text: &CStr) -> u64 {
        self.put(text.to_bytes_with_nul())
    }

    /// Adds calls; gives address and number.
    pub fn calls(&mut self, calls: &[Call]) -> (u64, u64) {
        let mut bytes = Vec::with_capacity(std::mem::size_of_val(calls));
        for call in calls {
            bytes.extend_from_slice(&call.number.to_le_bytes());
            bytes.extend_from_slice(&call.flags.to_le_bytes());
            bytes.extend_from_slice(&call.from);
            bytes.extend_from_slice(&[call.keep, call.padding]);
            for arg in call.args {
                bytes.extend_from_slice(&arg.to_le_bytes());
            }
            bytes.extend_from_slice(&call.expect.to_le_bytes());
        }
        (self.put(&bytes), calls.len() as u64)
    }

    /// Overwrites bytes that were added before.
    ///
    /// # Panics
    /// When they were not.
    pub fn replace(&mut self, address: u64, bytes: &[u8]) {
        let at = (address - self.base) as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_have_aligned_addresses_and_calls_the_layout_of_the_restorer() {
        let mut arena = Arena::new(0x1000);
        assert_eq!(arena.put(b"abc"), 0x1000);
        assert_eq!(arena.text(c"x"), 0x1010);
        assert_eq!(arena.put_aligned(&[1], 64), 0x1040);
        let call = Call::new(9, [1, 2, 3, 4, 5, 6]).exact(7).keep(1).with(2, 0);
        let (at, count) = arena.calls(&[call]);
        assert_eq!((at, count), (0x1050, 1));
        let bytes = arena.into_bytes();
        assert_eq!(bytes.len(), 0x50 + size_of::<Call>());
        let call = &bytes[0x50..];
        assert_eq!(call[..8], [9, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(call[8..16], [0, 0, 1, 0, 0, 0, 2, 0]);
        assert_eq!(std::mem::offset_of!(Call, args), 16);
        assert_eq!(std::mem::offset_of!(Call, expect), 64);
        assert_eq!(call[64], 7);
    }
}
