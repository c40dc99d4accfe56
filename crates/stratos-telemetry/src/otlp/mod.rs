//! Traces and metrics as OTLP's protobuf messages, for an OpenTelemetry collector.

mod message;
mod metrics;
mod traces;

pub use self::metrics::metrics;
pub use self::traces::traces;

use prost::Message as _;

use self::message::{AnyValue, ExportResponse, InstrumentationScope, KeyValue, Resource, Value};

/// What the sender is.
#[derive(Debug, Clone, Default)]
pub struct Sender {
    /// The node's name.
    pub host: String,
    /// StratOS's version.
    pub version: String,
}

/// Longest reason of a collector that is told, bytes.
const MAX_REASON: usize = 200;

/// How many spans or points a collector has not taken of a request that it has accepted, by its answer, and why. An answer
/// that is none of OTLP's tells of none.
pub fn rejected(answer: &[u8]) -> (u64, String) {
    let partial = ExportResponse::decode(answer).unwrap_or_default().partial_success.unwrap_or_default();
    let mut reason = partial.error_message;
    reason.truncate(reason.floor_char_boundary(MAX_REASON));
    (u64::try_from(partial.rejected).unwrap_or_default(), reason)
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::String(value.to_owned()))
}

fn scope(sender: &Sender) -> Option<InstrumentationScope> {
    Some(InstrumentationScope { name: "stratos".into(), version: sender.version.clone() })
}

fn resource(attributes: Vec<KeyValue>) -> Option<Resource> {
    Some(Resource { attributes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_collector_rejects_is_read() {
        // Fields by hand: 1 { 1: 300, 2: "no" }.
        let answer = [0x0a, 7, 0x08, 0xac, 0x02, 0x12, 2, b'n', b'o'];
        assert_eq!(rejected(&answer), (300, "no".into()));
        // Nothing, a negative number, and what is no message.
        for none in [&b""[..], &[0x0a, 11, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], b"<html>"] {
            assert_eq!(rejected(none), (0, String::new()));
        }
    }
}
