//! Function URLs: `/f/NAME/...`. A handler gets an event and its answer becomes HTTP; a `$PORT` function gets the
//! request itself.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version, header};
use http_body_util::{BodyExt as _, BodyStream, StreamBody};
use stratos_api::{ApiError, ErrorCode};
use stratos_types::{FunctionKey, FunctionName, TraceContext};
use time::OffsetDateTime;

use super::Api;
use super::auth::{PAYLOAD_TIME, Peer, unauthorized};
use super::errors::{Failure, Result, respond};
use super::extract::{Origin, unknown_function};
use super::headers::{remove_hop_by_hop, remove_what_reaches_beyond, span};
use super::invoke::{Call, ok, with_meta};
use super::prelude::{self, PreludeParser};
use super::trace_context::{TRACEPARENT, TRACESTATE, XRAY};
use super::url_answer::{self, BadAnswer, Head};
use super::url_event::{self, UrlRequest};
use crate::body::{self, BoxBody, MAX_PAYLOAD};
use crate::engine::{Answer, EntryKind, Outcome, Payload};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Calls a function by its URL.
#[utoipa::path(method(get, post, put, patch, delete, head, options), path = "/f/{name}/{path}", tag = "invocations",
    params(("name" = String, Path, description = "Function"),
           ("path" = String, Path, description = "Path as the function sees it; may be empty and hold slashes")),
    responses((status = 200, description = "Whatever the function answers, with its own status and headers. A \
               handler gets AWS Lambda's function URL event 2.0, a `$PORT` function the request itself"),
              (status = 401, description = "On TCP: the function is not public, and this is not the token",
               body = ApiError),
              (status = 404, description = "No such function", body = ApiError),
              (status = 413, description = "A handler's body is over 6 MiB", body = ApiError),
              (status = 429, description = "The function's queue is full", body = ApiError),
              (status = 501, description = "WebSocket is not passed on", body = ApiError),
              (status = 502, description = "The function failed: see `code`", body = ApiError),
              (status = 504, description = "It did not answer in time", body = ApiError)))]
pub(super) async fn call(State(api): State<Arc<Api>>, origin: Origin, request: Request) -> Result<Response> {
    let call = Call::new(request.extensions());
    let (parts, body) = request.into_parts();
    let (name, path) = split(parts.uri.path());
    let (key, kind) = match admit(&api, origin, name, &parts.headers).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            body::discard(body);
            return Err(refusal);
        }
    };
    let path = path.to_owned();
    let (payload, trace) = match kind {
        EntryKind::Http => {
            // The body is on its way still: no event of structured mode is looked into.
            let trace = span(&api.engine, &parts.headers, b"");
            (Payload::Http(Box::new(proxied(parts, &path, body, origin.peer)?)), trace)
        }
        EntryKind::Handler => {
            let body = body::read(body, MAX_PAYLOAD, PAYLOAD_TIME).await?;
            let trace = span(&api.engine, &parts.headers, &body);
            let event = event(&key.name, call, parts, &path, &body, origin.peer, &trace);
            (Payload::Event(event.into()), trace)
        }
    };
    let outcome = api.engine.invoke(call.request(key, None, payload, trace, None)).await;
    let mut response = answer(outcome).await;
    remove_what_reaches_beyond(response.headers_mut());
    Ok(response)
}

/// Who may call which function, found out before the body is read.
async fn admit(
    api: &Api,
    origin: Origin,
    name: &str,
    headers: &HeaderMap,
) -> Result<(FunctionKey, EntryKind)> {
    let found = match name.parse::<FunctionName>() {
        Err(_) => Err(unknown_function(name)),
        Ok(name) => {
            let key = FunctionKey { tenant: api.tenant.clone(), name };
            api.engine.spec(&key).await.map(|spec| (key, spec)).map_err(Failure::from)
        }
    };
    // A stranger does not learn which names exist.
    if !origin.caller.is_known() && !found.as_ref().is_ok_and(|(_, spec)| spec.public) {
        return Err(unauthorized());
    }
    let (key, _) = found?;
    if wants_websocket(headers) {
        return Err(Failure::new(ErrorCode::Unsupported, "function URLs do not pass WebSocket on")
            .hint("use server-sent events or another streamed answer"));
    }
    let kind = api.engine.kind(&key).await?;
    Ok((key, kind))
}

/// `/f/NAME/rest` into `NAME` and `/rest`, still percent-encoded.
fn split(path: &str) -> (&str, &str) {
    let rest = path.strip_prefix("/f/").unwrap_or_default();
    match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    }
}

fn wants_websocket(headers: &HeaderMap) -> bool {
    let websocket = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    headers.get_all(header::UPGRADE).iter().any(websocket)
}

/// Removes what concerned the connection, adds where the request came from.
fn forward(headers: &mut HeaderMap, peer: Peer) {
    remove_hop_by_hop(headers);
    // The node has already told the client to go on.
    headers.remove(header::EXPECT);
    let text = |text: String| HeaderValue::from_str(&text);
    let (ip, scheme) = (peer.ip().to_string(), peer.scheme());
    let host = headers.get(header::HOST).cloned();
    let host_text = host.as_ref().and_then(|h| h.to_str().ok()).unwrap_or_default();
    // RFC 7239: an IPv6 address stands in brackets and quotes; a host with a port needs quotes too.
    let node = if ip.contains(':') { format!("\"[{ip}]\"") } else { ip.clone() };
    let quotable = host_text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b));
    let forwarded = match host_text.is_empty() || !quotable {
        true => format!("for={node};proto={scheme}"),
        false => format!("for={node};host=\"{host_text}\";proto={scheme}"),
    };
    for (name, value) in [(FORWARDED_FOR, ip), (header::FORWARDED, forwarded)] {
        let before: Vec<_> = headers.get_all(&name).iter().filter_map(|v| v.to_str().ok()).collect();
        let chain = if before.is_empty() { value } else { format!("{}, {value}", before.join(", ")) };
        if let Ok(chain) = text(chain) {
            headers.insert(name, chain);
        }
    }
    let default = if scheme == "https" { "443" } else { "80" };
    let port = match host_text.rsplit_once(':') {
        Some((_, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => port,
        _ => default,
    };
    let said = [
        (FORWARDED_PROTO, Some(HeaderValue::from_static(scheme))),
        (FORWARDED_PORT, HeaderValue::from_str(port).ok()),
        (FORWARDED_HOST, host),
    ];
    for (name, value) in said {
        // Whoever may use the Unix socket is a proxy of this machine, and knows better what the client asked for.
        let trusted = peer == Peer::Unix && headers.contains_key(&name);
        if let (false, Some(value)) = (trusted, value) {
            headers.insert(name, value);
        }
    }
}

/// The request as a `$PORT` function gets it.
fn proxied(parts: Parts, path: &str, body: Body, peer: Peer) -> Result<http::Request<BoxBody>> {
    let target = match parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let uri: Uri =
        target.parse().map_err(|_| Failure::new(ErrorCode::BadRequest, "the path is not a URI"))?;
    let mut request = http::Request::new(body::boxed(body));
    *request.method_mut() = parts.method;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = parts.headers;
    forward(request.headers_mut(), peer);
    Ok(request)
}

/// The event as a handler gets it.
fn event(
    name: &FunctionName,
    call: Call,
    mut parts: Parts,
    path: &str,
    body: &[u8],
    peer: Peer,
    trace: &TraceContext,
) -> Vec<u8> {
    forward(&mut parts.headers, peer);
    // What the handler sees as its caller is this invocation's span.
    let set = [
        (TRACEPARENT, Some(trace.traceparent())),
        (TRACESTATE, trace.tracestate().map(str::to_owned)),
        (XRAY, Some(trace.xray())),
    ];
    for (name, value) in set {
        match value.and_then(|v| HeaderValue::from_str(&v).ok()) {
            Some(value) => drop(parts.headers.insert(name, value)),
            None => drop(parts.headers.remove(name)),
        }
    }
    url_event::build(&UrlRequest {
        function: name.as_str(),
        request_id: &call.id.to_string(),
        method: &parts.method,
        version: parts.version,
        path,
        query: parts.uri.query().unwrap_or_default(),
        headers: &parts.headers,
        source_ip: &peer.ip().to_string(),
        at: OffsetDateTime::now_utc(),
        body,
    })
}

async fn answer(outcome: Outcome) -> Response {
    let Outcome { meta, result } = outcome;
    let answered = match result {
        Ok(Answer::Event(bytes)) => {
            url_answer::parse(&bytes).map(|(head, body)| http(head, body.into())).map_err(bad)
        }
        Ok(Answer::EventStream { content_type, body }) => streamed(content_type, body).await,
        Ok(Answer::Http(response)) => Ok(response.map(Body::new)),
        Err(error) => Err(error),
    };
    let response = answered.unwrap_or_else(|mut error| {
        error.invocation.get_or_insert_with(|| meta.id.to_string());
        respond(&error)
    });
    with_meta(response, &meta)
}

fn bad(answer: BadAnswer) -> ApiError {
    let message = format!("the function's answer is not one of a function URL: {answer}");
    ApiError::new(ErrorCode::FunctionBadResponse, message)
        .hint("return {statusCode, headers, body}, with body a string, or any JSON without statusCode")
}

fn http(head: Head, body: Body) -> Response {
    let mut response = match head.status {
        // These have no body (RFC 9110), whatever the function thinks.
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => ().into_response(),
        _ => Response::new(body),
    };
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}

/// A stream is the body; or begins with status and headers when the handler says so by its content type.
async fn streamed(
    content_type: Option<HeaderValue>,
    mut body: BoxBody,
) -> std::result::Result<Response, ApiError> {
    if content_type.as_ref().is_none_or(|t| t.as_bytes() != prelude::CONTENT_TYPE.as_bytes()) {
        let octets = HeaderValue::from_static("application/octet-stream");
        return Ok(ok(content_type.unwrap_or(octets), Body::new(body)));
    }
    let mut parser = PreludeParser::default();
    loop {
        let frame = match body.frame().await {
            None => return Err(bad(parser.ended())),
            // The engine says why a stream ended early, if it knows.
            Some(Err(error)) => {
                return Err(match error.downcast::<ApiError>() {
                    Ok(error) => *error,
                    Err(error) => ApiError::new(ErrorCode::FunctionBadResponse, "the answer broke off")
                        .caused_by(&*error),
                });
            }
            Some(Ok(frame)) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if let Some((mut head, rest)) = parser.push(&data).map_err(bad)? {
            let octets = HeaderValue::from_static("application/octet-stream");
            head.headers.entry(header::CONTENT_TYPE).or_insert(octets);
            return Ok(http(head, after(rest, body)));
        }
    }
}

/// What came behind the head, then what comes after.
fn after(rest: Bytes, body: BoxBody) -> Body {
    if rest.is_empty() {
        return Body::new(body);
    }
    let first = stream::iter([Ok(http_body::Frame::data(rest))]);
    Body::new(StreamBody::new(first.chain(BodyStream::new(body))))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::body::BoxError;

    #[test]
    fn paths_are_split_behind_the_name() {
        for (path, want) in [
            ("/f/a", ("a", "/")),
            ("/f/a/", ("a", "/")),
            ("/f/a/b/c%2Fd/", ("a", "/b/c%2Fd/")),
            ("/f/a//b", ("a", "//b")),
            ("/f/", ("", "/")),
        ] {
            assert_eq!(split(path), want, "{path}");
        }
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<_> =
            headers.iter().map(|(k, v)| format!("{k}: {}", v.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn requests_say_where_they_come_from() {
        let remote: SocketAddr = "[2001:db8::1]:9".parse().unwrap();
        let given = [
            ("host", "node:8443"),
            ("x-forwarded-for", "198.51.100.7"),
            ("x-forwarded-proto", "ftp"),
            ("connection", "x-secret"),
            ("x-secret", "1"),
            ("expect", "100-continue"),
        ];
        let headers = || -> HeaderMap {
            given.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
        };
        let mut remotely = headers();
        forward(&mut remotely, Peer::Tcp { address: remote, tls: true });
        assert_eq!(
            shown(&remotely),
            [
                "forwarded: for=\"[2001:db8::1]\";host=\"node:8443\";proto=https",
                "host: node:8443",
                "x-forwarded-for: 198.51.100.7, 2001:db8::1",
                "x-forwarded-host: node:8443",
                "x-forwarded-port: 8443",
                "x-forwarded-proto: https",
            ]
        );
        // A proxy of this machine is believed.
        let mut locally = headers();
        forward(&mut locally, Peer::Unix);
        assert_eq!(locally[FORWARDED_PROTO], "ftp");
        assert_eq!(locally[FORWARDED_FOR], "198.51.100.7, 127.0.0.1");
    }

    #[test]
    fn a_proxied_request_keeps_what_is_the_functions() {
        let parts = http::Request::builder().method("PUT").uri("/f/a/b%20c?d=%20e&f").header("host", "h");
        let (parts, ()) = parts.body(()).unwrap().into_parts();
        let request = proxied(parts, "/b%20c", Body::from("x"), Peer::Unix).unwrap();
        assert_eq!(
            (request.method().as_str(), request.uri().to_string().as_str()),
            ("PUT", "/b%20c?d=%20e&f")
        );
        assert_eq!(request.headers()["host"], "h");
        let slashes = http::Request::builder().uri("/f/a//b").body(()).unwrap().into_parts().0;
        assert_eq!(proxied(slashes, "//b", Body::empty(), Peer::Unix).unwrap().uri().path(), "//b");
    }

    fn pieces(parts: &'static [&'static [u8]]) -> BoxBody {
        let frames = parts.iter().map(|p| Ok::<_, BoxError>(http_body::Frame::data(Bytes::from_static(p))));
        body::boxed(StreamBody::new(stream::iter(frames)))
    }

    #[tokio::test]
    async fn streams_with_a_head_have_status_and_headers() {
        let with_head = || Some(HeaderValue::from_static(prelude::CONTENT_TYPE));
        let parts: &[&[u8]] =
            &[b"{\"statusCode\":418,\"headers\":{\"a\":\"b\"}}\0\0\0\0", b"\0\0\0\0on", b"e", b" two"];
        let response = streamed(with_head(), pieces(parts)).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["a"]),
            (418, &HeaderValue::from_static("b"))
        );
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "one two");
        let plain = streamed(None, pieces(&[b"a", b"b"])).await.unwrap();
        assert_eq!(plain.headers()["content-type"], "application/octet-stream");
        assert_eq!(plain.into_body().collect().await.unwrap().to_bytes(), "ab");
        let error = streamed(with_head(), pieces(&[b"{\"statusCode\":200}"])).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::FunctionBadResponse);
        let timed_out: BoxError = Box::new(ApiError::new(ErrorCode::FunctionTimeout, "late"));
        let cut = body::boxed(StreamBody::new(stream::iter([Err::<http_body::Frame<Bytes>, _>(timed_out)])));
        assert_eq!(streamed(with_head(), cut).await.unwrap_err().code, ErrorCode::FunctionTimeout);
    }
}
