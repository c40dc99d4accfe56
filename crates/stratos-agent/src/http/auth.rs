//! Who may ask for what.
//!
//! The Unix socket is guarded by its file permissions. On TCP every path needs the node's token, but for three:
//! the health of the node (told without detail), the page for people, which is the same on every node and asks for the
//! token itself, and function URLs, whose handler asks [`Caller::is_known`] and lets strangers through to public
//! functions only. What is not listed here is refused.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, Request, header};
use sha2::{Digest as _, Sha256};
use stratos_api::{ErrorCode, path};
use time::OffsetDateTime;

use super::aws_error::AwsError;
use super::errors::Failure;
use super::sigv4::{self, SignedRequest};
use super::token::Token;
use crate::body::{self, Budget, MAX_PAYLOAD};

/// Access key id with which AWS clients sign; their secret key is the token.
pub const ACCESS_KEY: &str = "stratos";
/// How long a signed payload may take to arrive.
pub(super) const PAYLOAD_TIME: Duration = Duration::from_secs(60);

/// What signed payloads take together before their signature can be checked: anybody can send what looks signed. Apart
/// from the budget of other bodies, so that such senders keep nobody else waiting.
static UNVERIFIED: Budget = Budget::new(32 << 20);

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The Unix socket.
    Unix,
    /// TCP.
    Tcp {
        /// The client's address.
        address: SocketAddr,
        /// Whether the connection is encrypted.
        tls: bool,
    },
}

impl Peer {
    /// The client's IP address; that of this machine for the Unix socket.
    pub(super) fn ip(self) -> IpAddr {
        match self {
            Self::Unix => Ipv4Addr::LOCALHOST.into(),
            Self::Tcp { address, .. } => address.ip().to_canonical(),
        }
    }

    pub(super) fn scheme(self) -> &'static str {
        match self {
            Self::Tcp { tls: true, .. } => "https",
            _ => "http",
        }
    }
}

/// What is known about who sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// Has access to the Unix socket.
    Socket,
    /// Showed the token, or signed with it.
    Token,
    /// Did neither.
    Stranger,
}

impl Caller {
    pub(super) fn is_known(self) -> bool {
        self != Self::Stranger
    }
}

/// Lets a request through, with its [`Peer`] and [`Caller`] attached, or answers it.
pub(super) async fn admit(
    token: Option<&Token>,
    peer: Peer,
    mut request: Request<Body>,
) -> Result<Request<Body>, Response> {
    let caller = match (peer, token) {
        (Peer::Unix, _) => Caller::Socket,
        (Peer::Tcp { .. }, Some(token)) if shows(token, request.headers()) => {
            // The node's own secret is not for functions to see.
            request.headers_mut().remove(header::AUTHORIZATION);
            Caller::Token
        }
        (Peer::Tcp { .. }, Some(token)) if is_aws(&request) => {
            request = check_signature(token, request).await?;
            request.headers_mut().remove(header::AUTHORIZATION);
            Caller::Token
        }
        (Peer::Tcp { .. }, _) => Caller::Stranger,
    };
    let path = request.uri().path();
    if caller == Caller::Stranger && !is_open(path) {
        body::discard(request.into_body());
        return Err(axum::response::IntoResponse::into_response(unauthorized()));
    }
    request.extensions_mut().insert(peer);
    request.extensions_mut().insert(caller);
    Ok(request)
}

/// Whether strangers get through to the path's handler.
fn is_open(path: &str) -> bool {
    path == path::HEALTH || path == path::UI || path.starts_with("/ui/") || path.starts_with("/f/")
}

/// The refusal of a stranger.
pub(super) fn unauthorized() -> Failure {
    Failure::new(ErrorCode::Unauthorized, "this needs the node's token")
        .hint("send `Authorization: Bearer TOKEN`; the token is in the node's token file")
}

fn shows(token: &Token, headers: &HeaderMap) -> bool {
    let given = headers.get(header::AUTHORIZATION).map(|v| v.as_bytes()).unwrap_or_default();
    let scheme = b"bearer ";
    match given.split_at_checked(scheme.len()) {
        Some((start, rest)) => start.eq_ignore_ascii_case(scheme) && token.matches(rest.trim_ascii()),
        None => false,
    }
}

fn is_aws(request: &Request<Body>) -> bool {
    super::aws_name::is_aws_path(request.uri().path())
}

/// Reads the body, which the signature covers, and passes the request on with it.
async fn check_signature(token: &Token, request: Request<Body>) -> Result<Request<Body>, Response> {
    let (parts, body) = request.into_parts();
    let signed = parts.headers.get(header::AUTHORIZATION).is_some_and(|v| sigv4::is_signature(v.as_bytes()));
    if !signed {
        body::discard(body);
        return Err(AwsError::missing_token().into_response());
    }
    if let Err(error) = sigv4::check_head(&parts.headers, ACCESS_KEY, OffsetDateTime::now_utc()) {
        body::discard(body);
        return Err(AwsError::from(error).into_response());
    }
    let bytes = body::read_with(&UNVERIFIED, body, MAX_PAYLOAD, PAYLOAD_TIME).await;
    let bytes = bytes.map_err(|e| AwsError::from(Failure::from(e).into_inner()).into_response())?;
    let request = SignedRequest {
        method: &parts.method,
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        headers: &parts.headers,
        body_sha256: &sigv4::hex(&Sha256::digest(&bytes)),
    };
    sigv4::verify(&request, ACCESS_KEY, token.secret(), OffsetDateTime::now_utc())
        .map_err(|e| AwsError::from(e).into_response())?;
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    const TCP: Peer =
        Peer::Tcp { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9), tls: true };

    async fn caller(peer: Peer, path: &str, authorization: Option<&str>) -> Result<(Caller, bool), u16> {
        let token = Token::from_text("a-token-of-forty-characters-and-some-more");
        let mut request = Request::post(path);
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Body::from("{}")).unwrap();
        let admitted = admit(Some(&token), peer, request).await;
        let admitted = admitted.map_err(|response| response.status().as_u16())?;
        let caller = *admitted.extensions().get::<Caller>().unwrap();
        Ok((caller, admitted.headers().contains_key(header::AUTHORIZATION)))
    }

    #[tokio::test]
    async fn tcp_needs_the_token() {
        const RIGHT: &str = "bearer  a-token-of-forty-characters-and-some-more";
        const WRONG: &str = "Bearer a-token-of-forty-characters-and-some-mor";
        const AWS: &str = "/2015-03-31/functions/hello/invocations";
        for (peer, path, authorization, want) in [
            (Peer::Unix, "/v1/functions", None, Ok((Caller::Socket, false))),
            (Peer::Unix, "/f/a/", Some(WRONG), Ok((Caller::Socket, true))),
            (TCP, "/v1/functions", Some(RIGHT), Ok((Caller::Token, false))),
            (TCP, "/v1/functions", Some(WRONG), Err(401)),
            (TCP, "/v1/functions", Some("Bearer"), Err(401)),
            (TCP, "/v1/functions", None, Err(401)),
            (TCP, "/nothing", None, Err(401)),
            (TCP, "/v1/health", None, Ok((Caller::Stranger, false))),
            (TCP, "/v1/health/", None, Err(401)),
            (TCP, "/ui", None, Ok((Caller::Stranger, false))),
            (TCP, "/ui/app.js", None, Ok((Caller::Stranger, false))),
            (TCP, "/uix", None, Err(401)),
            (TCP, "/f/a/b", None, Ok((Caller::Stranger, false))),
            // A public function may have an authorization of its own, and gets it; it never gets the token.
            (TCP, "/f/a/b", Some(WRONG), Ok((Caller::Stranger, true))),
            (TCP, "/f/a/b", Some(RIGHT), Ok((Caller::Token, false))),
            (TCP, AWS, Some(RIGHT), Ok((Caller::Token, false))),
            (TCP, AWS, None, Err(403)),
            (TCP, AWS, Some("AWS4-HMAC-SHA256 Credential=a"), Err(400)),
        ] {
            assert_eq!(caller(peer, path, authorization).await, want, "{peer:?} {path} {authorization:?}");
        }
    }

    #[tokio::test]
    async fn without_a_token_nobody_passes() {
        let request = Request::get("/v1/functions").body(Body::empty()).unwrap();
        let refused = admit(None, TCP, request).await.unwrap_err();
        assert_eq!(refused.headers()["www-authenticate"], "Bearer");
        let body = refused.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains("\"blame\":\"client\""));
    }
}
