//! The event a handler gets for a request on its function URL: AWS Lambda's payload format 2.0.
//!
//! Pure: the time and who sent the request are given.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, Method, Version, header};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// A request on a function URL, as far as the event tells of it.
#[derive(Debug, Clone, Copy)]
pub struct UrlRequest<'a> {
    /// The function's name.
    pub function: &'a str,
    /// The invocation's id.
    pub request_id: &'a str,
    /// Method.
    pub method: &'a Method,
    /// Protocol version of the request.
    pub version: Version,
    /// Path below the function's URL, still percent-encoded, starting with `/`.
    pub path: &'a str,
    /// Query without its `?`, still percent-encoded.
    pub query: &'a str,
    /// Headers, those a proxy adds included.
    pub headers: &'a HeaderMap,
    /// Address of the client.
    pub source_ip: &'a str,
    /// When it came.
    pub at: OffsetDateTime,
    /// Body.
    pub body: &'a [u8],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    version: &'static str,
    route_key: &'static str,
    raw_path: &'a str,
    raw_query_string: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cookies: Vec<Cow<'a, str>>,
    headers: BTreeMap<&'a str, Cow<'a, str>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    query_string_parameters: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    request_context: Context<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Cow<'a, str>>,
    is_base64_encoded: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Context<'a> {
    account_id: &'static str,
    api_id: &'a str,
    domain_name: &'a str,
    domain_prefix: &'a str,
    http: Http<'a>,
    request_id: &'a str,
    route_key: &'static str,
    stage: &'static str,
    time: String,
    time_epoch: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Http<'a> {
    method: &'a str,
    path: &'a str,
    protocol: &'static str,
    source_ip: &'a str,
    user_agent: Cow<'a, str>,
}

/// Route and stage of every function URL.
const DEFAULT: &str = "$default";
/// `12/Mar/2020:19:03:58 +0000`, as in the logs of web servers.
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");

/// Builds the event, as JSON.
pub fn build(request: &UrlRequest<'_>) -> Vec<u8> {
    let host = request.headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or(request.function);
    let encoded = !request.body.is_empty() && !is_text(request.headers, request.body);
    let body = (!request.body.is_empty()).then(|| match std::str::from_utf8(request.body) {
        Ok(text) if !encoded => Cow::Borrowed(text),
        _ => Cow::Owned(STANDARD.encode(request.body)),
    });
    let event = Event {
        version: "2.0",
        route_key: DEFAULT,
        raw_path: request.path,
        raw_query_string: request.query,
        cookies: cookies(request.headers),
        headers: joined(request.headers),
        query_string_parameters: parameters(request.query),
        request_context: Context {
            account_id: "anonymous",
            api_id: request.function,
            domain_name: without_port(host),
            domain_prefix: request.function,
            http: Http {
                method: request.method.as_str(),
                path: request.path,
                protocol: if request.version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" },
                source_ip: request.source_ip,
                user_agent: request.headers.get(header::USER_AGENT).map_or(Cow::Borrowed(""), text),
            },
            request_id: request.request_id,
            route_key: DEFAULT,
            stage: DEFAULT,
            time: request.at.format(TIME).expect("the format asks for what every time has"),
            time_epoch: i64::try_from(request.at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX),
        },
        body,
        is_base64_encoded: encoded,
    };
    serde_json::to_vec(&event).expect("texts and numbers are JSON")
}

fn text(value: &http::HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

fn cookies(headers: &HeaderMap) -> Vec<Cow<'_, str>> {
    let mut cookies = Vec::new();
    for header in headers.get_all(header::COOKIE) {
        match text(header) {
            Cow::Borrowed(text) => cookies.extend(text.split(';').map(|c| Cow::Borrowed(c.trim()))),
            Cow::Owned(text) => cookies.extend(text.split(';').map(|c| Cow::Owned(c.trim().to_owned()))),
        }
    }
    cookies.retain(|cookie| !cookie.is_empty());
    cookies
}

/// Each header once, in lower case as `http` keeps them; cookies have a place of their own.
fn joined(headers: &HeaderMap) -> BTreeMap<&str, Cow<'_, str>> {
    let mut all: BTreeMap<&str, Cow<'_, str>> = BTreeMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| *name != header::COOKIE) {
        append(&mut all, name.as_str(), text(value));
    }
    all
}

fn parameters(query: &str) -> BTreeMap<Cow<'_, str>, Cow<'_, str>> {
    let mut all = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        append(&mut all, name, value);
    }
    all
}

fn append<'a, K: Ord>(all: &mut BTreeMap<K, Cow<'a, str>>, name: K, value: Cow<'a, str>) {
    match all.entry(name) {
        std::collections::btree_map::Entry::Vacant(entry) => {
            entry.insert(value);
        }
        std::collections::btree_map::Entry::Occupied(mut entry) => {
            let joined = entry.get_mut().to_mut();
            joined.push(',');
            joined.push_str(&value);
        }
    }
}

/// Whether AWS would hand the body over as text: by its type, when it is not compressed. A form is not text there.
fn is_text(headers: &HeaderMap, body: &[u8]) -> bool {
    const ENCODING: HeaderName = header::CONTENT_ENCODING;
    let plain = headers.get(ENCODING).is_none_or(|v| v.as_bytes().eq_ignore_ascii_case(b"identity"));
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let named = matches!(
        kind.as_str(),
        "application/json" | "application/xml" | "application/javascript" | "application/graphql"
    );
    let textual = named || kind.starts_with("text/") || kind.ends_with("+json") || kind.ends_with("+xml");
    plain && textual && std::str::from_utf8(body).is_ok()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::{Value, json};
    use time::macros::datetime;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    fn event(query: &str, headers: &HeaderMap, body: &[u8]) -> Value {
        let request = UrlRequest {
            function: "hello",
            request_id: "id",
            method: &Method::POST,
            version: Version::HTTP_11,
            path: "/my/p%20ath",
            query,
            headers,
            source_ip: "192.0.2.1",
            at: datetime!(2020-03-12 19:03:58.390 UTC),
            body,
        };
        serde_json::from_slice(&build(&request)).unwrap()
    }

    #[test]
    fn the_event_is_that_of_aws() {
        let headers = headers(&[
            ("host", "node.example:8443"),
            ("header1", "value1"),
            ("header2", "value1"),
            ("header2", "value2"),
            ("cookie", "cookie1=a; cookie2=b"),
            ("cookie", "cookie3=c"),
            ("user-agent", "agent"),
            ("content-type", "text/plain; charset=utf-8"),
        ]);
        let query = "parameter1=value1&parameter1=value2&parameter2=v+a%C3%BC";
        let want = json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": "/my/p%20ath",
            "rawQueryString": query,
            "cookies": ["cookie1=a", "cookie2=b", "cookie3=c"],
            "headers": {
                "host": "node.example:8443",
                "header1": "value1",
                "header2": "value1,value2",
                "user-agent": "agent",
                "content-type": "text/plain; charset=utf-8",
            },
            "queryStringParameters": { "parameter1": "value1,value2", "parameter2": "v aü" },
            "requestContext": {
                "accountId": "anonymous",
                "apiId": "hello",
                "domainName": "node.example",
                "domainPrefix": "hello",
                "http": {
                    "method": "POST",
                    "path": "/my/p%20ath",
                    "protocol": "HTTP/1.1",
                    "sourceIp": "192.0.2.1",
                    "userAgent": "agent",
                },
                "requestId": "id",
                "routeKey": "$default",
                "stage": "$default",
                "time": "12/Mar/2020:19:03:58 +0000",
                "timeEpoch": 1_584_039_838_390_i64,
            },
            "body": "Hello from client!",
            "isBase64Encoded": false,
        });
        assert_eq!(event(query, &headers, b"Hello from client!"), want);
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let event = event("", &HeaderMap::new(), b"");
        for member in ["cookies", "queryStringParameters", "body"] {
            assert_eq!(event.get(member), None, "{member}");
        }
        assert_eq!(event["isBase64Encoded"], false);
        assert_eq!(event["requestContext"]["domainName"], "hello");
    }

    #[test]
    fn bodies_are_text_or_base64() {
        let json = [("content-type", "application/json")];
        let gzip = [("content-type", "text/plain"), ("content-encoding", "gzip")];
        for (pairs, body, want, encoded) in [
            (&json[..], &b"{}"[..], "{}", false),
            (&[("content-type", "application/problem+JSON")], b"{}", "{}", false),
            (&json, b"\xff", "/w==", true),
            (&gzip, b"hi", "aGk=", true),
            (&[("content-type", "application/x-www-form-urlencoded")], b"a=b", "YT1i", true),
            (&[("content-type", "image/png")], b"hi", "aGk=", true),
            (&[], b"hi", "aGk=", true),
        ] {
            let event = event("", &headers(pairs), body);
            assert_eq!(
                (&event["body"], &event["isBase64Encoded"]),
                (&json!(want), &json!(encoded)),
                "{pairs:?}"
            );
        }
    }
}
