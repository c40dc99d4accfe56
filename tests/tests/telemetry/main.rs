//! What a node keeps about invocations, and how it is told: summaries, traces, metrics, contexts of callers.

mod context;
mod kept;
mod otlp;
mod phases;
mod prometheus;
mod shown;

use std::time::{Duration, Instant};

use http::Method;
use stratos_api::InvocationRecord;
use stratos_api::client::Call;
use stratos_api::telemetry::{FunctionTelemetry, FunctionsTelemetry, InvocationTrace};
use stratos_tests::{Node, Package};

/// How long anything that must come is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A handler that does what its event says.
fn moody(name: &str) -> Package {
    let code = r#"
        export const handler = async (event) => {
            if (event === 'throw') throw new TypeError('boom');
            if (event === 'exit') process.exit(7);
            if (event === 'slow') await new Promise((done) => setTimeout(done, 300));
            if (event === 'hang') await new Promise((done) => setTimeout(done, 60000));
            return [event, process.env._X_AMZN_TRACE_ID ?? null];
        };
    "#;
    Package::node(name, code)
}

async fn get<T: serde::de::DeserializeOwned>(node: &Node, path: &str) -> T {
    let answer = node.call(Call::new(Method::GET, path, "")).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{path}: {e}: {}", answer.text()))
}

async fn telemetry(node: &Node) -> FunctionsTelemetry {
    get(node, "/v1/telemetry/functions?minutes=60").await
}

/// What is kept of a function.
async fn function(node: &Node, name: &str) -> FunctionTelemetry {
    let all = telemetry(node).await.functions;
    all.into_iter().find(|function| function.function == name).unwrap_or_else(|| panic!("nothing of {name}"))
}

async fn errors(node: &Node, name: &str) -> Vec<InvocationRecord> {
    get(node, &format!("/v1/functions/{name}/invocations?errors=true&limit=1000")).await
}

async fn trace(node: &Node, id: &str) -> InvocationTrace {
    get(node, &format!("/v1/invocations/{id}/trace")).await
}

/// Looks until it is as it should be.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
