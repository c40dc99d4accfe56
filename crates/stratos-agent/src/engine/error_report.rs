//! What a runtime reports of a failure: JSON, as its makers understand the Lambda Runtime API.
//!
//! Pure. What comes in here was made by a function and is not trusted.

use http::HeaderValue;
use serde_json::{Value, json};

/// Most characters kept of a report that is not JSON.
const MAX_TEXT: usize = 1000;

/// The report in `body` as an object with at least an `errorType`. `awslambdaric` names the type in the body only,
/// others in the header too: `named`. What is no JSON object becomes the `errorMessage`.
pub fn parse(named: Option<&HeaderValue>, body: &[u8]) -> Value {
    let mut detail = match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(detail)) => detail,
        _ => {
            let text: String = String::from_utf8_lossy(body).chars().take(MAX_TEXT).collect();
            json!({ "errorMessage": text }).as_object().cloned().unwrap_or_default()
        }
    };
    if !detail.get("errorType").is_some_and(Value::is_string) {
        let named = named.and_then(|value| value.to_str().ok());
        detail.insert("errorType".into(), named.unwrap_or("Runtime.Unknown").into());
    }
    Value::Object(detail)
}

#[cfg(test)]
mod tests {
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
            (None, "", json!({"errorType":"Runtime.Unknown","errorMessage":""})),
        ] {
            assert_eq!(parse(named, body.as_bytes()), want, "{body}");
        }
    }
}
