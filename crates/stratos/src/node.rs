//! Talking to a node: requests, streams of JSON lines, and a limit on how long connecting may take.

use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stratos_api::FileBody;
use stratos_api::client::{Call, Client, ClientError, Connection, Endpoint};
use stratos_types::FunctionName;

use crate::exit::Exit;
use crate::failure::{Failure, Result};

/// Longest time for a connection to come about. A node on the other side of the world needs a tenth of this.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Longest line of a stream; a log line is far shorter, a deploy's last message not much longer.
const MAX_LINE: usize = 16 << 20;

/// How to reach a node, as given on the command line or in the environment.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct NodeArgs {
    /// Address of the node: unix:///PATH, http://HOST:PORT or https://HOST:PORT
    /// [default: unix:///run/stratos/api.sock]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "STRATOS_NODE",
        hide_env_values = true,
        help_heading = "Node"
    )]
    pub(crate) node: Option<Endpoint>,
    /// Token that the node asks for on TCP
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "STRATOS_TOKEN",
        hide_env_values = true,
        help_heading = "Node"
    )]
    token: Option<String>,
    /// File that holds the token
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "token", help_heading = "Node")]
    token_file: Option<PathBuf>,
    /// PEM file with the certificates to trust for https
    #[arg(long, global = true, value_name = "FILE", help_heading = "Node")]
    ca: Option<PathBuf>,
}

impl NodeArgs {
    /// The node these arguments name.
    pub(crate) fn open(&self) -> Result<Node> {
        let from_file = self.token_file.as_ref().map(|file| {
            std::fs::read_to_string(file).map_err(|e| {
                Failure::new(format!("cannot read the token file {}", file.display())).because(&e)
            })
        });
        let token = from_file.transpose()?.or_else(|| self.token.clone());
        let client = Client::new(self.node.clone().unwrap_or_default(), token.as_deref())?;
        let client = match &self.ca {
            Some(ca) => client.trust(ca)?,
            None => client,
        };
        Ok(Node { client })
    }
}

/// A node that requests can be sent to.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    client: Client,
}

/// The path of a function's resource: the template with its name put in.
pub(crate) fn path_of(template: &str, name: &FunctionName) -> String {
    template.replace("{name}", name.as_str())
}

impl Node {
    /// The node on a socket, without a token.
    pub(crate) fn at_socket(socket: PathBuf) -> Result<Self> {
        Ok(Self { client: Client::new(Endpoint::Unix(socket), None)? })
    }

    /// Where the node is.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        self.client.endpoint()
    }

    /// Sends a request; an error status is not yet an error.
    pub(crate) async fn send(&self, call: Call) -> Result<Response<Incoming>> {
        Ok(self.connect().await?.send(&self.client, call).await?)
    }

    async fn connect(&self) -> Result<Connection> {
        let connect = tokio::time::timeout(CONNECT_LIMIT, self.client.connect());
        let connection = connect.await.map_err(|_| {
            let source = std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                format!("no connection after {} s", CONNECT_LIMIT.as_secs()),
            );
            ClientError::Connect { endpoint: self.endpoint().clone(), source }
        })??;
        Ok(connection)
    }

    /// Sends a request and gives the answer's body whole; an error status is an error.
    pub(crate) async fn fetch(&self, call: Call) -> Result<Bytes> {
        let response = self.send(call).await?;
        Ok(self.client.collect(response).await?.1)
    }

    /// Sends a request and reads the JSON it is answered with.
    pub(crate) async fn json<T: DeserializeOwned>(&self, call: Call) -> Result<T> {
        decode(&self.fetch(call).await?)
    }

    /// A GET that is answered with JSON.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: impl Into<String>) -> Result<T> {
        self.json(Call::new(Method::GET, path, Bytes::new())).await
    }

    /// A POST of JSON that is answered with JSON.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: impl Into<String>,
        body: &impl Serialize,
    ) -> Result<T> {
        let body =
            serde_json::to_vec(body).map_err(|e| Failure::new("cannot form the request").because(&e))?;
        self.json(Call::new(Method::POST, path, body).header("content-type", "application/json")).await
    }

    /// Sends a request that is answered with JSON, one document a line.
    pub(crate) async fn stream(&self, call: Call) -> Result<Lines> {
        let response = self.send(call).await?;
        self.lines(response).await
    }

    /// The same of a request that sends a file.
    pub(crate) async fn stream_file(&self, call: Call, file: FileBody) -> Result<Lines> {
        let response = self.connect().await?.send_file(&self.client, call, file).await?;
        self.lines(response).await
    }

    async fn lines(&self, response: Response<Incoming>) -> Result<Lines> {
        if !response.status().is_success() {
            let failed = self.client.collect(response).await;
            return Err(
                failed.map_or_else(Failure::from, |_| Failure::new("an error status is always an error"))
            );
        }
        Ok(Lines { endpoint: self.endpoint().clone(), body: response.into_body(), buffer: BytesMut::new() })
    }

    /// Reads an answer's body whole; an error status is an error.
    pub(crate) async fn collect(&self, response: Response<Incoming>) -> Result<Bytes> {
        Ok(self.client.collect(response).await?.1)
    }
}

/// The lines of a streamed answer.
pub(crate) struct Lines {
    endpoint: Endpoint,
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    /// The next line's document; `None` at the end.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return decode(&line).map(Some);
            }
            if self.buffer.len() > MAX_LINE {
                return Err(Failure {
                    exit: Exit::Platform,
                    ..Failure::new("the node sent a line without an end")
                });
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
                Some(Err(source)) => {
                    return Err(ClientError::Broken { endpoint: self.endpoint.clone(), source }.into());
                }
                None if self.buffer.trim_ascii().is_empty() => return Ok(None),
                None => return decode(&self.buffer.split()).map(Some),
            }
        }
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| {
        let text: String = String::from_utf8_lossy(bytes).chars().take(200).collect();
        let failure = Failure::new(format!(
            "the node's answer is not what this version of stratos understands: {text}"
        ));
        Failure { exit: Exit::Platform, ..failure }.because(&e)
    })
}
