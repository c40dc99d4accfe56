//! Asking StratOS's own PID 1, which answers one request a connection.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use stratos_api::node::{InitAnswer, InitRequest, InitStatus};

/// How long PID 1 may take. It answers from memory, but a small machine may be busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest answer, bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// Why PID 1 did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Nobody is at its socket.
    #[error("this machine is not run by StratOS's own PID 1")]
    NotManaged,
    /// It could not be asked.
    #[error("cannot ask PID 1")]
    Ask {
        /// Why.
        source: io::Error,
    },
    /// It answered with something else.
    #[error("PID 1 answers with what this agent does not understand")]
    Answer {
        /// Why.
        source: Option<serde_json::Error>,
    },
    /// It refused.
    #[error("PID 1 refuses: {reason}")]
    Refused {
        /// Its reason.
        reason: String,
    },
}

/// StratOS's PID 1, if it runs this machine.
#[derive(Debug)]
pub(super) struct Init {
    socket: PathBuf,
}

impl Init {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Whether StratOS's PID 1 runs this machine.
    pub(super) fn is_there(&self) -> bool {
        self.socket.exists()
    }

    pub(super) fn status(&self) -> Result<InitStatus, InitError> {
        match self.ask(InitRequest::Status)? {
            InitAnswer::Status(status) => Ok(*status),
            other => Err(unexpected(other)),
        }
    }

    pub(super) fn shut_down(&self, request: InitRequest) -> Result<(), InitError> {
        match self.ask(request)? {
            InitAnswer::ShuttingDown => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    fn ask(&self, request: InitRequest) -> Result<InitAnswer, InitError> {
        let mut stream = match UnixStream::connect(&self.socket) {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(InitError::NotManaged),
            Err(source) => return Err(InitError::Ask { source }),
        };
        let answer = exchange(&mut stream, request).map_err(|source| InitError::Ask { source })?;
        serde_json::from_slice(&answer).map_err(|source| InitError::Answer { source: Some(source) })
    }
}

fn unexpected(answer: InitAnswer) -> InitError {
    match answer {
        InitAnswer::Refused(reason) => InitError::Refused { reason },
        InitAnswer::Status(_) | InitAnswer::ShuttingDown => InitError::Answer { source: None },
    }
}

/// A line there, a line back.
fn exchange(stream: &mut UnixStream, request: InitRequest) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(&request).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    BufReader::new(stream).take(MAX_ANSWER).read_until(b'\n', &mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Answers one request with `answer`, and gives what it was asked.
    fn asked(answer: &str, ask: impl FnOnce(&Init)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("init.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let answer = answer.to_owned();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            line
        });
        ask(&Init::new(socket));
        server.join().unwrap()
    }

    #[test]
    fn one_line_is_asked_and_one_line_answers() {
        let line = asked("\"shutting_down\"\n", |init| init.shut_down(InitRequest::PowerOff).unwrap());
        assert_eq!(line, "\"power_off\"\n");
        let status = r#"{"status":{"boot":{"number":1,"boot_id":"","began_at":"","version":"","kernel":"","root_hash":"",
            "kernel_us":1,"phases":[],"ready_us":null},"services":[],"abilities":[],"init_rss_kb":900}}"#;
        asked(&status.replace('\n', ""), |init| assert_eq!(init.status().unwrap().init_rss_kb, 900));
    }

    #[test]
    fn other_answers_are_errors() {
        asked("{\"refused\":\"busy\"}\n", |init| {
            let error = init.shut_down(InitRequest::Reboot).unwrap_err();
            assert_eq!(error.to_string(), "PID 1 refuses: busy");
        });
        for wrong in ["", "{}\n", "\"shutting_down\"\n"] {
            asked(wrong, |init| assert!(matches!(init.status(), Err(InitError::Answer { .. })), "{wrong}"));
        }
    }
}
