//! The built image in a virtual machine: what StratOS does as an operating system.
//!
//! The image comes from the cache (`stratos image build --debug`); without one these tests are skipped by name on a
//! developer's machine and fail in CI. Emulated machines are slow, so those that need nothing of their own begin with one
//! snapshot, and one machine runs at a time.

mod commands;
mod damage;
mod files;
mod kernels;
mod limits;
mod owner;
mod power;
mod restored;
mod services;

use http::Method;
use serde::de::DeserializeOwned;
use stratos_api::client::Call;
use stratos_api::node::NodeStatus;
use stratos_api::path;
use stratos_tests::{Api, Package, package};

/// The native example, under its own name.
fn native() -> Package {
    let program = std::fs::read(package::native_example().expect("it builds")).expect("it is there");
    Package::folder("examples/hello-native").executable("bootstrap", program)
}

const EVENT: &str = r#"{"name":"machine"}"#;

/// The native example answers.
async fn greets(node: &Api) {
    let answer = node.invoke_ok("hello-native", EVENT).await;
    assert_eq!(answer["message"], "Hello, machine!", "{answer}");
}

/// A resource of the API.
async fn get<T: DeserializeOwned>(node: &Api, path: &str) -> T {
    let answer = node.call(Call::new(Method::GET, path, "")).await;
    assert!(answer.status.is_success(), "{path}: {}", answer.text());
    serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{path}: {e}: {}", answer.text()))
}

/// The node as a machine.
async fn status(node: &Api) -> NodeStatus {
    get(node, path::NODE).await
}

/// How often PID 1 has started the agent again.
async fn restarts(node: &Api) -> u32 {
    let services = status(node).await.init.expect("PID 1 runs this machine").services;
    services.iter().find(|service| service.name == "stratosd").expect("the agent is a service").restarts
}
