//! What the node's HTTP side reads of clients and of functions' answers.

use bytes::Bytes;
use hmac::{Hmac, Mac};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use sha2::{Digest as _, Sha256};
use stratos_agent::http::aws_name::AwsName;
use stratos_agent::http::prelude::PreludeParser;
use stratos_agent::http::sigv4::{self, Authorization, SignatureError, SignedRequest};
use stratos_agent::http::url_answer::{self, Head};
use stratos_agent::http::url_event::{self, UrlRequest};
use time::macros::datetime;

/// A request in the manner of HTTP/1: `METHOD PATH?QUERY`, headers, an empty line, the body.
struct Request<'a> {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    fn read(data: &'a [u8]) -> Self {
        let end = data.windows(2).position(|two| two == b"\n\n");
        let (head, body) = end.map_or((data, &b""[..]), |at| (&data[..at], &data[at + 2..]));
        let mut lines = head.split(|b| *b == b'\n');
        let first = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
        let (method, target) = first.split_once(' ').unwrap_or(("GET", &first));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut headers = HeaderMap::new();
        for line in lines {
            let Some(at) = line.iter().position(|b| *b == b':') else { continue };
            let name = HeaderName::from_bytes(&line[..at]);
            let value = HeaderValue::from_bytes(line[at + 1..].trim_ascii());
            if let (Ok(name), Ok(value)) = (name, value) {
                headers.append(name, value);
            }
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap_or(Method::POST);
        Self { method, path: path.into(), query: query.into(), headers, body }
    }
}

const KEY: &str = "stratos";
const SECRET: &str = "secret";
const STAMP: &str = "20260102T030405Z";

/// AWS signatures: a foreign one is never taken; the right one is, and for nothing else.
pub fn sigv4(data: &[u8]) {
    let mut request = Request::read(data);
    let now = datetime!(2026-01-02 03:04:05 UTC);
    if let Some(given) = request.headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok())
        && let Ok(parsed) = Authorization::parse(given)
    {
        let Authorization { access_key, date, region, service, signed_headers, signature } = &parsed;
        let again = format!(
            "AWS4-HMAC-SHA256 Credential={access_key}/{date}/{region}/{service}/aws4_request, \
             SignedHeaders={}, Signature={}",
            signed_headers.join(";"),
            sigv4::hex(signature),
        );
        assert_eq!(Authorization::parse(&again).as_ref(), Ok(&parsed));
    }
    let body = sigv4::hex(&Sha256::digest(request.body));
    assert!(sigv4::verify(&signed(&request, &request.query, &body), KEY, SECRET, now).is_err());

    for name in ["authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-added"] {
        request.headers.remove(name);
    }
    request.headers.entry(header::HOST).or_insert(HeaderValue::from_static("node"));
    request.headers.insert("x-amz-date", HeaderValue::from_static(STAMP));
    let signature = sign(&request, &body);
    request.headers.insert(header::AUTHORIZATION, signature);
    let verify = |request: &Request<'_>, query: &str, body: &str, secret: &str| {
        sigv4::verify(&signed(request, query, body), KEY, secret, now)
    };
    assert_eq!(verify(&request, &request.query, &body, SECRET), Ok(()));
    let mismatch = Err(SignatureError::Mismatch);
    assert_eq!(verify(&request, &request.query, &body, "another"), mismatch);
    assert_eq!(verify(&request, &format!("{}&added=1", request.query), &body, SECRET), mismatch);
    assert_eq!(verify(&request, &request.query, &sigv4::hex(&[0; 32]), SECRET), mismatch);
    request.headers.append(header::HOST, HeaderValue::from_static("another"));
    assert_eq!(verify(&request, &request.query, &body, SECRET), mismatch);
    request.headers.insert("x-amz-added", HeaderValue::from_static("1"));
    assert!(matches!(
        verify(&request, &request.query, &body, SECRET),
        Err(SignatureError::Incomplete { .. })
    ));
}

fn signed<'a>(request: &'a Request<'_>, query: &'a str, body_sha256: &'a str) -> SignedRequest<'a> {
    SignedRequest {
        method: &request.method,
        path: &request.path,
        query,
        headers: &request.headers,
        body_sha256,
    }
}

/// The `Authorization` header that a client would send, all headers signed.
fn sign(request: &Request<'_>, body: &str) -> HeaderValue {
    let mut names: Vec<&str> = request.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    let canonical = sigv4::canonical_request(&signed(request, &request.query, body), &names, body);
    let scope = "20260102/local/lambda/aws4_request";
    let digest = sigv4::hex(&Sha256::digest(canonical));
    let text = format!("AWS4-HMAC-SHA256\n{STAMP}\n{scope}\n{digest}");
    let mut key = format!("AWS4{SECRET}").into_bytes();
    for part in scope.split('/').chain([text.as_str()]) {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of every length");
        mac.update(part.as_bytes());
        key = mac.finalize().into_bytes().to_vec();
    }
    let value = format!(
        "AWS4-HMAC-SHA256 Credential={KEY}/{scope}, SignedHeaders={}, Signature={}",
        names.join(";"),
        sigv4::hex(&key)
    );
    HeaderValue::from_str(&value).expect("names of headers are the text of one")
}

/// A function's name on the first line, a qualifier on the second.
pub fn aws_name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (name, qualifier) = match text.split_once('\n') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (text, None),
    };
    let Ok(parsed) = AwsName::parse(name, qualifier) else { return };
    assert!(name.contains(parsed.name.as_str()));
    assert_ne!(parsed.version, Some(0));
    let short = match parsed.version {
        Some(version) => format!("{}:{version}", parsed.name),
        None => format!("{}:$LATEST", parsed.name),
    };
    assert_eq!(AwsName::parse(&short, None).as_ref(), Ok(&parsed));
    let arn = format!("arn:aws:lambda:local:000000000000:function:{short}");
    assert_eq!(AwsName::parse(&arn, None), Ok(parsed));
}

fn check_head(head: &Head) {
    assert!((200..600).contains(&head.status.as_u16()), "{}", head.status);
    for name in ["connection", "content-length", "transfer-encoding", "upgrade", "keep-alive", "te"] {
        assert!(!head.headers.contains_key(name), "{name} passes");
    }
}

/// The JSON that a handler returned.
pub fn url_answer(data: &[u8]) {
    let event = Bytes::copy_from_slice(data);
    match url_answer::parse(&event) {
        Ok((head, body)) => {
            check_head(&head);
            assert!(head.headers.contains_key(header::CONTENT_TYPE));
            assert!(body.len() <= data.len());
        }
        Err(error) => assert!(error.to_string().len() < 600, "{error}"),
    }
}

/// A streamed answer: the first byte says in what pieces it comes.
pub fn prelude(data: &[u8]) {
    let Some((first, stream)) = data.split_first() else { return };
    let read = |size: usize| {
        let mut parser = PreludeParser::default();
        let mut pieces = stream.chunks(size);
        while let Some(piece) = pieces.next() {
            match parser.push(piece) {
                Ok(None) => {}
                Ok(Some((head, body))) => {
                    let rest = pieces.flatten().copied();
                    return Ok(Some((head, body.iter().copied().chain(rest).collect::<Vec<u8>>())));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    };
    let whole = read(stream.len().max(1));
    assert_eq!(read(usize::from(*first) + 1), whole);
    if let Ok(Some((head, body))) = whole {
        check_head(&head);
        assert!(stream.ends_with(&body));
    }
}

/// A request on a function URL: the event is JSON that holds all of it.
pub fn url_event(data: &[u8]) {
    use base64::Engine as _;
    let request = Request::read(data);
    let built = url_event::build(&UrlRequest {
        function: "f",
        request_id: "00000000-0000-4000-8000-000000000000",
        method: &request.method,
        version: Version::HTTP_11,
        path: &request.path,
        query: &request.query,
        headers: &request.headers,
        source_ip: "127.0.0.1",
        at: datetime!(2026-01-02 03:04:05 UTC),
        body: request.body,
    });
    let event: serde_json::Value = serde_json::from_slice(&built).expect("the event is JSON");
    assert_eq!(event["rawPath"].as_str(), Some(request.path.as_str()));
    assert_eq!(event["rawQueryString"].as_str(), Some(request.query.as_str()));
    let body = event["body"].as_str().unwrap_or_default();
    let body = match event["isBase64Encoded"].as_bool() {
        Some(true) => base64::engine::general_purpose::STANDARD.decode(body).expect("the body is base64"),
        _ => body.as_bytes().to_vec(),
    };
    assert_eq!(body, request.body);
    let headers = event["headers"].as_object().expect("headers are an object");
    for name in request.headers.keys().filter(|name| *name != header::COOKIE) {
        assert!(headers.contains_key(name.as_str()), "{name} is lost");
    }
}
