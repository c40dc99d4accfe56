//! What a runtime reports of a failure: JSON, as its makers understand the Lambda Runtime API.
//!
//! Pure. What comes in here was made by a function and is not trusted.

use http::HeaderValue;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

/// Most characters kept of one text, and most lines of a stack trace. A report is copied for each request that fails
/// with it, so what a function can put into it is bounded here.
const MAX_TEXT: usize = 1000;
const MAX_LINES: usize = 50;

/// The members that runtimes report; others are dropped unread.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Report {
    error_type: Lenient,
    error_message: Lenient,
    request_id: Lenient,
    /// As Python's clients name it.
    stack_trace: Lenient,
    /// As Node.js's clients name it.
    trace: Lenient,
}

/// A member of the expected shape, or anything.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lenient {
    Text(String),
    Lines(Vec<String>),
    Other(IgnoredAny),
}

impl Default for Lenient {
    fn default() -> Self {
        Self::Other(IgnoredAny)
    }
}

/// The report in `body` as an object with at least an `errorType`. `awslambdaric` names the type in the body only,
/// others in the header too: `named`. What is no JSON object becomes the `errorMessage`.
pub fn parse(named: Option<&HeaderValue>, body: &[u8]) -> Value {
    let mut detail = Map::new();
    // An object and nothing else: serde takes an array for a struct as well.
    // Text first: what is skipped unread is not checked by serde.
    let text = std::str::from_utf8(body).ok().filter(|text| text.trim_ascii_start().starts_with('{'));
    let object = text.map(serde_json::from_str::<Report>);
    match object {
        Some(Ok(report)) => {
            let members = [
                ("errorType", report.error_type),
                ("errorMessage", report.error_message),
                ("requestId", report.request_id),
                ("stackTrace", report.stack_trace),
                ("trace", report.trace),
            ];
            for (name, member) in members {
                let kept = match member {
                    Lenient::Text(text) => cut(&text),
                    Lenient::Lines(lines) => lines.iter().take(MAX_LINES).map(|line| cut(line)).collect(),
                    Lenient::Other(_) => continue,
                };
                detail.insert(name.into(), kept);
            }
        }
        _ => drop(detail.insert("errorMessage".into(), cut(&String::from_utf8_lossy(body)))),
    }
    if !detail.get("errorType").is_some_and(Value::is_string) {
        let named = named.and_then(|value| value.to_str().ok());
        detail.insert("errorType".into(), cut(named.unwrap_or("Runtime.Unknown")));
    }
    Value::Object(detail)
}

fn cut(text: &str) -> Value {
    text.chars().take(MAX_TEXT).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reports_have_a_type() {
        let header = HeaderValue::from_static("Function.Oops");
        for (named, body, want) in [
            (None, r#"{"errorType":"E","errorMessage":"m"}"#, json!({"errorType":"E","errorMessage":"m"})),
            (
                Some(&header),
                r#"{"errorMessage":"m"}"#,
                json!({"errorType":"Function.Oops","errorMessage":"m"}),
            ),
            (Some(&header), r#"{"errorType":"E"}"#, json!({"errorType":"E"})),
            (None, r#"{"errorType":5}"#, json!({"errorType":"Runtime.Unknown"})),
            (None, "[1]", json!({"errorType":"Runtime.Unknown","errorMessage":"[1]"})),
            (None, r#"{"errorType":"E","x":[{"":0}],"trace":["a",1]}"#, json!({"errorType":"E"})),
            (
                None,
                r#"{"errorType":"E","stackTrace":["a","b"]}"#,
                json!({"errorType":"E","stackTrace":["a","b"]}),
            ),
            (None, "", json!({"errorType":"Runtime.Unknown","errorMessage":""})),
        ] {
            assert_eq!(parse(named, body.as_bytes()), want, "{body}");
        }
        let long = format!(r#"{{"errorMessage":"{0}","trace":["{0}"]}}"#, "ä".repeat(5000));
        let kept = parse(None, long.as_bytes());
        assert_eq!(kept["errorMessage"].as_str().unwrap().chars().count(), MAX_TEXT);
        assert_eq!(kept["trace"][0].as_str().unwrap().chars().count(), MAX_TEXT);
    }
}
