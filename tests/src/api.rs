//! What tests ask of a node, wherever it runs.

use std::path::PathBuf;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use stratos_api::client::{Call, Client, ClientError, Connection};
use stratos_api::{ApiError, InvocationRecord, VersionInfo};

use crate::Package;

/// A node's API, and the log that tells why it failed.
#[derive(Debug)]
pub struct Api {
    client: Client,
    log: PathBuf,
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value; empty when it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// The error in the body.
    ///
    /// # Panics
    /// When it holds none.
    pub fn error(&self) -> ApiError {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

impl Api {
    /// The API of a node whose log is in this file.
    pub fn new(client: Client, log: PathBuf) -> Self {
        Self { client, log }
    }

    /// A client of this node.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What the node wrote to its log.
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into_owned())
    }

    /// Sends any request.
    ///
    /// # Panics
    /// When no answer comes.
    pub async fn call(&self, call: Call) -> Answer {
        self.try_call(call).await.unwrap_or_else(|e| panic!("{e:?}\n{}", self.log()))
    }

    /// Sends any request.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn try_call(&self, call: Call) -> Result<Answer, ClientError> {
        let mut connection = self.client.connect().await?;
        self.call_on(&mut connection, call).await
    }

    /// Sends any request on a connection that is kept.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn call_on(&self, connection: &mut Connection, call: Call) -> Result<Answer, ClientError> {
        let response = connection.send(&self.client, call).await?;
        let (head, body) = response.into_parts();
        let broken = |source| ClientError::Broken { endpoint: self.client.endpoint().clone(), source };
        let body = body.collect().await.map_err(broken)?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// Deploys a package; gives whatever the node answers.
    pub async fn try_deploy(&self, package: &Package) -> Answer {
        self.call(Call::new(Method::POST, "/v1/functions", package.archive())).await
    }

    /// Deploys a package.
    ///
    /// # Panics
    /// When the node refuses it.
    pub async fn deploy(&self, package: &Package) -> VersionInfo {
        let answer = self.try_deploy(package).await;
        assert!(answer.status.is_success(), "deploy: {}\n{}", answer.text(), self.log());
        serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{e}: {}", answer.text()))
    }

    /// Invokes a function.
    pub async fn invoke(&self, name: &str, payload: impl Into<Bytes>) -> Answer {
        self.call(Call::new(Method::POST, format!("/v1/functions/{name}/invoke"), payload)).await
    }

    /// Invokes a function that must answer 200; gives the answer's JSON.
    ///
    /// # Panics
    /// When it fails.
    pub async fn invoke_ok(&self, name: &str, payload: impl Into<Bytes>) -> Value {
        let answer = self.invoke(name, payload).await;
        assert_eq!(answer.status, 200, "{}\n{}", answer.text(), self.log());
        answer.json()
    }

    /// The last invocations of a function, newest first.
    pub async fn records(&self, name: &str) -> Vec<InvocationRecord> {
        let answer = self.call(Call::new(Method::GET, format!("/v1/functions/{name}/invocations"), "")).await;
        serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{e}: {}", answer.text()))
    }
}
