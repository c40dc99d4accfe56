//! The head of a streamed Lambda answer: JSON with status and headers, eight NUL bytes, then the body.
//!
//! Pure: fed with pieces as they come, of any size. JSON text holds no NUL byte, so the first eight in a row are
//! the end of the head. What comes in here was made by a function and is not trusted.

use bytes::{Bytes, BytesMut};

use super::url_answer::{BadAnswer, Head, parse_head};

/// Content type with which a handler says that its stream begins with such a head.
pub const CONTENT_TYPE: &str = "application/vnd.awslambda.http-integration-response";

/// Longest head accepted, in bytes.
const MAX_HEAD: usize = 64 << 10;
const DELIMITER: [u8; 8] = [0; 8];

/// Reads the head from the pieces of a stream.
#[derive(Debug, Default)]
pub struct PreludeParser {
    seen: BytesMut,
}

impl PreludeParser {
    /// Takes the next piece. `None`: more is needed. Else the head and what of the body has come with it.
    ///
    /// # Errors
    /// When the head is too long or not what it has to be.
    pub fn push(&mut self, piece: &[u8]) -> Result<Option<(Head, Bytes)>, BadAnswer> {
        // Seven bytes of the delimiter may have come before this piece.
        let from = self.seen.len().saturating_sub(DELIMITER.len() - 1);
        self.seen.extend_from_slice(piece);
        let found = self.seen[from..].windows(DELIMITER.len()).position(|w| w == DELIMITER);
        match found.map(|at| from + at) {
            Some(end) if end <= MAX_HEAD => {
                let head = self.seen.split_to(end);
                let body = std::mem::take(&mut self.seen).freeze().slice(DELIMITER.len()..);
                Ok(Some((parse_head(&head)?, body)))
            }
            None if self.seen.len() < MAX_HEAD + DELIMITER.len() => Ok(None),
            _ => Err(BadAnswer::new(format!("the head of the stream is over {} KiB", MAX_HEAD >> 10))),
        }
    }

    /// Says what is wrong with a stream that ended before its head did.
    pub fn ended(&self) -> BadAnswer {
        BadAnswer::new(format!("the stream ended after {} bytes, before its head did", self.seen.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"{\"statusCode\":201,\"headers\":{\"X\":\"1\"},\"cookies\":[\"a=b\"]}\0\0\0\0\0\0\0\0\0body";

    /// However the stream is cut, head and body are the same. (The body begins with a NUL byte of its own.)
    #[test]
    fn the_head_is_found_however_it_is_cut() {
        for size in 1..=STREAM.len() {
            let mut parser = PreludeParser::default();
            let mut pieces = STREAM.chunks(size);
            let (head, mut body) = loop {
                let piece = pieces.next().expect("the head ends before the stream does");
                if let Some((head, rest)) = parser.push(piece).unwrap() {
                    break (head, rest.to_vec());
                }
            };
            pieces.for_each(|piece| body.extend_from_slice(piece));
            assert_eq!(head.status, 201);
            assert_eq!(head.headers["x"], "1");
            assert_eq!(head.headers["set-cookie"], "a=b");
            assert_eq!(body, b"\0body", "{size}");
        }
    }

    #[test]
    fn a_wrong_head_is_refused() {
        for (stream, says) in [
            (&b"[]\0\0\0\0\0\0\0\0"[..], "not a JSON object"),
            (b"\0\0\0\0\0\0\0\0", "not JSON"),
            (b"{\"statusCode\":99}\0\0\0\0\0\0\0\0", "statusCode"),
            (&vec![b' '; MAX_HEAD + 8], "over 64 KiB"),
        ] {
            let error = PreludeParser::default().push(stream).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
        let mut parser = PreludeParser::default();
        assert!(parser.push(b"{}\0\0\0\0\0\0\0").unwrap().is_none());
        assert!(parser.ended().to_string().contains("after 9 bytes"));
    }

    #[test]
    fn a_head_without_status_is_200() {
        let (head, body) = PreludeParser::default().push(b"{}\0\0\0\0\0\0\0\0").unwrap().unwrap();
        assert_eq!((head.status, body.len()), (http::StatusCode::OK, 0));
    }
}
