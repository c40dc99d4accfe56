//! A node's TCP side: where it listens, and its token.

use std::net::SocketAddr;

use stratos_api::client::{Client, Endpoint};

use crate::Node;

/// The arguments that let a node listen on a free port of loopback.
pub const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

/// Starts a node that listens on a free port of loopback, with more arguments.
pub async fn start(arguments: &[&str]) -> Node {
    LISTEN
        .iter()
        .chain(arguments)
        .fold(Node::builder(), |builder, argument| builder.arg(*argument))
        .start()
        .await
}

/// Where the node listens.
///
/// # Panics
/// When it does not listen on TCP.
pub fn address(node: &Node) -> SocketAddr {
    let log = node.log();
    // The last one counts: the log goes on over restarts.
    let said = log.rsplit_once("and on ").and_then(|(_, rest)| rest.split_once(';'));
    said.and_then(|(address, _)| address.parse().ok()).unwrap_or_else(|| panic!("no TCP address in\n{log}"))
}

/// The node's token.
///
/// # Panics
/// When it has none.
pub fn token(node: &Node) -> String {
    let file = node.dir().join("state/token");
    let token = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    token.trim().to_owned()
}

/// A client of the node over TCP without TLS.
///
/// # Panics
/// When the token is no header value.
pub fn client(node: &Node, token: Option<&str>) -> Client {
    Client::new(Endpoint::Http(address(node).to_string()), token).expect("a token that a header can carry")
}
