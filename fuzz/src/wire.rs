//! JSON that comes over a connection: a node's answers to a client, and what a runtime reports.

use serde::Serialize;
use serde::de::DeserializeOwned;
use stratos_agent::engine::error_report;
use stratos_api::{
    ApiError, AsyncInvocation, DeployEvent, FunctionDetail, Health, InvocationRecord, LogLine,
    RollbackRequest,
};

fn round_trip<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(data) else { return };
    let written = serde_json::to_vec(&value).expect("what came as JSON is JSON");
    assert_eq!(serde_json::from_slice::<T>(&written).ok().as_ref(), Some(&value));
}

/// A body or line of the control API.
pub fn wire(data: &[u8]) {
    round_trip::<ApiError>(data);
    round_trip::<AsyncInvocation>(data);
    round_trip::<DeployEvent>(data);
    round_trip::<FunctionDetail>(data);
    round_trip::<Health>(data);
    round_trip::<InvocationRecord>(data);
    round_trip::<LogLine>(data);
    round_trip::<RollbackRequest>(data);
}

/// What a runtime reports of a failure: the type of its header on the first line, then the body.
pub fn error_report(data: &[u8]) {
    let at = data.iter().position(|b| *b == b'\n');
    let (named, body) = at.map_or((None, data), |at| (Some(&data[..at]), &data[at + 1..]));
    let named = named.and_then(|bytes| http::HeaderValue::from_bytes(bytes).ok());
    let report = error_report::parse(named.as_ref(), body);
    assert!(report["errorType"].is_string(), "{report}");
    if std::str::from_utf8(body).is_err() || !body.trim_ascii_start().starts_with(b"{") {
        let message = report["errorMessage"].as_str().expect("other text becomes the message");
        assert!(message.chars().count() <= 1000);
    }
}
