//! The gateway's DNS: the few lines of RFC 1035 that resolvers of C libraries and runtimes use.
//!
//! Queries come from tenants. Every read is bounded by the datagram, nothing is allocated by what a query claims,
//! compressed names (never needed in a question) are refused, so no pointer is ever followed.

use std::net::Ipv4Addr;

/// How long a client may keep an answer, in seconds. Synthetic addresses hold for a gateway's whole life.
const TTL: u32 = 60;
const HEADER: usize = 12;
/// A name on the wire, at most (RFC 1035, 2.3.4).
const MAX_NAME: usize = 255;

const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;

const FLAG_RESPONSE: u16 = 0x8000;
const MASK_OPCODE: u16 = 0x7800;
const FLAG_RECURSION_DESIRED: u16 = 0x0100;
const FLAG_RECURSION_AVAILABLE: u16 = 0x0080;

const NO_ERROR: u16 = 0;
const FORMAT_ERROR: u16 = 1;
const NO_SUCH_NAME: u16 = 3;
const NOT_IMPLEMENTED: u16 = 4;
const REFUSED: u16 = 5;

/// Answers `query`, a datagram. `resolve` gives the address of a name (lower case, no final dot) that may be known.
/// `None` when there is nothing to answer: too short for a header, or itself an answer.
///
/// A known name has an A record and nothing else: other types get an empty answer, not an error, because resolvers
/// ask for A and AAAA together and take an error for one as one for both. Other names do not exist (NXDOMAIN):
/// on REFUSED the C library retries and then reports a temporary failure, which hides the cause from the user.
pub fn answer(query: &[u8], mut resolve: impl FnMut(&str) -> Option<Ipv4Addr>) -> Option<Vec<u8>> {
    let header = query.get(..HEADER)?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (id, flags, questions) = (word(0), word(2), word(4));
    if flags & FLAG_RESPONSE != 0 {
        return None;
    }
    let reply = |code: u16, question: &[u8], address: Option<Ipv4Addr>| {
        let kept = flags & (MASK_OPCODE | FLAG_RECURSION_DESIRED);
        let flags = FLAG_RESPONSE | FLAG_RECURSION_AVAILABLE | kept | code;
        let counts = [u16::from(!question.is_empty()), u16::from(address.is_some()), 0, 0];
        let mut bytes = Vec::with_capacity(HEADER + question.len() + 16);
        for word in [id, flags].into_iter().chain(counts) {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.extend_from_slice(question);
        if let Some(address) = address {
            // The name is a pointer to the question's, right after the header.
            for word in [0xc000 | HEADER as u16, TYPE_A, CLASS_IN] {
                bytes.extend_from_slice(&word.to_be_bytes());
            }
            bytes.extend_from_slice(&TTL.to_be_bytes());
            bytes.extend_from_slice(&4u16.to_be_bytes());
            bytes.extend_from_slice(&address.octets());
        }
        Some(bytes)
    };
    if flags & MASK_OPCODE != 0 {
        return reply(NOT_IMPLEMENTED, &[], None);
    }
    let question = match questions {
        1 => Question::parse(&query[HEADER..]),
        _ => None,
    };
    let Some(Question { wire, name, kind, class }) = question else {
        return reply(FORMAT_ERROR, &[], None);
    };
    match kind {
        _ if class != CLASS_IN && class != CLASS_ANY => reply(REFUSED, wire, None),
        // Zone transfers, ANY and the other types that are not of records.
        128..=255 => reply(NOT_IMPLEMENTED, wire, None),
        _ => match name.and_then(|name| resolve(&name)) {
            None => reply(NO_SUCH_NAME, wire, None),
            Some(address) => reply(NO_ERROR, wire, (kind == TYPE_A).then_some(address)),
        },
    }
}

struct Question<'a> {
    /// The whole question as it came: an answer repeats it, capital letters included.
    wire: &'a [u8],
    /// `None` when the name has characters that no host name has.
    name: Option<String>,
    kind: u16,
    class: u16,
}

impl<'a> Question<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut name = Some(String::new());
        let mut at = 0;
        loop {
            let len = usize::from(*bytes.get(at)?);
            at += 1;
            if len == 0 {
                break;
            }
            // Two high bits set would be a compression pointer.
            if len > 63 || at + len >= MAX_NAME {
                return None;
            }
            let label = bytes.get(at..at + len)?;
            at += len;
            let plain = label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
            name = name.filter(|_| plain).map(|mut name| {
                if !name.is_empty() {
                    name.push('.');
                }
                name.extend(label.iter().map(|b| char::from(b.to_ascii_lowercase())));
                name
            });
        }
        let tail = bytes.get(at..at + 4)?;
        let wire = &bytes[..at + 4];
        let kind = u16::from_be_bytes([tail[0], tail[1]]);
        let class = u16::from_be_bytes([tail[2], tail[3]]);
        Some(Self { wire, name: name.filter(|name| !name.is_empty()), kind, class })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(flags: u16, name: &[u8], kind: u16, class: u16, tail: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd];
        for word in [flags, 1, 0, 0, u16::from(!tail.is_empty())] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&class.to_be_bytes());
        bytes.extend_from_slice(tail);
        bytes
    }

    fn resolve(name: &str) -> Option<Ipv4Addr> {
        (name == "api.example.com").then_some(Ipv4Addr::new(198, 18, 1, 0))
    }

    const KNOWN: &[u8] = b"\x03aPi\x07Example\x03com\0";
    /// An EDNS record: root name, type OPT, 1232 bytes.
    const EDNS: &[u8] = b"\0\0\x29\x04\xd0\0\0\0\0\0\0";

    #[test]
    fn questions_get_their_code() {
        for (what, query, code, answers) in [
            ("A", query(0x0100, KNOWN, 1, 1, b""), NO_ERROR, 1),
            ("A with EDNS", query(0x0120, KNOWN, 1, 1, EDNS), NO_ERROR, 1),
            ("AAAA", query(0x0100, KNOWN, 28, 1, b""), NO_ERROR, 0),
            ("HTTPS", query(0x0100, KNOWN, 65, 1, b""), NO_ERROR, 0),
            ("another name", query(0x0100, b"\x03api\x07example\x03org\0", 1, 1, b""), NO_SUCH_NAME, 0),
            ("a name above", query(0x0100, b"\x07example\x03com\0", 1, 1, b""), NO_SUCH_NAME, 0),
            ("the root", query(0x0100, b"\0", 1, 1, b""), NO_SUCH_NAME, 0),
            ("odd characters", query(0x0100, b"\x0fapi.example.com\0", 1, 1, b""), NO_SUCH_NAME, 0),
            ("ANY", query(0x0100, KNOWN, 255, 1, b""), NOT_IMPLEMENTED, 0),
            ("class CHAOS", query(0x0100, KNOWN, 1, 3, b""), REFUSED, 0),
            ("an update", query(0x2800, KNOWN, 1, 1, b""), NOT_IMPLEMENTED, 0),
            ("a pointer", query(0x0100, b"\xc0\x0c", 1, 1, b""), FORMAT_ERROR, 0),
            ("a label too long", query(0x0100, &[64; 66], 1, 1, b""), FORMAT_ERROR, 0),
            ("a name too long", query(0x0100, &[1; 300], 1, 1, b""), FORMAT_ERROR, 0),
            ("a cut name", query(0x0100, b"\x3fab", 1, 1, b""), FORMAT_ERROR, 0),
        ] {
            let reply = answer(&query, resolve).expect(what);
            assert_eq!(&reply[..2], &[0xab, 0xcd], "{what}");
            assert_eq!(u16::from_be_bytes([reply[2], reply[3]]) & 0x000f, code, "{what}");
            assert_eq!(reply[2] & 0x80, 0x80, "{what}");
            assert_eq!(u16::from_be_bytes([reply[6], reply[7]]), answers, "{what}");
        }
    }

    #[test]
    fn the_answer_is_exact() {
        let reply = answer(&query(0x0100, KNOWN, 1, 1, EDNS), resolve).unwrap();
        let mut expected = b"\xab\xcd\x81\x80\0\x01\0\x01\0\0\0\0".to_vec();
        expected.extend_from_slice(KNOWN);
        expected.extend_from_slice(b"\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc6\x12\x01\0");
        assert_eq!(reply, expected);
    }

    #[test]
    fn no_datagram_is_answered_twice_or_breaks() {
        assert_eq!(answer(&query(0x8180, KNOWN, 1, 1, b""), resolve), None);
        let whole = query(0x0100, KNOWN, 1, 1, EDNS);
        for len in 0..whole.len() {
            let reply = answer(&whole[..len], resolve);
            assert_eq!(reply.is_some(), len >= HEADER, "{len} bytes");
        }
        // Every byte, changed in every way.
        for at in 0..whole.len() {
            for value in 0..=255 {
                let mut changed = whole.clone();
                changed[at] = value;
                if let Some(reply) = answer(&changed, resolve) {
                    assert!(reply.len() <= changed.len() + 16, "byte {at} = {value}");
                }
            }
        }
    }
}
