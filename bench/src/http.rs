//! A blocking HTTP/1.1 client on one kept connection, the same for every subject, so that its own cost (a write, a
//! read and a scan for the end of the head) is in each figure alike.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

/// How long an answer may take, where every instruction is emulated too. A benchmark that waits longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Largest head and body of an answer in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// A stream to a server.
pub(crate) trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A kept connection.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    filled: usize,
}

/// An answer, read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Status code.
    pub(crate) status: u16,
    /// Names in lower case, in the order they came.
    pub(crate) headers: Vec<(String, String)>,
    /// Body.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The values of a header joined by commas, as HTTP allows; empty when there is none. `name` is in lower case.
    pub(crate) fn header(&self, name: &str) -> String {
        let values = self.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str());
        values.collect::<Vec<_>>().join(", ")
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The same answer if its status is 200.
    ///
    /// # Errors
    /// For any other status; the body is in the message.
    pub(crate) fn ok(self) -> Result<Self> {
        ensure!(self.status == 200, "answered {}: {}", self.status, self.text());
        Ok(self)
    }
}

/// The bytes of a request.
pub(crate) fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
    if method == "GET" {
        request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    }
    let mut request = request.into_bytes();
    request.extend_from_slice(body);
    request
}

impl Connection {
    fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: vec![0; 16 << 10], filled: 0 }
    }

    /// Connects to a Unix socket.
    ///
    /// # Errors
    /// When it cannot.
    pub(crate) fn unix(path: &Path) -> Result<Self> {
        let stream = UnixStream::connect(path).with_context(|| format!("connect to {}", path.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::new(stream))
    }

    /// Connects to a port of this machine; `None` while nothing listens there.
    ///
    /// # Errors
    /// When it cannot for another reason.
    pub(crate) fn local(port: u16) -> Result<Option<Self>> {
        let stream = match TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(None),
            stream => stream.with_context(|| format!("connect to port {port}"))?,
        };
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Some(Self::new(stream)))
    }

    /// Sends the bytes of a request and reads the answer.
    ///
    /// # Errors
    /// When the connection breaks, nothing comes for [`PATIENCE`], or the answer is not HTTP/1.1.
    pub(crate) fn send(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request).context("send the request")?;
        let head_end = loop {
            let found = find(&self.buffer[..self.filled], b"\r\n\r\n");
            match found {
                Some(at) => break at + 4,
                None => self.fill()?,
            }
        };
        let head = std::str::from_utf8(&self.buffer[..head_end]).context("the answer's head is not UTF-8")?;
        let (status, headers) = parse_head(head)?;
        let mut answer = Answer { status, headers, body: Vec::new() };
        self.consume(head_end);
        answer.body = if answer.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
            self.chunked()?
        } else if status == 204 {
            // It has no body, and so no length (RFC 9110, section 15.3.5).
            Vec::new()
        } else {
            let length = answer.header("content-length");
            let length = length.parse().with_context(|| format!("content-length `{length}`"))?;
            self.take(length)?
        };
        Ok(answer)
    }

    /// Reads more.
    fn fill(&mut self) -> Result<()> {
        ensure!(self.filled < MAX_ANSWER, "the answer is larger than {MAX_ANSWER} bytes");
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.filled * 2, 0);
        }
        let read = self.stream.read(&mut self.buffer[self.filled..]).context("read the answer")?;
        ensure!(read > 0, "the connection was closed before the answer ended");
        self.filled += read;
        Ok(())
    }

    fn consume(&mut self, bytes: usize) {
        self.buffer.copy_within(bytes..self.filled, 0);
        self.filled -= bytes;
    }

    fn take(&mut self, bytes: usize) -> Result<Vec<u8>> {
        ensure!(bytes <= MAX_ANSWER, "the answer is larger than {MAX_ANSWER} bytes");
        while self.filled < bytes {
            self.fill()?;
        }
        let taken = self.buffer[..bytes].to_vec();
        self.consume(bytes);
        Ok(taken)
    }

    fn chunked(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line_end = loop {
                match find(&self.buffer[..self.filled], b"\r\n") {
                    Some(at) => break at,
                    None => self.fill()?,
                }
            };
            let line = self.take(line_end + 2)?;
            let size = std::str::from_utf8(&line[..line_end]).ok().and_then(|line| {
                let size = line.split(';').next()?;
                usize::from_str_radix(size.trim(), 16).ok()
            });
            let Some(size) = size else { bail!("`{}` is not a chunk's size", line.escape_ascii()) };
            // No subject sends trailers, so the last chunk's line end is the answer's.
            let chunk = self.take(size.saturating_add(2))?;
            ensure!(chunk.ends_with(b"\r\n"), "a chunk does not end where its size says");
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn parse_head(head: &str) -> Result<(u16, Vec<(String, String)>)> {
    let mut lines = head.trim_end().split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.with_context(|| format!("`{first}` is not an HTTP/1.1 status line"))?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':').with_context(|| format!("`{line}` is not a header"))?;
        Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    Ok((status, lines.map(header).collect::<Result<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers whatever is asked with `parts`, each written by itself, and closes.
    fn answer(parts: &'static [&'static str]) -> Result<Answer> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || {
            let mut asked = [0; 128];
            let read = theirs.read(&mut asked).unwrap();
            for part in parts {
                theirs.write_all(part.as_bytes()).unwrap();
            }
            asked[..read].to_vec()
        });
        let answer = Connection::new(ours).send(&request("GET", "/x", b""));
        assert_eq!(server.join().unwrap(), b"GET /x HTTP/1.1\r\nhost: localhost\r\n\r\n");
        answer
    }

    #[test]
    fn answers_are_read_to_their_end() {
        let plain =
            answer(&["HTTP/1.1 200 OK\r\nContent-Le", "ngth: 5\r\nA: 1\r\na: 2\r\n\r\nhel", "lo"]).unwrap();
        assert_eq!((plain.status, plain.text().as_str()), (200, "hello"));
        assert_eq!(plain.header("a"), "1, 2");
        const HEAD: &str = "HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunked = answer(&[HEAD, "3\r\nhel\r\n2;x=1\r", "\nlo\r\n0\r\n", "\r\n"]).unwrap();
        assert_eq!((chunked.status, chunked.text().as_str()), (201, "hello"));
        assert!(chunked.ok().unwrap_err().to_string().contains("201"));
        assert_eq!(answer(&["HTTP/1.1 204 No Content\r\n\r\n"]).unwrap().status, 204);
    }

    #[test]
    fn broken_answers_are_errors() {
        let wrong: [&'static [&'static str]; 5] = [
            &["HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel"],
            &["HTTP/1.1 200 OK\r\n\r\n"],
            &["SSH-2.0\r\n\r\n"],
            &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"],
            &["HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n"],
        ];
        for parts in wrong {
            assert!(answer(parts).is_err(), "{parts:?}");
        }
    }

    #[test]
    fn requests_with_a_body_say_its_length() {
        let bytes = request("POST", "/i", b"{}");
        assert_eq!(bytes, b"POST /i HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}");
    }
}
