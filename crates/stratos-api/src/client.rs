//! A small asynchronous client for a node.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::verifier::Verifier;
use crate::{ApiError, FileBody};

/// Where a node's API is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket: `unix:///run/stratos/api.sock`, or just its path.
    Unix(PathBuf),
    /// `http://HOST:PORT`.
    Http(String),
    /// `https://HOST:PORT`.
    Https(String),
}

/// Where a node listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/stratos/api.sock";

impl Default for Endpoint {
    fn default() -> Self {
        Self::Unix(DEFAULT_SOCKET.into())
    }
}

/// Why a text is not an endpoint.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a node's address (unix:///PATH, http://HOST:PORT or https://HOST:PORT)")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let authority = |rest: &str, port: u16| {
            let rest = rest.trim_end_matches('/');
            let with_port = if rest.rsplit(']').next().is_some_and(|r| r.contains(':')) {
                rest.to_owned()
            } else {
                format!("{rest}:{port}")
            };
            // Neither an empty port nor one out of range counts, and a node knows no users.
            let valid = with_port.parse::<http::uri::Authority>().is_ok_and(|a| {
                !a.host().is_empty()
                    && a.port_u16().is_some_and(|port| port != 0)
                    && !a.as_str().contains('@')
            });
            valid.then_some(with_port).ok_or_else(|| EndpointError(text.into()))
        };
        if let Some(path) = text.strip_prefix("unix://").or_else(|| text.starts_with('/').then_some(text)) {
            return match path.starts_with('/') {
                true => Ok(Self::Unix(path.into())),
                false => Err(EndpointError(text.into())),
            };
        }
        match text.split_once("://") {
            Some(("http", rest)) => Ok(Self::Http(authority(rest, 80)?)),
            Some(("https", rest)) => Ok(Self::Https(authority(rest, 443)?)),
            _ => Err(EndpointError(text.into())),
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Http(authority) => write!(f, "http://{authority}"),
            Self::Https(authority) => write!(f, "https://{authority}"),
        }
    }
}

/// Why a request did not get its answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("cannot reach the node at {endpoint}")]
    Connect {
        /// Where it was tried.
        endpoint: Endpoint,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection broke before the answer was complete.
    #[error("the node at {endpoint} broke off its answer")]
    Broken {
        /// Where.
        endpoint: Endpoint,
        /// What went wrong.
        source: hyper::Error,
    },
    /// The request could not be formed.
    #[error("cannot form the request")]
    Request(#[from] http::Error),
    /// TLS could not be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// The node answered with an error.
    #[error(transparent)]
    Api(Box<ApiError>),
    /// The node answered with something this client does not understand.
    #[error("the node answered {status} with what is not of its API: {text}")]
    Unexpected {
        /// HTTP status.
        status: StatusCode,
        /// The start of the body.
        text: String,
    },
}

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

/// A client of one node. Each request has a connection of its own unless [`Client::connect`] is used.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
    token: Option<HeaderValue>,
    tls: Option<Arc<rustls::ClientConfig>>,
}

/// A kept-alive connection to a node, for many requests one after the other.
pub struct Connection {
    endpoint: Endpoint,
    sender: hyper::client::conn::http1::SendRequest<RequestBody>,
}

type RequestBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// One request, before it is sent.
#[derive(Debug, Clone)]
pub struct Call {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Headers beside those the client sets itself.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Body.
    pub body: Bytes,
}

impl Call {
    /// A request without headers of its own.
    pub fn new(method: Method, path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { method, path: path.into(), headers: Vec::new(), body: body.into() }
    }

    /// The same request with one more header.
    ///
    /// # Panics
    /// When `value` is not a header value: for literals and checked text only.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("a header value without control characters");
        self.headers.push((HeaderName::from_static(name), value));
        self
    }
}

impl Client {
    /// A client for a node, with the token it asks for on TCP.
    ///
    /// # Errors
    /// When the token has characters a header cannot carry.
    pub fn new(endpoint: Endpoint, token: Option<&str>) -> Result<Self, ClientError> {
        let bearer =
            |t: &str| HeaderValue::from_str(&format!("Bearer {}", t.trim())).map_err(http::Error::from);
        let mut token = token.map(bearer).transpose()?;
        if let Some(token) = &mut token {
            token.set_sensitive(true);
        }
        Ok(Self { endpoint, token, tls: None })
    }

    /// The same client, trusting the certificates in a PEM file for `https`: as authorities, and as nodes' own.
    ///
    /// A node that made its certificate itself may be reached by a name or address that it did not have then. Whoever
    /// has the key of a certificate that is in the file is the node that was meant, whatever it is called.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub fn trust(mut self, pem: &Path) -> Result<Self, ClientError> {
        use rustls_pki_types::{CertificateDer, pem::PemObject};
        let tls_error = |e: &dyn std::fmt::Display| ClientError::Tls(format!("{}: {e}", pem.display()));
        let mut roots = rustls::RootCertStore::empty();
        let mut known = Vec::new();
        for certificate in CertificateDer::pem_file_iter(pem).map_err(|e| tls_error(&e))? {
            let certificate = certificate.map_err(|e| tls_error(&e))?;
            roots.add(certificate.clone()).map_err(|e| tls_error(&e))?;
            known.push(certificate);
        }
        if roots.is_empty() {
            return Err(tls_error(&"holds no certificate"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Verifier::new(roots, known, &provider).map_err(|e| tls_error(&e))?;
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| ClientError::Tls(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        self.tls = Some(Arc::new(config));
        Ok(self)
    }

    /// Where this client's node is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    async fn stream(&self) -> Result<Pin<Box<dyn Stream>>, ClientError> {
        let connect_error = |source| ClientError::Connect { endpoint: self.endpoint.clone(), source };
        match &self.endpoint {
            Endpoint::Unix(path) => {
                Ok(Box::pin(tokio::net::UnixStream::connect(path).await.map_err(connect_error)?))
            }
            Endpoint::Http(authority) => {
                let stream = tokio::net::TcpStream::connect(authority).await.map_err(connect_error)?;
                stream.set_nodelay(true).map_err(connect_error)?;
                Ok(Box::pin(stream))
            }
            Endpoint::Https(authority) => {
                let config = self.tls.clone().ok_or_else(|| {
                    ClientError::Tls("no certificate to trust; give the node's with --ca FILE".into())
                })?;
                let host = authority.rsplit_once(':').map_or(authority.as_str(), |(h, _)| h);
                let name = rustls_pki_types::ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
                    .map_err(|e| ClientError::Tls(e.to_string()))?;
                let stream = tokio::net::TcpStream::connect(authority).await.map_err(connect_error)?;
                stream.set_nodelay(true).map_err(connect_error)?;
                let connector = tokio_rustls::TlsConnector::from(config);
                Ok(Box::pin(connector.connect(name, stream).await.map_err(connect_error)?))
            }
        }
    }

    /// Opens a connection that is kept.
    ///
    /// # Errors
    /// When the node cannot be reached.
    pub async fn connect(&self) -> Result<Connection, ClientError> {
        let endpoint = self.endpoint.clone();
        let io = TokioIo::new(self.stream().await?);
        let broken = |source| ClientError::Broken { endpoint: self.endpoint.clone(), source };
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(broken)?;
        // The connection ends with its sender; how it ends is seen by the request that needed it.
        tokio::spawn(async move { connection.await.unwrap_or_default() });
        Ok(Connection { endpoint, sender })
    }

    /// Sends one request on a connection of its own and gives the answer, its body still to be read.
    ///
    /// # Errors
    /// When no answer came. An error status is not an error here.
    pub async fn send(&self, call: Call) -> Result<Response<Incoming>, ClientError> {
        self.connect().await?.send(self, call).await
    }

    /// Sends one request and reads the JSON it is answered with.
    ///
    /// # Errors
    /// When no answer came, or it is an error, or not the expected JSON.
    pub async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let response = self.send(call).await?;
        let (status, body) = self.collect(response).await?;
        serde_json::from_slice(&body).map_err(|_| unexpected(status, &body))
    }

    /// Reads an answer's body; an error status becomes [`ClientError::Api`].
    ///
    /// # Errors
    /// When the body breaks off, or the status is an error.
    pub async fn collect(&self, response: Response<Incoming>) -> Result<(StatusCode, Bytes), ClientError> {
        let status = response.status();
        let broken = |source| ClientError::Broken { endpoint: self.endpoint.clone(), source };
        let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
        if status.is_success() {
            return Ok((status, body));
        }
        Err(match serde_json::from_slice::<ApiError>(&body) {
            Ok(error) => ClientError::Api(Box::new(error)),
            Err(_) => unexpected(status, &body),
        })
    }
}

fn unexpected(status: StatusCode, body: &[u8]) -> ClientError {
    let text = String::from_utf8_lossy(body).chars().take(200).collect();
    ClientError::Unexpected { status, text }
}

impl Connection {
    /// Sends one request on this connection.
    ///
    /// # Errors
    /// When no answer came. An error status is not an error here.
    pub async fn send(&mut self, client: &Client, call: Call) -> Result<Response<Incoming>, ClientError> {
        let body = Full::new(call.body.clone()).map_err(|never| match never {}).boxed_unsync();
        self.send_body(client, call, body).await
    }

    /// Sends one request with a file as its body, in place of the call's own.
    ///
    /// # Errors
    /// When no answer came. An error status is not an error here.
    pub async fn send_file(
        &mut self,
        client: &Client,
        call: Call,
        file: FileBody,
    ) -> Result<Response<Incoming>, ClientError> {
        self.send_body(client, call, file.boxed_unsync()).await
    }

    async fn send_body(
        &mut self,
        client: &Client,
        call: Call,
        body: RequestBody,
    ) -> Result<Response<Incoming>, ClientError> {
        let host = match &self.endpoint {
            Endpoint::Unix(_) => "stratos",
            Endpoint::Http(authority) | Endpoint::Https(authority) => authority,
        };
        let mut request = Request::builder().method(call.method).uri(&call.path).header("host", host);
        if let Some(token) = &client.token {
            request = request.header(http::header::AUTHORIZATION, token);
        }
        for (name, value) in call.headers {
            request = request.header(name, value);
        }
        let request = request.body(body)?;
        let broken = |source| ClientError::Broken { endpoint: self.endpoint.clone(), source };
        self.sender.ready().await.map_err(broken)?;
        self.sender.send_request(request).await.map_err(broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_print_as_they_mean() {
        for (text, means) in [
            ("/run/x.sock", "unix:///run/x.sock"),
            ("unix:///run/x.sock", "unix:///run/x.sock"),
            ("http://localhost:8080/", "http://localhost:8080"),
            ("http://localhost", "http://localhost:80"),
            ("https://[::1]", "https://[::1]:443"),
            ("https://node.example", "https://node.example:443"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), means);
        }
        for wrong in [
            "",
            "localhost:80",
            "unix://relative",
            "ftp://a",
            "http://",
            "http://a b",
            "http://a:",
            "http://a:0",
            "http://a:65536",
            "http://user@a",
        ] {
            assert!(wrong.parse::<Endpoint>().is_err(), "{wrong}");
        }
    }
}
