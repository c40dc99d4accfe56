//! A server that knows nothing of checkpoints, on its way to one: it listens, and is asked what its author wants it to be asked
//! before.

use std::io;
use std::time::Duration;

use stratos_sandbox::Instance;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::deployed::HTTP_PORT;

/// Pause between two looks whether it listens.
const POLL: Duration = Duration::from_millis(2);
/// How long one request may take, and how long its answer may be.
const PATIENCE: Duration = Duration::from_secs(5);
const MOST_BYTES: u64 = 16 << 20;

/// Waits until the server of an instance listens, and sends it requests for `paths`, one after the other. Waits for ever when
/// it does not listen.
///
/// # Errors
/// Why a request got no answer, in words for the function's author.
pub(super) async fn prime(instance: &Instance, paths: &[String]) -> Result<(), String> {
    while connect(instance).await.is_err() {
        tokio::time::sleep(POLL).await;
    }
    for path in paths {
        let asked = tokio::time::timeout(PATIENCE, ask(instance, path)).await;
        let asked = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        asked.map_err(|error| format!("it does not answer {path}, which `prime` names: {error}"))?;
    }
    Ok(())
}

async fn connect(instance: &Instance) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(instance.connect_port(HTTP_PORT)?)?;
    stream.writable().await?;
    stream.take_error()?.map_or(Ok(stream), Err)
}

async fn ask(instance: &Instance, path: &str) -> io::Result<()> {
    let mut stream = connect(instance).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MOST_BYTES).read_to_end(&mut answer).await?;
    match answer.is_empty() {
        true => Err(io::Error::other("it closed the connection")),
        false => Ok(()),
    }
}
