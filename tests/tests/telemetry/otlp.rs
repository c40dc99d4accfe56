//! Traces and metrics as OTLP, decoded by OpenTelemetry's own library for Python.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use serde_json::Value;
use stratos_api::client::Call;
use stratos_tests::{Node, need_root, otlp_client};

use super::{errors, moody, telemetry, trace, until};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What came at a collector: paths, and bodies as they are.
#[derive(Clone, Default)]
struct Collector {
    requests: Arc<Mutex<Vec<(String, Bytes)>>>,
    /// How many it refuses for now before it takes one.
    refuses: Arc<Mutex<u32>>,
    /// It takes requests with traces, but one span of each.
    rejects: Arc<AtomicBool>,
}

impl Collector {
    /// Listens on a free port; gives its address.
    async fn listen(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it has one");
        let collector = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let collector = collector.clone();
                let service = hyper::service::service_fn(move |request| collector.clone().take(request));
                let io = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
            }
        });
        format!("http://{address}/base")
    }

    async fn take(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let (head, body) = request.into_parts();
        assert_eq!(head.method, Method::POST);
        assert_eq!(head.headers["content-type"], "application/x-protobuf");
        assert_eq!(head.headers["api-key"], "k=1");
        let body = body.collect().await?.to_bytes();
        let refused = {
            let mut refuses = self.refuses.lock().expect("no panic");
            let refused = head.uri.path().ends_with("traces") && *refuses > 0;
            *refuses -= u32::from(refused);
            refused
        };
        let mut response = Response::new(Full::default());
        if head.uri.path().ends_with("traces") && self.rejects.load(Ordering::Relaxed) {
            // `partial_success { rejected_spans: 1 }`
            *response.body_mut() = Full::from(&[0x0a, 2, 0x08, 1][..]);
        }
        match refused {
            true => *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE,
            false => self.requests.lock().expect("no panic").push((head.uri.path().to_owned(), body)),
        }
        Ok(response)
    }

    /// What came at a path, decoded.
    fn decoded(&self, path: &str) -> Vec<Value> {
        let requests = self.requests.lock().expect("no panic").clone();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut files = Vec::new();
        for (number, (_, body)) in requests.iter().filter(|(at, _)| at == path).enumerate() {
            let file = folder.path().join(number.to_string());
            std::fs::write(&file, body).expect("a file");
            files.push(file);
        }
        if files.is_empty() {
            return Vec::new();
        }
        let kind = path.rsplit('/').next().unwrap_or_default();
        let mut python: Command = otlp_client::python(&["-c", DECODE, kind]);
        let output = python.args(&files).output().expect("python3 runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
    }
}

/// Requests as JSON. Fields that the library does not know are an error: it would drop them silently.
const DECODE: &str = r#"
import json, sys
from google.protobuf.json_format import MessageToDict
from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

def check(message):
    assert len(UnknownFieldSet(message)) == 0, message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if field.is_repeated else [value]:
                check(one)

kind = {"traces": ExportTraceServiceRequest, "metrics": ExportMetricsServiceRequest}[sys.argv[1]]
all = []
for path in sys.argv[2:]:
    message = kind.FromString(open(path, "rb").read())
    check(message)
    all.append(MessageToDict(message, preserving_proto_field_name=True))
json.dump(all, sys.stdout)
"#;

fn spans(requests: &[Value]) -> Vec<Value> {
    let resources =
        requests.iter().flat_map(|request| request["resource_spans"].as_array().into_iter().flatten());
    let scopes = resources.flat_map(|resource| resource["scope_spans"].as_array().into_iter().flatten());
    scopes.flat_map(|scope| scope["spans"].as_array().cloned().unwrap_or_default()).collect()
}

/// Attributes by name, each as the text of its value.
fn attributes(of: &Value) -> BTreeMap<String, String> {
    let all = of["attributes"].as_array().into_iter().flatten();
    let text = |value: &Value| {
        let value = value.as_object().and_then(|kinds| kinds.values().next()).cloned().unwrap_or_default();
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    };
    all.map(|a| (a["key"].as_str().unwrap_or_default().to_owned(), text(&a["value"]))).collect()
}

fn node(collector: &str) -> stratos_tests::NodeBuilder {
    Node::builder()
        .arg("--otlp-endpoint")
        .arg(collector)
        .env("OTEL_EXPORTER_OTLP_HEADERS", "api-key=k%3D1")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "500")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_sent_traces_and_metrics() {
    if !need_root("a_collector_is_sent_traces_and_metrics") {
        return;
    }
    let collector = Collector::default();
    // It is away for a moment: what it misses then comes later.
    *collector.refuses.lock().expect("no panic") = 2;
    let mut node = node(&collector.listen().await).start().await;
    node.deploy(&moody("hello")).await;
    node.invoke_ok("hello", "\"not sampled\"").await;
    let failed = node.invoke("hello", "\"throw\"").await.header("stratos-invocation").to_owned();
    let call = Call::new(Method::POST, "/v1/functions/hello/invoke", "\"sampled\"");
    let sampled = node.call(call.header("traceparent", PARENT)).await.header("stratos-invocation").to_owned();

    let all = until("both traces", async || {
        let all = spans(&collector.decoded("/base/v1/traces"));
        (all.iter().filter(|span| span["name"] == "gateway").count() == 2).then_some(all)
    })
    .await;
    let of = |id: &str| {
        let mut gateways = all.iter().filter(|span| span["name"] == "gateway");
        let gateway =
            gateways.find(|span| attributes(span)["faas.invocation_id"] == id).expect("it was sent");
        let within =
            all.iter().filter(|span| span["parent_span_id"] == gateway["span_id"]).collect::<Vec<_>>();
        (
            gateway.clone(),
            within.into_iter().map(|span| span["name"].as_str().unwrap_or_default().to_owned()).collect(),
        )
    };
    let (gateway, within): (Value, Vec<String>) = of(&failed);
    assert_eq!(
        (&gateway["kind"], &gateway["status"]["code"]),
        (&"SPAN_KIND_SERVER".into(), &"STATUS_CODE_ERROR".into())
    );
    assert_eq!(gateway["status"]["message"], "the function returned an error: TypeError: boom");
    for (name, value) in
        [("faas.coldstart", "false"), ("faas.trigger", "http"), ("error.type", "function_error")]
    {
        assert_eq!(attributes(&gateway)[name], value, "{gateway}");
    }
    for phase in ["receive", "queue", "dispatch", "handler", "respond", "post"] {
        assert!(within.iter().any(|name| name == phase), "{phase}: {within:?}");
    }
    // The same as the node tells.
    let told = trace(&node, &failed).await;
    let ids: Vec<_> = told.spans.iter().map(|span| span.span_id.clone()).collect();
    let base64 = |id: &Value| id.as_str().map(str::to_owned).unwrap_or_default();
    let sent: Vec<_> = all.iter().map(|span| hex(&base64(&span["span_id"]))).collect();
    assert!(ids.iter().all(|id| sent.contains(id)), "{ids:?} {sent:?}");

    let (gateway, _): (Value, Vec<String>) = of(&sampled);
    assert_eq!(hex(&base64(&gateway["trace_id"])), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(hex(&base64(&gateway["parent_span_id"])), "00f067aa0ba902b7");
    let resources = collector.decoded("/base/v1/traces");
    let resource = attributes(&resources[0]["resource_spans"][0]["resource"]);
    assert_eq!(
        (resource["faas.name"].as_str(), resource["faas.version"].as_str()),
        ("hello", "1"),
        "{resource:?}"
    );

    let metrics = until("all three in the metrics", async || {
        let requests = collector.decoded("/base/v1/metrics");
        let newest = requests.last()?["resource_metrics"][0]["scope_metrics"][0]["metrics"].clone();
        let named = |name: &str| newest.as_array()?.iter().find(|metric| metric["name"] == name).cloned();
        let durations = named("faas.invoke_duration")?["histogram"]["data_points"][0].clone();
        (durations["count"] == "3").then_some(newest)
    })
    .await;
    let names: Vec<_> =
        metrics.as_array().into_iter().flatten().filter_map(|metric| metric["name"].as_str()).collect();
    for name in ["faas.invocations", "faas.errors", "faas.timeouts", "faas.coldstarts", "faas.init_duration"]
    {
        assert!(names.contains(&name), "{names:?}");
    }
    assert_eq!(telemetry(&node).await.own.export_dropped, 0);

    // What it says that it has not taken is counted.
    collector.rejects.store(true, Ordering::Relaxed);
    node.invoke("hello", "\"throw\"").await;
    until("what was rejected", async || (telemetry(&node).await.own.export_dropped == 1).then_some(())).await;

    // The last ones are sent when the node stops.
    let last = node.invoke("hello", "\"throw\"").await.header("stratos-invocation").to_owned();
    node.stop();
    let all = spans(&collector.decoded("/base/v1/traces"));
    assert!(all.iter().any(|span| attributes(span).get("faas.invocation_id") == Some(&last)), "{all:?}");
}

/// Ids are bytes, which JSON has as base64.
fn hex(base64: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = base64.bytes().filter_map(|b| DIGITS.iter().position(|digit| *digit == b));
    let bits: String = digits.map(|digit| format!("{digit:06b}")).collect();
    let bytes = bits.as_bytes().chunks_exact(8).filter_map(|bits| std::str::from_utf8(bits).ok());
    bytes.filter_map(|bits| u8::from_str_radix(bits, 2).ok()).map(|byte| format!("{byte:02x}")).collect()
}

/// A collector that is never there costs no request anything, and what it misses is counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_harms_nobody() {
    if !need_root("a_collector_that_is_away_harms_nobody") {
        return;
    }
    // Nobody accepts here, and nobody will.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it has one");
    drop(taken);
    let node = node(&format!("http://{address}")).start().await;
    node.deploy(&moody("hello")).await;
    for _ in 0..5 {
        node.invoke("hello", "\"throw\"").await;
    }
    node.invoke_ok("hello", "1").await;
    assert_eq!(errors(&node, "hello").await.len(), 5);
    until("what was dropped", async || (telemetry(&node).await.own.export_dropped > 0).then_some(())).await;
}
