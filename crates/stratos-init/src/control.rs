//! The socket on which PID 1 answers: one line of JSON in, one out. Root alone may ask. A client that is slow costs PID
//! 1 a little memory for a little while, and no time.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use stratos_api::node::{InitAnswer, InitRequest};

use crate::clock;
use crate::error::InitError;

/// Longest request.
const LONGEST: usize = 4096;
/// Most clients at a time.
pub const MOST_CLIENTS: usize = 16;
/// How long a client has for everything.
const PATIENCE: Duration = Duration::from_secs(5);

/// Opens the socket.
///
/// # Errors
/// When it cannot be made.
pub fn open(path: &Path) -> Result<UnixListener, InitError> {
    drop(std::fs::remove_file(path));
    let open = || {
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    open().map_err(|source: std::io::Error| InitError::file("make", path, source))
}

/// A client.
pub struct Client {
    stream: UnixStream,
    request: Vec<u8>,
    answer: Vec<u8>,
    written: usize,
    deadline: Duration,
}

/// What became of a client.
#[derive(Debug, PartialEq)]
pub enum Progress {
    /// It has not said everything, or not read everything.
    Waiting,
    /// It asks this.
    Asks(Result<InitRequest, String>),
    /// It is done, or gone.
    Over,
}

impl Client {
    /// The next client; `None` when there is none, or it is not root.
    pub fn accept(listener: &UnixListener) -> Option<Self> {
        let (stream, _) = listener.accept().ok()?;
        stream.set_nonblocking(true).ok()?;
        let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
        if !peer.uid.is_root() {
            return None;
        }
        let deadline = clock::now() + PATIENCE;
        Some(Self { stream, request: Vec::new(), answer: Vec::new(), written: 0, deadline })
    }

    /// When its time is up.
    pub const fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Whether it is reading its answer.
    pub const fn has_answer(&self) -> bool {
        !self.answer.is_empty()
    }

    /// Reads or writes what is possible without waiting.
    pub fn go_on(&mut self) -> Progress {
        if self.has_answer() { self.write() } else { self.read() }
    }

    fn read(&mut self) -> Progress {
        let mut bytes = [0; LONGEST];
        match self.stream.read(&mut bytes) {
            Ok(0) => Progress::Over,
            Ok(length) => {
                self.request.extend_from_slice(bytes.get(..length).unwrap_or_default());
                self.asked()
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                Progress::Waiting
            }
            Err(_) => Progress::Over,
        }
    }

    fn asked(&self) -> Progress {
        let end = self.request.iter().position(|byte| *byte == b'\n');
        match end.and_then(|end| self.request.get(..end)) {
            Some(line) => Progress::Asks(parse(line)),
            None if self.request.len() >= LONGEST => {
                Progress::Asks(Err("the request is too long".to_owned()))
            }
            None => Progress::Waiting,
        }
    }

    /// Gives it its answer.
    pub fn answer(&mut self, answer: &InitAnswer) -> Progress {
        match serde_json::to_vec(answer) {
            Ok(mut text) => {
                text.push(b'\n');
                self.answer = text;
                self.write()
            }
            Err(_) => Progress::Over,
        }
    }

    fn write(&mut self) -> Progress {
        loop {
            let rest = self.answer.get(self.written..).unwrap_or_default();
            if rest.is_empty() {
                return Progress::Over;
            }
            match self.stream.write(rest) {
                Ok(length) => self.written += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Progress::Waiting,
                Err(_) => return Progress::Over,
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Reads a request: a line of JSON.
///
/// # Errors
/// What is wrong with it, for the client.
pub fn parse(line: &[u8]) -> Result<InitRequest, String> {
    serde_json::from_slice(line).map_err(|error| format!("the request is not understood: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    fn pair() -> (tempfile::TempDir, UnixStream, Option<Client>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = open(&path).unwrap();
        let stream = UnixStream::connect(&path).unwrap();
        let client = Client::accept(&listener);
        (dir, stream, client)
    }

    #[test]
    fn a_request_may_come_in_pieces() {
        let (_dir, mut stream, client) = pair();
        let Some(mut client) = client else {
            println!("skipped: only root is answered");
            return;
        };
        assert_eq!(client.go_on(), Progress::Waiting);
        stream.write_all(b"\"sta").unwrap();
        assert_eq!(client.go_on(), Progress::Waiting);
        stream.write_all(b"tus\"\n").unwrap();
        assert_eq!(client.go_on(), Progress::Asks(Ok(InitRequest::Status)));
        assert_eq!(client.answer(&InitAnswer::ShuttingDown), Progress::Over);
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert_eq!(line, "\"shutting_down\"\n");
    }

    #[test]
    fn a_client_that_says_too_much_or_reads_nothing_holds_up_nobody() {
        let (_dir, mut stream, client) = pair();
        let Some(mut client) = client else {
            println!("skipped: only root is answered");
            return;
        };
        stream.write_all(&[b' '; LONGEST]).unwrap();
        assert_eq!(client.go_on(), Progress::Asks(Err("the request is too long".to_owned())));
        let long = InitAnswer::Refused("x".repeat(4 << 20));
        assert_eq!(client.answer(&long), Progress::Waiting);
        drop(stream);
        assert_eq!(client.go_on(), Progress::Over);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert_eq!(parse(b"\"power_off\""), Ok(InitRequest::PowerOff));
        for wrong in [&b""[..], b"status", b"\"halt\"", b"{\"status\":1}", b"\xff"] {
            assert!(parse(wrong).unwrap_err().starts_with("the request is not understood: "));
        }
    }
}
