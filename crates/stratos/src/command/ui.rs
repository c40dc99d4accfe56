//! `stratos ui`: the node's page, at an address of this machine.
//!
//! A browser cannot talk to a Unix socket and should not hold a node's token. So this command answers on a port of its
//! own with what the page needs and nothing else: the page's files, and GETs of the API for who shows the key in the
//! printed address. It adds the token, which so never comes into the browser. Function URLs are not passed on: nothing
//! that a function answers is of the same origin as the page.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use stratos_api::client::Call;
use stratos_api::{ApiError, ErrorCode, Health, path};
use stratos_types::Digest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::args::UiArgs;
use crate::command::signals::Signals;
use crate::failure::{Failure, Result};
use crate::node::Node;
use crate::output::{Output, note};

/// Connections at a time; a browser has six.
const MAX_CONNECTIONS: usize = 64;
/// How long a request's head may take, and a connection may idle.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// Headers of requests that the node may know.
const ASKED: [HeaderName; 3] = [header::ACCEPT, header::ACCEPT_ENCODING, header::IF_NONE_MATCH];

/// Runs the command, until Ctrl-C.
pub(crate) async fn run(args: &UiArgs, node: &Node, output: Output) -> Result<()> {
    let mut signals = Signals::new()?;
    // What is wrong with the node or the token is said here, and not in a browser.
    let answer: serde_json::Value = node.get(path::HEALTH).await?;
    if serde_json::from_value::<Health>(answer).is_err() {
        return Err(
            Failure::new("the node asks for its token").hint("give it with --token-file or STRATOS_TOKEN")
        );
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|e| Failure::new(format!("cannot listen on {address}")).because(&e))?;
    let port = listener.local_addr().map_err(|e| Failure::new("cannot tell the port").because(&e))?.port();
    let door = Arc::new(Door::new(node.clone(), port)?);
    let url = format!("http://127.0.0.1:{port}/ui#key={}", door.key);
    match output.json {
        true => output.item(&json!({ "url": url }))?,
        false => {
            output.line(&url)?;
            note(&format!(
                "the page of {}, until Ctrl-C; who has this address sees the node",
                node.endpoint()
            ));
        }
    }
    tokio::select! {
        () = serve(listener, door) => Ok(()),
        () = signals.any() => Ok(()),
    }
}

async fn serve(listener: TcpListener, door: Arc<Door>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let door = Arc::clone(&door);
                tokio::spawn(async move {
                    door.connection(stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                note(&format!("warning: cannot accept a connection: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

type Answer = Response<UnsyncBoxBody<Bytes, hyper::Error>>;

/// What lets requests through to the node.
struct Door {
    node: Node,
    key: String,
    digest: Digest,
    /// What a browser says that it asked for. Another name that leads here, such as a page's elsewhere, is refused.
    hosts: [String; 2],
}

impl Door {
    fn new(node: Node, port: u16) -> Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)
            .map_err(|e| Failure::new(format!("the kernel gave no random bytes: {e}")))?;
        let key = URL_SAFE_NO_PAD.encode(bytes);
        let digest = Digest::of(key.as_bytes());
        let hosts = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
        Ok(Self { node, key, digest, hosts })
    }

    async fn connection(&self, stream: TcpStream) {
        let service = service_fn(|request| async move { Ok::<_, Infallible>(self.answer(request).await) });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(64 << 10);
        // A browser that leaves is nothing to tell.
        drop(builder.serve_connection(TokioIo::new(stream), service).await);
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (parts, _) = request.into_parts();
        match self.check(&parts.method, parts.uri.path(), &parts.headers) {
            Err(error) => refusal(&error),
            Ok(()) => match self.fetch(&parts).await {
                Ok(answer) => answer,
                Err(failure) => {
                    let error = ApiError::new(ErrorCode::Unavailable, failure.message);
                    refusal(&error.hint("the node at the other end of `stratos ui` does not answer"))
                }
            },
        }
    }

    fn check(&self, method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Box<ApiError>> {
        let refuse = |code, message: &str| Err(Box::new(ApiError::new(code, message)));
        let host = headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
        if !self.hosts.iter().any(|known| known.as_bytes() == host) {
            return refuse(ErrorCode::BadRequest, "this address is not that which `stratos ui` printed");
        }
        let of_the_page = path == path::UI || path.starts_with("/ui/");
        if !of_the_page && !path.starts_with("/v1/") {
            return refuse(ErrorCode::NotFound, "`stratos ui` passes on the page and what it asks");
        }
        // Counting system calls for a while is the one thing that the page has done.
        let counts =
            *method == Method::POST && path.starts_with("/v1/functions/") && path.ends_with("/trace");
        if *method != Method::GET && !counts {
            return refuse(ErrorCode::MethodNotAllowed, "`stratos ui` changes nothing on the node");
        }
        let given = headers.get(header::AUTHORIZATION).and_then(|v| v.as_bytes().strip_prefix(b"Bearer "));
        // Digests are compared, so that the time taken tells nothing about the key.
        if !of_the_page && given.is_none_or(|given| Digest::of(given) != self.digest) {
            return refuse(
                ErrorCode::Unauthorized,
                "this needs the key in the address that `stratos ui` printed",
            );
        }
        Ok(())
    }

    async fn fetch(&self, parts: &http::request::Parts) -> Result<Answer> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let mut call = Call::new(parts.method.clone(), path, Bytes::new());
        let asked = ASKED.iter().filter_map(|name| Some((name.clone(), parts.headers.get(name)?.clone())));
        call.headers.extend(asked);
        let mut answer = self.node.send(call).await?.map(|body| body.boxed_unsync());
        for hop in [header::CONNECTION, header::TRANSFER_ENCODING, HeaderName::from_static("keep-alive")] {
            answer.headers_mut().remove(hop);
        }
        Ok(answer)
    }
}

fn refusal(error: &ApiError) -> Answer {
    let body = serde_json::to_vec(error).expect("an ApiError is JSON");
    let mut answer = Response::new(Full::from(body).map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = StatusCode::from_u16(error.code.status()).expect("codes have valid statuses");
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_is_for_the_page_alone() {
        let door = Door::new(Node::at_socket("/nowhere".into()).unwrap(), 4000).unwrap();
        assert_eq!(door.key.len(), 43);
        let right = format!("Bearer {}", door.key);
        for (method, path, host, key, want) in [
            ("GET", "/ui", "127.0.0.1:4000", "", Ok(())),
            ("GET", "/ui/app.js", "localhost:4000", "", Ok(())),
            ("GET", "/v1/node", "127.0.0.1:4000", right.as_str(), Ok(())),
            ("GET", "/v1/node", "127.0.0.1:4000", "", Err(ErrorCode::Unauthorized)),
            ("GET", "/v1/health", "127.0.0.1:4000", "Bearer x", Err(ErrorCode::Unauthorized)),
            ("GET", "/v1/node", "evil.example:4000", right.as_str(), Err(ErrorCode::BadRequest)),
            ("GET", "/ui", "127.0.0.1", "", Err(ErrorCode::BadRequest)),
            ("GET", "/f/hello/", "127.0.0.1:4000", right.as_str(), Err(ErrorCode::NotFound)),
            ("GET", "/uix", "127.0.0.1:4000", right.as_str(), Err(ErrorCode::NotFound)),
            ("POST", "/v1/functions/hello/trace", "127.0.0.1:4000", right.as_str(), Ok(())),
            ("POST", "/v1/functions/hello/trace", "127.0.0.1:4000", "", Err(ErrorCode::Unauthorized)),
            (
                "DELETE",
                "/v1/functions/hello",
                "127.0.0.1:4000",
                right.as_str(),
                Err(ErrorCode::MethodNotAllowed),
            ),
            ("POST", "/v1/node/reboot", "127.0.0.1:4000", right.as_str(), Err(ErrorCode::MethodNotAllowed)),
        ] {
            let headers = [(header::HOST, host), (header::AUTHORIZATION, key)];
            let headers = headers.map(|(name, value)| (name, HeaderValue::from_str(value).unwrap()));
            let checked = door.check(&method.parse().unwrap(), path, &headers.into_iter().collect());
            assert_eq!(checked.map_err(|error| error.code), want, "{method} {path} {host} {key}");
        }
    }
}
