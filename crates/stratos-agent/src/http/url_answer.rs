//! What a handler returned, as the HTTP answer of its function URL (AWS Lambda, payload format 2.0).
//!
//! Pure. What comes in here was made by a function and is not trusted.

mod json;

use std::borrow::Cow;
use std::cell::Cell;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

use self::json::{AnswerReader, Content, MAX_HEAD, from_text, has_status};

/// Why an answer cannot be turned into HTTP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadAnswer(String);

impl BadAnswer {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Status and headers of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Status, 200 to 599.
    pub status: StatusCode,
    /// Headers, cookies included.
    pub headers: HeaderMap,
}

/// Turns the JSON that a handler returned into an answer: an object with `statusCode` says what to answer, any
/// other JSON is the body itself.
///
/// # Errors
/// When it is not JSON, or an object with `statusCode` whose other members are wrong, or over 64 KiB without the body.
pub fn parse(event: &Bytes) -> Result<(Head, Bytes), BadAnswer> {
    let json = HeaderValue::from_static("application/json");
    let not_json = || BadAnswer::new("the answer is not JSON");
    // What is skipped below is not checked for being UTF-8.
    let text = std::str::from_utf8(event).map_err(|_| not_json())?;
    if !has_status(text).map_err(|_| not_json())? {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, json)]);
        return Ok((Head { status: StatusCode::OK, headers }, event.clone()));
    }
    let left = Cell::new(MAX_HEAD);
    let answer = from_text(text, AnswerReader(&left)).map_err(|_| match left.get() {
        0 => BadAnswer::new("the answer without its body is over 64 KiB"),
        _ => not_json(),
    })?;
    let mut head = head(&answer.members)?;
    head.headers.entry(header::CONTENT_TYPE).or_insert(json);
    let encoded = match answer.members.get("isBase64Encoded") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(encoded)) => *encoded,
        Some(_) => return Err(BadAnswer::new("isBase64Encoded is not true or false")),
    };
    let body = match (answer.body, encoded) {
        (Content::Nothing, _) => Bytes::new(),
        (Content::Text(Cow::Borrowed(text)), false) => event.slice_ref(text.as_bytes()),
        (Content::Text(Cow::Owned(text)), false) => Bytes::from(text),
        (Content::Text(text), true) => {
            let bytes = STANDARD.decode(text.as_bytes());
            bytes.map_err(|_| BadAnswer::new("isBase64Encoded is true but body is not base64"))?.into()
        }
        (Content::Other, _) => {
            return Err(BadAnswer::new("body is not a string (JSON has to be made text)"));
        }
    };
    Ok((head, body))
}

/// Reads the head of a streamed answer.
pub(super) fn parse_head(json: &[u8]) -> Result<Head, BadAnswer> {
    match serde_json::from_slice(json) {
        Ok(Value::Object(object)) => head(&object),
        Ok(_) => Err(BadAnswer::new("the head of the stream is not a JSON object")),
        Err(_) => Err(BadAnswer::new("the head of the stream is not JSON")),
    }
}

fn head(object: &Map<String, Value>) -> Result<Head, BadAnswer> {
    let mut headers = HeaderMap::new();
    if let Some(single) = member(object, "headers", Value::as_object, "an object")? {
        for (name, value) in single {
            add(&mut headers, name, value)?;
        }
    }
    if let Some(multi) = member(object, "multiValueHeaders", Value::as_object, "an object")? {
        for (name, values) in multi {
            let values = values.as_array();
            let values = values
                .ok_or_else(|| BadAnswer::new(format!("multiValueHeaders.{} is not a list", cut(name))))?;
            // A name in both stands for the same header; the list says more.
            headers.remove(name.as_str());
            values.iter().try_for_each(|value| add(&mut headers, name, value))?;
        }
    }
    if let Some(cookies) = member(object, "cookies", Value::as_array, "a list")? {
        for cookie in cookies {
            let text = cookie.as_str().ok_or_else(|| BadAnswer::new("cookies holds what is not a string"))?;
            headers.append(header::SET_COOKIE, header_value("cookies", text)?);
        }
    }
    super::headers::remove_hop_by_hop(&mut headers);
    // The node knows the length of what it sends.
    headers.remove(header::CONTENT_LENGTH);
    Ok(Head { status: status(object.get("statusCode"))?, headers })
}

fn member<'a, T: ?Sized>(
    object: &'a Map<String, Value>,
    name: &str,
    read: fn(&'a Value) -> Option<&'a T>,
    want: &str,
) -> Result<Option<&'a T>, BadAnswer> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(value).map(Some).ok_or_else(|| BadAnswer::new(format!("{name} is not {want}"))),
    }
}

/// A whole number, or one as text; 1xx are not final answers, so they are not among the valid ones.
fn status(value: Option<&Value>) -> Result<StatusCode, BadAnswer> {
    let number = match value {
        None => Some(200),
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) => None,
    };
    let valid = number.filter(|n| (200..600).contains(n)).and_then(|n| u16::try_from(n).ok());
    valid
        .and_then(|n| StatusCode::from_u16(n).ok())
        .ok_or_else(|| BadAnswer::new("statusCode is not a number from 200 to 599"))
}

fn add(headers: &mut HeaderMap, name: &str, value: &Value) -> Result<(), BadAnswer> {
    let key: HeaderName =
        name.parse().map_err(|_| BadAnswer::new(format!("`{}` is not a header's name", cut(name))))?;
    let value = match value {
        Value::String(text) => header_value(name, text)?,
        Value::Number(number) => header_value(name, &number.to_string())?,
        Value::Bool(flag) => HeaderValue::from_static(if *flag { "true" } else { "false" }),
        _ => return Err(BadAnswer::new(format!("headers.{} is not a string", cut(name)))),
    };
    headers.append(key, value);
    Ok(())
}

fn header_value(name: &str, text: &str) -> Result<HeaderValue, BadAnswer> {
    let message = || BadAnswer::new(format!("headers.{} holds characters a header cannot carry", cut(name)));
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| message())
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status, headers and body in one line, as a client would see them.
    fn shown(json: &'static str) -> String {
        match parse(&Bytes::from_static(json.as_bytes())) {
            Err(error) => format!("error: {error}"),
            Ok((head, body)) => {
                let mut lines: Vec<_> =
                    head.headers.iter().map(|(k, v)| format!("{k}: {}", v.to_str().unwrap())).collect();
                lines.sort();
                format!("{} [{}] {}", head.status.as_u16(), lines.join("; "), String::from_utf8_lossy(&body))
            }
        }
    }

    #[test]
    fn answers_become_http() {
        for (json, want) in [
            // Without statusCode the JSON itself is the answer.
            (r#"{"message":"hi"}"#, r#"200 [content-type: application/json] {"message":"hi"}"#),
            (r#""hi""#, r#"200 [content-type: application/json] "hi""#),
            ("null", "200 [content-type: application/json] null"),
            ("[1, 2]", "200 [content-type: application/json] [1, 2]"),
            // With it, each member has its meaning.
            (r#"{"statusCode":201}"#, "201 [content-type: application/json] "),
            (r#"{"statusCode":"404","body":"no"}"#, "404 [content-type: application/json] no"),
            (
                r#"{"statusCode":200,"headers":{"Content-Type":"text/plain","X-N":5,"X-B":true},"body":"a"}"#,
                "200 [content-type: text/plain; x-b: true; x-n: 5] a",
            ),
            (
                r#"{"statusCode":200,"cookies":["a=1","b=2"],"body":null}"#,
                "200 [content-type: application/json; set-cookie: a=1; set-cookie: b=2] ",
            ),
            (
                r#"{"statusCode":200,"headers":{"x":"0"},"multiValueHeaders":{"X":["1","2"]}}"#,
                "200 [content-type: application/json; x: 1; x: 2] ",
            ),
            (
                r#"{"statusCode":200,"isBase64Encoded":true,"body":"aGk="}"#,
                "200 [content-type: application/json] hi",
            ),
            // What would break the framing is not passed on.
            (
                r#"{"statusCode":200,"headers":{"Content-Length":"99","Transfer-Encoding":"chunked"}}"#,
                "200 [content-type: application/json] ",
            ),
        ] {
            assert_eq!(shown(json), want, "{json}");
        }
    }

    #[test]
    fn wrong_answers_say_what_is_wrong() {
        for (json, want) in [
            ("", "not JSON"),
            ("{", "not JSON"),
            (r#"{"statusCode":100}"#, "statusCode is not a number from 200 to 599"),
            (r#"{"statusCode":600}"#, "statusCode"),
            (r#"{"statusCode":null}"#, "statusCode"),
            (r#"{"statusCode":200.5}"#, "statusCode"),
            (r#"{"statusCode":200,"body":{"a":1}}"#, "body is not a string"),
            (r#"{"statusCode":200,"headers":[]}"#, "headers is not an object"),
            (r#"{"statusCode":200,"headers":{"a b":"1"}}"#, "`a b` is not a header's name"),
            (r#"{"statusCode":200,"headers":{"a":"1\r\nb: 2"}}"#, "headers.a holds characters"),
            (r#"{"statusCode":200,"headers":{"a":null}}"#, "headers.a is not a string"),
            (r#"{"statusCode":200,"cookies":"a=1"}"#, "cookies is not a list"),
            (r#"{"statusCode":200,"multiValueHeaders":{"a":"1"}}"#, "multiValueHeaders.a is not a list"),
            (r#"{"statusCode":200,"isBase64Encoded":"yes"}"#, "isBase64Encoded is not"),
            (r#"{"statusCode":200,"isBase64Encoded":true,"body":"*"}"#, "body is not base64"),
        ] {
            let got = shown(json);
            assert!(got.starts_with("error: ") && got.contains(want), "{json}: {got}");
        }
    }

    #[test]
    fn a_large_answer_is_never_built_as_values() {
        let items = |count: usize| format!("[{}0]", r#"{"":0},"#.repeat(count));
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let parsed = |json: &str| parse(&Bytes::from(json.to_owned()));
        // As a body of its own, or in members that mean nothing, anything goes.
        for json in [
            items(900_000),
            deep(1_000_000),
            format!(r#"{{"cookies":{},"headers":{}}}"#, items(100_000), deep(1000)),
        ] {
            assert_eq!(parsed(&json).unwrap().1.len(), json.len());
        }
        let other = format!(r#"{{"other":{},"statusCode":201,"more":{}}}"#, items(100_000), deep(100_000));
        assert_eq!(parsed(&other).unwrap().0.status, StatusCode::CREATED);
        // A member that means something is read only so far.
        for (member, value, want) in [
            ("headers", items(100_000), "over 64 KiB"),
            ("cookies", items(100_000), "over 64 KiB"),
            ("cookies", format!("[{:?}]", "a".repeat(70_000)), "over 64 KiB"),
            ("statusCode", format!("{:?}", "1".repeat(70_000)), "over 64 KiB"),
            ("headers", format!(r#"{{"{}":"1"}}"#, "a".repeat(70_000)), "over 64 KiB"),
            ("headers", deep(1000), "not JSON"),
            ("body", items(100_000), "body is not a string"),
            ("body", deep(100_000), "body is not a string"),
        ] {
            let got = parsed(&format!(r#"{{"statusCode":200,"{member}":{value}}}"#)).unwrap_err().to_string();
            assert!(got.contains(want), "{member}: {got}");
        }
    }

    #[test]
    fn bodies_are_taken_as_they_are() {
        for (json, want) in [
            (r#"{"statusCode":200,"body":"plain"}"#, Some("plain")),
            (r#"{"body":"a\n\u00fcb","statusCode":200}"#, Some("a\nüb")),
            // The last one counts, as everywhere in JSON.
            (r#"{"statusCode":500,"body":"a","statusCode":200,"body":"b"}"#, Some("b")),
            (r#"{"statusCode":200,"\u0062ody":"escaped"}"#, Some("escaped")),
            (r#"{"statusCode":200,"body":"\ud800"}"#, None),
            (r#"{"statusCode":200,"body":7}"#, None),
            (r#"{"statusCode":200} x"#, None),
        ] {
            let got = parse(&Bytes::from_static(json.as_bytes()));
            assert_eq!(got.ok().map(|(_, body)| body), want.map(Bytes::from), "{json}");
        }
        assert!(parse(&Bytes::from_static(b"\"\xff\"")).is_err());
    }
}
