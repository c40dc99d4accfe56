//! The far side of a connection: resolve, refuse, connect. In the host's network namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::EgressPolicy;

/// For resolving and connecting together.
const LIMIT: Duration = Duration::from_secs(10);
/// How long an address is tried alone before the next is tried beside it (RFC 8305, 5).
const HEAD_START: Duration = Duration::from_millis(250);
/// Addresses of one name tried, at most.
const MAX_ADDRESSES: usize = 8;
/// Names looked up at the same time on this node, at most. Each takes a thread of the pool that instance starts need,
/// too, until the C library gives up, which can be long after nobody waits for the answer any more.
static NODE_LOOKUPS: Semaphore = Semaphore::const_new(64);
/// The same for one gateway, so that one function with slow names cannot take them all.
const GATEWAY_LOOKUPS: usize = 8;

/// The lookups of one gateway.
#[derive(Debug)]
pub(super) struct Lookups(Arc<Semaphore>);

impl Lookups {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(GATEWAY_LOOKUPS)))
    }

    /// Runs `lookup`, which may block, when it is its turn. Its place is free again when its thread is, not when the
    /// caller stops waiting.
    async fn run<T: Send + 'static>(
        &self,
        lookup: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let of_gateway = Arc::clone(&self.0).acquire_owned().await.map_err(io::Error::other)?;
        let of_node = NODE_LOOKUPS.acquire().await.map_err(io::Error::other)?;
        let in_place = move || {
            let result = lookup();
            drop((of_gateway, of_node));
            result
        };
        tokio::task::spawn_blocking(in_place).await.map_err(io::Error::other)?
    }

    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let host = host.to_owned();
        self.run(move || Ok((host.as_str(), port).to_socket_addrs()?.collect())).await
    }
}

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
pub(super) async fn dial(
    policy: &EgressPolicy,
    lookups: &Lookups,
    target: &Target,
    port: u16,
) -> Result<TcpStream, DialError> {
    let connect = async {
        let addresses = match target {
            Target::Address(address) => permitted(policy, [SocketAddr::from((*address, port))])?,
            Target::Host(host) => {
                let resolved = lookups.addresses(host, port).await;
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn a_lookup_that_nobody_waits_for_keeps_its_place() {
        let lookups = Lookups::new();
        let mut gates = Vec::new();
        for free in (0..GATEWAY_LOOKUPS).rev() {
            let (gate, closed) = channel::<()>();
            let slow = lookups.run(move || closed.recv().map_err(io::Error::other));
            assert!(timeout(Duration::ZERO, slow).await.is_err());
            assert_eq!(lookups.0.available_permits(), free);
            gates.push(gate);
        }
        gates.pop();
        assert_eq!(lookups.run(|| Ok(7)).await.unwrap(), 7);
        let addresses = async { Lookups::new().addresses("127.0.0.1", 80).await.unwrap() };
        assert_eq!(addresses.await, [SocketAddr::from(([127, 0, 0, 1], 80))]);
    }
}
