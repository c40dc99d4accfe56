//! Accepts connections and runs HTTP/1.1 on them, within limits, until told to stop.
//!
//! A connection costs a stranger what it costs the node: heads are limited in size and time, TLS handshakes in
//! time, connections in number. A request that is being answered when the node stops is answered.

use std::convert::Infallible;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower_service::Service as _;

use super::auth::{self, Peer};
use super::listeners::{Listeners, unlink};
use super::timed::{Answered, Timed, Times};
use super::token::Token;

/// Largest request head in bytes, and size of a connection's read buffer.
const MAX_HEAD: usize = 64 << 10;
/// How long a request's head may take; also how long a connection may idle between requests.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// How long a TLS handshake may take.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Most TCP connections at a time. More wait in the kernel.
const MAX_TCP_CONNECTIONS: usize = 4096;
/// Pause after a failed accept, which is most often a lack of file descriptors that passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all connections share.
struct Shared {
    router: Router,
    token: Option<Token>,
    builder: http1::Builder,
    stop: watch::Receiver<bool>,
}

/// Serves `router` on `listeners` until `stop` turns true, then lets requests in flight finish for at most `grace`.
/// Returns how many connections had to be cut.
pub(super) async fn serve(
    listeners: Listeners,
    router: Router,
    mut stop: watch::Receiver<bool>,
    grace: Duration,
) -> usize {
    let Listeners { unix, socket, tcp } = listeners;
    let inode = std::fs::symlink_metadata(&socket).ok().map(|m| m.ino());
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(MAX_HEAD);
    let token = tcp.as_ref().map(|tcp| tcp.token.clone());
    let shared = Arc::new(Shared { router, token, builder, stop: stop.clone() });
    let places = Arc::new(Semaphore::new(MAX_TCP_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned();
        let accept_tcp = async {
            match &tcp {
                Some(tcp) => {
                    let place = place.await.expect("the semaphore is never closed");
                    tcp.listener.accept().await.map(|(stream, address)| (stream, address, place))
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopped(&mut stop) => break,
            accepted = unix.accept() => match accepted {
                Ok((stream, _)) => {
                    let shared = Arc::clone(&shared);
                    connections.spawn(async move { shared.run(stream, Peer::Unix).await });
                }
                Err(error) => pause("the API socket", &error).await,
            },
            accepted = accept_tcp => match accepted {
                Ok((stream, address, place)) => {
                    let shared = Arc::clone(&shared);
                    let tls = tcp.as_ref().and_then(|tcp| tcp.tls.clone());
                    connections.spawn(async move {
                        shared.run_tcp(stream, address, tls).await;
                        drop(place);
                    });
                }
                Err(error) => pause("TCP", &error).await,
            },
            // Finished connections are taken off the set as they end.
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    // New clients are refused from here on, rather than left waiting.
    drop((unix, tcp));
    unlink(&socket, inode);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, drained).await.is_ok() {
        return 0;
    }
    let cut = connections.len();
    connections.shutdown().await;
    cut
}

/// Waits until the node is told to stop, or nobody is left to tell it.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // The guard that this gives must not be held on to.
    drop(stop.wait_for(|stop| *stop).await);
}

async fn pause(listener: &str, error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept a connection on {listener}");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

impl Shared {
    async fn run_tcp(&self, stream: TcpStream, address: std::net::SocketAddr, tls: Option<TlsAcceptor>) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%address, %error, "cannot set TCP_NODELAY");
        }
        let peer = Peer::Tcp { address, tls: tls.is_some() };
        let Some(tls) = tls else { return self.run(stream, peer).await };
        match tokio::time::timeout(HANDSHAKE_TIME, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.run(stream, peer).await,
            Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(%address, "TLS handshake timed out"),
        }
    }

    async fn run<S>(&self, stream: S, peer: Peer)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let times = Times::new();
        let service =
            service_fn(|request: Request<Incoming>| self.answer(peer, &times, request.map(Body::new)));
        let stream = Timed::new(stream, Arc::clone(&times));
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let mut stop = self.stop.clone();
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopped(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(?peer, %error, "connection ended early");
        }
    }

    async fn answer(
        &self,
        peer: Peer,
        times: &Times,
        mut request: Request<Body>,
    ) -> Result<Response, Infallible> {
        request.extensions_mut().insert(times.began());
        let mut response = match auth::admit(self.token.as_ref(), peer, request).await {
            Ok(request) => self.router.clone().call(request).await?,
            Err(refusal) => refusal,
        };
        if let Some(answered) = response.extensions_mut().remove::<Answered>() {
            times.writes(answered);
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use axum::routing::{get, post};
    use bytes::Bytes;
    use stratos_api::client::{Call, Client};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;

    use super::super::listeners::{ListenConfig, TlsFiles};
    use super::*;
    use crate::body;

    struct Node {
        dir: tempfile::TempDir,
        tcp: std::net::SocketAddr,
        stop: watch::Sender<bool>,
        served: tokio::task::JoinHandle<usize>,
    }

    async fn read_all(request: axum::extract::Request) -> Result<String, super::super::errors::Failure> {
        let bytes = body::read(request.into_body(), 1 << 20, Duration::from_secs(10)).await?;
        Ok(bytes.len().to_string())
    }

    fn start(tls: bool, router: Router, grace: Duration) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let files =
            TlsFiles { certificate: dir.path().join("cert"), key: dir.path().join("key"), make: false };
        if tls {
            let pair = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]);
            let pair = pair.unwrap();
            std::fs::write(&files.certificate, pair.cert.pem()).unwrap();
            std::fs::write(&files.key, pair.signing_key.serialize_pem()).unwrap();
        }
        let listeners = Listeners::bind(&ListenConfig {
            socket: dir.path().join("s"),
            tcp: Some("127.0.0.1:0".parse().unwrap()),
            tls: tls.then_some(files),
            token_file: dir.path().join("token"),
        });
        let listeners = listeners.unwrap();
        let tcp = listeners.tcp_address().unwrap();
        let (stop, stopped) = watch::channel(false);
        let served = tokio::spawn(serve(listeners, router, stopped, grace));
        Node { dir, tcp, stop, served }
    }

    impl Node {
        fn client(&self, url: &str, token: bool) -> Client {
            let token = token.then(|| std::fs::read_to_string(self.dir.path().join("token")).unwrap());
            Client::new(url.parse().unwrap(), token.as_deref()).unwrap()
        }

        fn unix(&self) -> Client {
            self.client(self.path("s").to_str().unwrap(), false)
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            Path::new(self.dir.path()).join(name)
        }
    }

    fn ping() -> Router {
        Router::new().route("/v1/ping", get(|| async { "pong" })).route("/v1/read", post(read_all))
    }

    async fn status(client: &Client, path: &str, body: impl Into<Bytes>) -> u16 {
        let method = if path.ends_with("read") { http::Method::POST } else { http::Method::GET };
        client.send(Call::new(method, path, body)).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn both_doors_answer_and_tcp_asks_for_the_token() {
        let node = start(false, ping(), Duration::from_secs(5));
        assert_eq!(status(&node.unix(), "/v1/ping", "").await, 200);
        let url = format!("http://{}", node.tcp);
        assert_eq!(status(&node.client(&url, true), "/v1/ping", "").await, 200);
        assert_eq!(status(&node.client(&url, false), "/v1/ping", "").await, 401);
        node.stop.send(true).unwrap();
        assert_eq!(node.served.await.unwrap(), 0);
        assert!(!node.dir.path().join("s").exists());
    }

    #[tokio::test]
    async fn tls_is_spoken() {
        let node = start(true, ping(), Duration::from_secs(5));
        let client = node.client(&format!("https://{}", node.tcp), true).trust(&node.path("cert")).unwrap();
        assert_eq!(status(&client, "/v1/ping", "").await, 200);
        assert!(
            node.client(&format!("http://{}", node.tcp), true)
                .send(Call::new(http::Method::GET, "/v1/ping", ""))
                .await
                .is_err()
        );
    }

    /// A node's own certificate is known by itself, so the names in it need not be the one that it is reached by.
    #[tokio::test]
    async fn a_known_certificate_is_believed_under_any_name_and_no_other_is() {
        let node = start(true, ping(), Duration::from_secs(5));
        // The certificate is for `localhost` and 127.0.0.1.
        let url = format!("https://[::ffff:127.0.0.1]:{}", node.tcp.port());
        let client = node.client(&url, true).trust(&node.path("cert")).unwrap();
        assert_eq!(status(&client, "/v1/ping", "").await, 200);
        let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(node.path("other"), other.cert.pem()).unwrap();
        let client = node.client(&format!("https://{}", node.tcp), true).trust(&node.path("other")).unwrap();
        assert!(client.send(Call::new(http::Method::GET, "/v1/ping", "")).await.is_err());
    }

    /// A client that sends all of its body before it reads gets the refusal, and its connection is of use after.
    #[tokio::test]
    async fn a_body_too_large_is_refused_on_a_connection_that_lives() {
        let node = start(false, ping(), Duration::from_secs(5));
        let client = node.unix();
        assert_eq!(status(&client, "/v1/read", vec![0; 1 << 20]).await, 200);
        let mut stream = tokio::net::UnixStream::connect(node.path("s")).await.unwrap();
        let size = (1 << 20) + 1;
        stream
            .write_all(
                format!("POST /v1/read HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n").as_bytes(),
            )
            .await
            .unwrap();
        stream.write_all(&vec![0; size]).await.unwrap();
        stream.write_all(b"GET /v1/ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await.unwrap();
        assert!(answers.starts_with("HTTP/1.1 413 "), "{answers}");
        assert!(answers.contains("HTTP/1.1 200 OK") && answers.ends_with("pong"), "{answers}");
    }

    #[tokio::test]
    async fn large_heads_are_refused() {
        let node = start(false, ping(), Duration::from_secs(5));
        let mut stream = tokio::net::UnixStream::connect(node.path("s")).await.unwrap();
        let head = format!("GET /v1/ping HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD));
        // The node may close before all is written.
        stream.write_all(head.as_bytes()).await.unwrap_or_default();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap_or_default();
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }

    fn slow(reached: Arc<Notify>, release: Arc<Notify>) -> Router {
        let answer = move || async move {
            reached.notify_one();
            release.notified().await;
            "late"
        };
        Router::new().route("/v1/slow", get(answer))
    }

    #[tokio::test]
    async fn a_stop_lets_requests_finish() {
        let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let node = start(false, slow(Arc::clone(&reached), Arc::clone(&release)), Duration::from_secs(60));
        let client = node.unix();
        let request = tokio::spawn(async move { status(&client, "/v1/slow", "").await });
        reached.notified().await;
        node.stop.send(true).unwrap();
        release.notify_one();
        assert_eq!(request.await.unwrap(), 200);
        assert_eq!(node.served.await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_for_ever() {
        let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let node = start(false, slow(Arc::clone(&reached), release), Duration::from_millis(1));
        let client = node.unix();
        let request =
            tokio::spawn(
                async move { client.send(Call::new(http::Method::GET, "/v1/slow", "")).await.is_err() },
            );
        reached.notified().await;
        node.stop.send(true).unwrap();
        assert_eq!(node.served.await.unwrap(), 1);
        assert!(request.await.unwrap(), "the connection was cut");
    }
}
