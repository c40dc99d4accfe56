//! AWS Signature Version 4: checks the signature that AWS clients put on their requests.
//!
//! Pure, apart from the arithmetic: the time now, the secret and the body's digest are given. Written after the
//! AWS reference "Create a signed AWS API request". What comes in is not trusted; nothing in here logs it.

use std::fmt::Write as _;
use std::time::Duration;

use hmac::{Hmac, Mac};
use http::{HeaderMap, Method};
use sha2::{Digest as _, Sha256};
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime, format_description::BorrowedFormatItem};

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// Furthest a request's time may be from the node's, as with AWS.
const MAX_SKEW: Duration = Duration::from_secs(5 * 60);
const TIMESTAMP: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");

/// Why a signed request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The `Authorization` header or `X-Amz-Date` is not complete.
    #[error("the Authorization header is not a complete AWS4-HMAC-SHA256 signature: {missing}")]
    Incomplete {
        /// What is missing or wrong.
        missing: &'static str,
    },
    /// The access key id is not the one that the node knows.
    #[error("the access key id is unknown")]
    UnknownKey,
    /// The request's time is too far off.
    #[error("the request's time is more than 5 minutes off the node's")]
    Expired,
    /// The signature is not that of this request, or was not made with this secret.
    #[error("the signature does not match")]
    Mismatch,
}

const fn incomplete(missing: &'static str) -> SignatureError {
    SignatureError::Incomplete { missing }
}

/// A parsed `Authorization` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorization<'a> {
    /// Who says to have signed.
    pub access_key: &'a str,
    /// Date of the credential's scope, `YYYYMMDD`.
    pub date: &'a str,
    /// Region of the scope.
    pub region: &'a str,
    /// Service of the scope.
    pub service: &'a str,
    /// Names of the signed headers, in the order given.
    pub signed_headers: Vec<&'a str>,
    /// The signature.
    pub signature: [u8; 32],
}

/// True when an `Authorization` header is one of this scheme.
pub fn is_signature(authorization: &[u8]) -> bool {
    authorization.starts_with(ALGORITHM.as_bytes())
}

impl<'a> Authorization<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// When a part is missing or malformed.
    pub fn parse(header: &'a str) -> Result<Self, SignatureError> {
        let rest = header.strip_prefix(ALGORITHM).filter(|r| r.starts_with(' '));
        let rest = rest.ok_or(incomplete("the algorithm"))?;
        let (mut credential, mut signed, mut signature) = (None, None, None);
        for part in rest.split(',').map(str::trim) {
            match part.split_once('=') {
                Some(("Credential", value)) => credential = Some(value),
                Some(("SignedHeaders", value)) => signed = Some(value),
                Some(("Signature", value)) => signature = Some(value),
                _ => return Err(incomplete("only Credential, SignedHeaders and Signature are known")),
            }
        }
        // The key id may itself hold slashes, so the scope is read from its end.
        let mut scope = credential.ok_or(incomplete("Credential"))?.rsplitn(5, '/');
        let mut next = || scope.next().filter(|s| !s.is_empty()).ok_or(incomplete("Credential's scope"));
        let (terminator, service, region, date, access_key) = (next()?, next()?, next()?, next()?, next()?);
        if terminator != "aws4_request" {
            return Err(incomplete("Credential's scope does not end in aws4_request"));
        }
        let signed_headers: Vec<_> = signed.ok_or(incomplete("SignedHeaders"))?.split(';').collect();
        let signature = signature.and_then(unhex).ok_or(incomplete("Signature"))?;
        Ok(Self { access_key, date, region, service, signed_headers, signature })
    }

    fn scope(&self) -> String {
        format!("{}/{}/{}/aws4_request", self.date, self.region, self.service)
    }
}

/// A request, as far as a signature covers it.
#[derive(Debug, Clone, Copy)]
pub struct SignedRequest<'a> {
    /// Method.
    pub method: &'a Method,
    /// Path as it was sent.
    pub path: &'a str,
    /// Query as it was sent, without its `?`.
    pub query: &'a str,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// SHA-256 of the body, lower-case hex.
    pub body_sha256: &'a str,
}

/// Reads and checks what does not need the body: who signed, when, and what the signature covers. A request that
/// fails here is refused before its body is read.
///
/// # Errors
/// Why it is refused.
pub fn check_head<'a>(
    headers: &'a HeaderMap,
    access_key: &str,
    now: OffsetDateTime,
) -> Result<Authorization<'a>, SignatureError> {
    let authorization = text(headers, "authorization").ok_or(incomplete("the Authorization header"))?;
    let authorization = Authorization::parse(authorization)?;
    if authorization.access_key != access_key {
        return Err(SignatureError::UnknownKey);
    }
    if authorization.service != "lambda" {
        return Err(incomplete("the scope's service is not lambda"));
    }
    let stamp = text(headers, "x-amz-date").ok_or(incomplete("X-Amz-Date"))?;
    let signed_at = PrimitiveDateTime::parse(stamp, TIMESTAMP).map_err(|_| incomplete("X-Amz-Date"))?;
    if stamp.get(..8) != Some(authorization.date) {
        return Err(incomplete("X-Amz-Date is not of the scope's date"));
    }
    if (now - signed_at.assume_utc()).unsigned_abs() > MAX_SKEW {
        return Err(SignatureError::Expired);
    }
    covers_what_matters(&authorization, headers)?;
    Ok(authorization)
}

/// Checks a request against the one key id and secret that are valid here.
///
/// # Errors
/// Why it is refused.
pub fn verify(
    request: &SignedRequest<'_>,
    access_key: &str,
    secret: &str,
    now: OffsetDateTime,
) -> Result<(), SignatureError> {
    let authorization = check_head(request.headers, access_key, now)?;
    let payload = match text(request.headers, "x-amz-content-sha256") {
        None => request.body_sha256,
        Some(said) if said == "UNSIGNED-PAYLOAD" || said == request.body_sha256 => said,
        Some(_) => return Err(SignatureError::Mismatch),
    };
    let mut mac = keyed(&signing_key(secret, &authorization));
    mac.update(string_to_sign(request, &authorization, payload).as_bytes());
    // Compared in constant time.
    mac.verify_slice(&authorization.signature).map_err(|_| SignatureError::Mismatch)
}

fn string_to_sign(request: &SignedRequest<'_>, authorization: &Authorization<'_>, payload: &str) -> String {
    let stamp = text(request.headers, "x-amz-date").unwrap_or_default();
    let canonical = canonical_request(request, &authorization.signed_headers, payload);
    format!("{ALGORITHM}\n{stamp}\n{}\n{}", authorization.scope(), hex(&Sha256::digest(canonical)))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// A header that AWS gives a meaning must not be added by someone on the way.
fn covers_what_matters(authorization: &Authorization<'_>, headers: &HeaderMap) -> Result<(), SignatureError> {
    let signed = |name: &str| authorization.signed_headers.contains(&name);
    let amz = |name: &&str| name.starts_with("x-amz-");
    match signed("host") && headers.keys().map(http::HeaderName::as_str).filter(amz).all(signed) {
        true => Ok(()),
        false => Err(incomplete("SignedHeaders has to name host and every x-amz- header")),
    }
}

/// The request in the form that is signed.
pub fn canonical_request(request: &SignedRequest<'_>, signed_headers: &[&str], payload: &str) -> String {
    let mut text =
        format!("{}\n{}\n{}\n", request.method, canonical_path(request.path), canonical_query(request.query));
    for name in signed_headers {
        text.push_str(name);
        text.push(':');
        for (i, value) in request.headers.get_all(*name).iter().enumerate() {
            text.push_str(if i == 0 { "" } else { "," });
            let value = String::from_utf8_lossy(value.as_bytes());
            let mut words = value.split(' ').filter(|w| !w.is_empty());
            text.push_str(words.next().unwrap_or_default());
            words.for_each(|word| {
                text.push(' ');
                text.push_str(word);
            });
        }
        text.push('\n');
    }
    write!(text, "\n{}\n{payload}", signed_headers.join(";")).expect("a String takes every write");
    text
}

/// The path without empty, `.` and `..` segments, encoded once more than it was sent (all services but S3).
fn canonical_path(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    let mut text = String::with_capacity(path.len() + 8);
    for segment in &segments {
        text.push('/');
        encode(segment.as_bytes(), &mut text);
    }
    // A final slash is kept; a path of nothing is one slash.
    if segments.is_empty() || path.ends_with('/') {
        text.push('/');
    }
    text
}

/// Each name and value encoded the one right way, sorted.
fn canonical_query(query: &str) -> String {
    let encoded = |part: &str| {
        let mut text = String::with_capacity(part.len());
        encode(&decode(part), &mut text);
        text
    };
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (encoded(name), encoded(value))
    };
    let mut pairs: Vec<_> = query.split('&').filter(|part| !part.is_empty()).map(pair).collect();
    pairs.sort();
    let parts: Vec<_> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    parts.join("&")
}

/// AWS's URI encoding: all but the unreserved characters of RFC 3986.
fn encode(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(*byte));
            }
            _ => write!(text, "%{byte:02X}").expect("a String takes every write"),
        }
    }
}

/// Undoes percent-encoding; what is no encoding stays as it is, and so does `+`.
fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let pair = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        let value = pair.and_then(|p| {
            let digit = |b: u8| char::from(b).to_digit(16);
            u8::try_from(digit(p[0])? << 4 | digit(p[1])?).ok()
        });
        decoded.push(value.unwrap_or(bytes[at]));
        at += if value.is_some() { 3 } else { 1 };
    }
    decoded
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of every length")
}

fn signing_key(secret: &str, authorization: &Authorization<'_>) -> [u8; 32] {
    let sign = |key: &[u8], text: &str| -> [u8; 32] {
        let mut mac = keyed(key);
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().into()
    };
    let date = sign(format!("AWS4{secret}").as_bytes(), authorization.date);
    let region = sign(&date, authorization.region);
    let service = sign(&region, authorization.service);
    sign(&service, "aws4_request")
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes every write");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |b: u8| char::from(b).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use time::macros::datetime;

    use super::*;

    // Key and figures of the examples in AWS's documentation of Signature Version 4.
    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn signature(request: &SignedRequest<'_>, region: &str, service: &str, signed: &[&str]) -> String {
        let authorization = Authorization {
            access_key: "AKIDEXAMPLE",
            date: "20150830",
            region,
            service,
            signed_headers: signed.to_vec(),
            signature: [0; 32],
        };
        let mut mac = keyed(&signing_key(SECRET, &authorization));
        mac.update(string_to_sign(request, &authorization, request.body_sha256).as_bytes());
        hex(&mac.finalize().into_bytes())
    }

    #[test]
    fn the_documented_examples_come_out() {
        let plain = headers(&[("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")]);
        let iam = headers(&[
            ("host", "iam.amazonaws.com"),
            ("x-amz-date", "20150830T123600Z"),
            ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
        ]);
        let two = &["host", "x-amz-date"][..];
        let three = &["content-type", "host", "x-amz-date"][..];
        let users = "Action=ListUsers&Version=2010-05-08";
        for (method, query, headers, service, signed, want) in [
            // "get-vanilla", "post-vanilla" and "get-vanilla-query-order-key-case" of the test suite.
            (
                Method::GET,
                "",
                &plain,
                "service",
                two,
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                Method::POST,
                "",
                &plain,
                "service",
                two,
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                Method::GET,
                "Param2=value2&Param1=value1",
                &plain,
                "service",
                two,
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            // The worked example of the reference.
            (
                Method::GET,
                users,
                &iam,
                "iam",
                three,
                "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
            ),
        ] {
            let request = SignedRequest { method: &method, path: "/", query, headers, body_sha256: EMPTY };
            assert_eq!(signature(&request, "us-east-1", service, signed), want, "{method} {query}");
        }
    }

    #[test]
    fn paths_and_queries_have_one_form() {
        for (path, want) in [
            ("", "/"),
            ("/", "/"),
            ("//", "/"),
            ("/a//b/./c/../d", "/a/b/d"),
            ("/a/", "/a/"),
            ("/../..", "/"),
            ("/f%3A1/-._~", "/f%253A1/-._~"),
            ("/example space/", "/example%20space/"),
        ] {
            assert_eq!(canonical_path(path), want, "{path}");
        }
        for (query, want) in [
            ("", ""),
            ("b=2&a=1&a=0", "a=0&a=1&b=2"),
            ("Qualifier=%24LATEST", "Qualifier=%24LATEST"),
            ("Qualifier=$LATEST", "Qualifier=%24LATEST"),
            ("a", "a="),
            ("a=%4&b=%zz&c=+", "a=%254&b=%25zz&c=%2B"),
        ] {
            assert_eq!(canonical_query(query), want, "{query}");
        }
        let spaced = headers(&[("a", "  b   c "), ("a", "d")]);
        let request = SignedRequest {
            method: &Method::GET,
            path: "/",
            query: "",
            headers: &spaced,
            body_sha256: EMPTY,
        };
        assert!(canonical_request(&request, &["a"], EMPTY).contains("\na:b c,d\n"));
    }

    const NOW: OffsetDateTime = datetime!(2026-11-23 20:00:00 UTC);

    /// A request to the node, signed with the key `stratos` and the given secret.
    fn signed(secret: &str, change: impl FnOnce(&mut HeaderMap)) -> HeaderMap {
        let mut headers = headers(&[("host", "127.0.0.1:8443"), ("x-amz-date", "20261123T195800Z")]);
        let authorization = Authorization {
            access_key: "stratos",
            date: "20261123",
            region: "local",
            service: "lambda",
            signed_headers: vec!["host", "x-amz-date"],
            signature: [0; 32],
        };
        let scope = authorization.scope();
        let mut mac = keyed(&signing_key(secret, &authorization));
        mac.update(string_to_sign(&request(&headers), &authorization, EMPTY).as_bytes());
        let signature = hex(&mac.finalize().into_bytes());
        let value = format!(
            "{ALGORITHM} Credential=stratos/{scope}, SignedHeaders=host;x-amz-date, Signature={signature}"
        );
        headers.insert("authorization", value.parse().unwrap());
        change(&mut headers);
        headers
    }

    fn request(headers: &HeaderMap) -> SignedRequest<'_> {
        const PATH: &str = "/2015-03-31/functions/hello%3A1/invocations";
        SignedRequest { method: &Method::POST, path: PATH, query: "Qualifier=1", headers, body_sha256: EMPTY }
    }

    #[test]
    fn only_the_request_that_was_signed_passes() {
        let good = signed("token", |_| {});
        assert_eq!(verify(&request(&good), "stratos", "token", NOW), Ok(()));
        let other = SignedRequest { query: "Qualifier=2", ..request(&good) };
        assert_eq!(verify(&other, "stratos", "token", NOW), Err(SignatureError::Mismatch));
        let other = SignedRequest { body_sha256: &EMPTY.replace('e', "f"), ..request(&good) };
        assert_eq!(verify(&other, "stratos", "token", NOW), Err(SignatureError::Mismatch));
        let wrong = signed("guess", |_| {});
        assert_eq!(verify(&request(&wrong), "stratos", "token", NOW), Err(SignatureError::Mismatch));
        assert_eq!(verify(&request(&good), "other", "token", NOW), Err(SignatureError::UnknownKey));
        for hour in [datetime!(2026-11-23 19:52:59 UTC), datetime!(2026-11-23 20:03:01 UTC)] {
            assert_eq!(verify(&request(&good), "stratos", "token", hour), Err(SignatureError::Expired));
        }
        let added = signed("token", |h| {
            h.insert("x-amz-invocation-type", HeaderValue::from_static("Event"));
        });
        let error = verify(&request(&added), "stratos", "token", NOW).unwrap_err();
        assert!(error.to_string().contains("every x-amz- header"), "{error}");
    }

    #[test]
    fn incomplete_headers_are_refused() {
        let complete = signed("token", |_| {})["authorization"].to_str().unwrap().to_owned();
        assert!(Authorization::parse(&complete).is_ok());
        for wrong in [
            "",
            "AWS4-HMAC-SHA256",
            "AWS4-HMAC-SHA256Credential=a",
            &complete.replace("aws4_request", "aws5_request"),
            &complete.replace("stratos/", ""),
            &complete.replace("Signature=", "Signature=0"),
            &complete.replace("SignedHeaders", "Headers"),
            &complete[..complete.len() - 1],
            &complete.replace("/local", ""),
        ] {
            assert!(matches!(Authorization::parse(wrong), Err(SignatureError::Incomplete { .. })), "{wrong}");
        }
    }
}
