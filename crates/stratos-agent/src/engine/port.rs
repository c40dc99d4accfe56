//! The way in to a `$PORT` function: HTTP/1.1 connections to its server, kept for a moment.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use stratos_api::ApiError;
use tokio::net::TcpStream;

use super::instance::Instance;
use super::lock;
use crate::body::BoxBody;

/// Longest time an unused connection is kept. Servers close idle ones after 2 s (gunicorn) to 5 s (Node.js,
/// uvicorn), and a request sent just then would be lost; a new connection costs less than 0.1 ms.
const KEEP: Duration = Duration::from_secs(1);
/// Pause between two looks whether the server listens: until [`SOON`], and later. A look costs some 20 us, and half
/// of the pause is added to every cold start.
const POLL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(5));
/// When most servers listen.
const SOON: Duration = Duration::from_millis(250);

type Sender = SendRequest<BoxBody>;

/// The connections of one instance.
pub(super) struct Port {
    idle: Mutex<Vec<(Instant, Sender)>>,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum PortError {
    #[error("cannot connect to the function's server")]
    Connect(#[source] std::io::Error),
    #[error("the function's server does not speak HTTP/1.1, or broke off")]
    Http(#[source] hyper::Error),
}

impl Port {
    pub(super) fn new() -> Self {
        Self { idle: Mutex::default() }
    }

    /// Waits until the server listens. Ends only then: death and timeout are watched by the caller.
    pub(super) async fn wait(&self, instance: &Instance) -> Result<(), ApiError> {
        let began = Instant::now();
        loop {
            let pause = if began.elapsed() < SOON { POLL.0 } else { POLL.1 };
            match connect(instance).await {
                Ok(sender) => {
                    self.keep(sender);
                    return Ok(());
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
        }
    }

    /// Sends a request. It is tried again only when it certainly never left this process.
    pub(super) async fn send(
        &self,
        instance: &Instance,
        mut request: Request<BoxBody>,
    ) -> Result<(Response<Incoming>, Sender), PortError> {
        loop {
            let (mut sender, kept) = match self.take() {
                Some(sender) => (sender, true),
                None => (connect(instance).await?, false),
            };
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut error) => match error.take_message() {
                    // The server had closed the connection before anything was written.
                    Some(unsent) if kept => request = unsent,
                    _ => return Err(PortError::Http(error.into_error())),
                },
            }
        }
    }

    /// Keeps a connection whose answer was read to its end.
    pub(super) fn keep(&self, sender: Sender) {
        if !sender.is_closed() {
            lock(&self.idle).push((Instant::now(), sender));
        }
    }

    fn take(&self) -> Option<Sender> {
        let mut idle = lock(&self.idle);
        idle.retain(|(since, sender)| since.elapsed() < KEEP && !sender.is_closed());
        let at = idle.iter().rposition(|(_, sender)| sender.is_ready())?;
        Some(idle.remove(at).1)
    }
}

async fn connect(instance: &Instance) -> Result<Sender, PortError> {
    let stream = instance.connect_port().and_then(TcpStream::from_std).map_err(PortError::Connect)?;
    // The socket connects without blocking; it is writable once that is decided.
    stream.writable().await.map_err(PortError::Connect)?;
    if let Some(error) = stream.take_error().map_err(PortError::Connect)? {
        return Err(PortError::Connect(error));
    }
    stream.set_nodelay(true).map_err(PortError::Connect)?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(PortError::Http)?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a function's server ended");
        }
    });
    // Else the first request might find it not ready yet and take another: a server that has one connection at a time
    // would wait for a request on this one.
    sender.ready().await.map_err(PortError::Http)?;
    Ok(sender)
}
