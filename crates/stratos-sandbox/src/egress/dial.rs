//! The far side of a connection: resolve, refuse, connect. In the host's network namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::EgressPolicy;

/// For resolving and connecting together.
const LIMIT: Duration = Duration::from_secs(10);
/// How long an address is tried alone before the next is tried beside it (RFC 8305, 5).
const HEAD_START: Duration = Duration::from_millis(250);
/// Addresses of one name tried, at most.
const MAX_ADDRESSES: usize = 8;

/// Where an instance wants to connect, by what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Host(String),
    Address(Ipv4Addr),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("the name cannot be resolved")]
    Resolve { source: io::Error },
    #[error("it leads to {address}, which no function may reach")]
    Denied { address: IpAddr },
    #[error("the name has no address")]
    NoAddress,
    #[error("no address answers")]
    Connect { source: io::Error },
    #[error("no answer within 10 seconds")]
    Timeout,
}

impl DialError {
    /// True when policy refused, false when the network failed.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Denied { .. })
    }
}

/// Connects to `target`, whose rule has been checked.
pub(super) async fn dial(policy: &EgressPolicy, target: &Target, port: u16) -> Result<TcpStream, DialError> {
    let connect = async {
        let addresses = match target {
            Target::Address(address) => permitted(policy, [SocketAddr::from((*address, port))])?,
            Target::Host(host) => {
                let resolved = tokio::net::lookup_host((host.as_str(), port)).await;
                permitted(policy, resolved.map_err(|source| DialError::Resolve { source })?)?
            }
        };
        race(addresses).await.map_err(|source| DialError::Connect { source })
    };
    timeout(LIMIT, connect).await.unwrap_or(Err(DialError::Timeout))
}

/// The addresses that are not denied, in the resolver's order of preference. The very addresses checked here are
/// connected to: a name that changes its answer afterwards gains nothing.
fn permitted(
    policy: &EgressPolicy,
    resolved: impl IntoIterator<Item = SocketAddr>,
) -> Result<Vec<SocketAddr>, DialError> {
    let mut permitted = Vec::new();
    let mut denied = None;
    for address in resolved {
        match policy.denies(address.ip()) {
            true => denied = Some(address.ip()),
            false => permitted.push(address),
        }
    }
    permitted.truncate(MAX_ADDRESSES);
    match (permitted.is_empty(), denied) {
        (false, _) => Ok(permitted),
        (true, Some(address)) => Err(DialError::Denied { address }),
        (true, None) => Err(DialError::NoAddress),
    }
}

/// The first address to answer. Each has a head start on the next, which ends at once when it fails.
async fn race(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut remaining = addresses.into_iter();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        let started = remaining.next().map(|address| attempts.spawn(TcpStream::connect(address))).is_some();
        let ended = match started {
            true => tokio::select! {
                ended = attempts.join_next() => ended,
                () = sleep(HEAD_START) => continue,
            },
            false => attempts.join_next().await,
        };
        match ended {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) => failure = error,
            Some(Err(error)) => failure = error.into(),
            None => return Err(failure),
        }
    }
}
