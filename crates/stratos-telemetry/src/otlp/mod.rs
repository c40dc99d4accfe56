//! Traces and metrics as OTLP's protobuf messages, for an OpenTelemetry collector.

mod message;
mod metrics;
mod traces;

pub use self::metrics::metrics;
pub use self::traces::traces;

use self::message::{AnyValue, InstrumentationScope, KeyValue, Resource, Value};

/// What the sender is.
#[derive(Debug, Clone, Default)]
pub struct Sender {
    /// The node's name.
    pub host: String,
    /// StratOS's version.
    pub version: String,
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
