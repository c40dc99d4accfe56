//! A small mutator for runs without libFuzzer: the same seed gives the same inputs on every machine.

/// Longest input made.
const MAX_LEN: usize = 16 << 10;

/// What parsers are known to stumble over.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\r\n",
    b"\n",
    b"\n\n",
    b"\t",
    b" ",
    b"..",
    b"../",
    b"/",
    b"//",
    b"./",
    b"\\",
    b"\\\n",
    b":",
    b";",
    b",",
    b"=",
    b"-",
    b"--",
    b"+",
    b"@",
    b"*",
    b"**",
    b"#",
    b"%",
    b"%00",
    b"%2e",
    b"${X}",
    b"\"",
    b"'",
    b"[",
    b"]",
    b"[[",
    b"{",
    b"}",
    b"{}",
    b"[]",
    b"null",
    b"true",
    b"0",
    b"-1",
    b"1e9",
    b"255",
    b"256",
    b"65535",
    b"65536",
    b"4294967296",
    b"18446744073709551616",
    b"\x1f",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0\0\0\0\0",
    b"\xc0\x0c",
    "\u{e9}".as_bytes(),
    "\u{2028}".as_bytes(),
    "\u{feff}".as_bytes(),
];

/// Makes inputs from a corpus.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// A mutator whose inputs all follow from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`; 0 when there is none.
    fn below(&mut self, end: usize) -> usize {
        match end {
            0 => 0,
            _ => usize::try_from(self.next() % end as u64).expect("it is below a usize"),
        }
    }

    /// A part of `bytes`, short ones more often than long ones.
    fn range(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let start = self.below(bytes.len() + 1);
        let most = if self.below(4) == 0 { bytes.len() - start } else { (bytes.len() - start).min(16) };
        start..start + self.below(most + 1)
    }

    /// The next input: one of `corpus` with one to eight changes.
    ///
    /// # Panics
    /// When `corpus` is empty.
    pub fn next_input(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(4) * self.below(3) {
            self.change(&mut bytes, corpus);
        }
        bytes.truncate(MAX_LEN);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        match self.below(9) {
            0 if !bytes.is_empty() => {
                let at = self.below(bytes.len());
                bytes[at] ^= 1 << self.below(8);
            }
            1 if !bytes.is_empty() => {
                let at = self.below(bytes.len());
                bytes[at] = self.next().to_le_bytes()[0];
            }
            2 => bytes.truncate(self.below(bytes.len() + 1)),
            3 => {
                let range = self.range(bytes);
                bytes.drain(range);
            }
            4 => {
                let range = self.range(bytes);
                let copy = bytes[range].to_vec();
                self.insert(bytes, &copy);
            }
            5 => {
                let other = &corpus[self.below(corpus.len())];
                let part = other[self.range(other)].to_vec();
                self.insert(bytes, &part);
            }
            6 => {
                let range = self.range(bytes);
                let token = TOKENS[self.below(TOKENS.len())];
                bytes.splice(range, token.iter().copied());
            }
            _ => {
                let token = TOKENS[self.below(TOKENS.len())];
                self.insert(bytes, token);
            }
        }
    }

    fn insert(&mut self, bytes: &mut Vec<u8>, part: &[u8]) {
        let at = self.below(bytes.len() + 1);
        bytes.splice(at..at, part.iter().copied());
    }
}
