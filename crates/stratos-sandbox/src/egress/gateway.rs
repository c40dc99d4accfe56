//! The gateway of one instance: its sockets, served.

use std::error::Error;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tracing::Instrument;

use super::dial::{Lookups, Target, dial};
use super::names::Names;
use super::relay::{relay, reset};
use super::{EgressError, EgressPolicy, MAX_CONNECTIONS, dns, netns};

/// Refusals, and as many failures, that are logged for the operator to see; later ones of the same instance only at
/// debug level, so that a function cannot fill the log.
const LOGGED_REFUSALS: u64 = 100;
/// A DNS query over UDP, at most: what EDNS agrees on in practice.
const MAX_QUERY: usize = 4096;

/// Connects one instance to what its policy allows. Ends when dropped: open connections break, the instance's
/// interface and the gateway namespace vanish.
#[derive(Debug)]
pub struct EgressGateway {
    server: AbortHandle,
    shared: Arc<Shared>,
}

/// What went through a gateway so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EgressStats {
    /// Connections made to the outside.
    pub connections: u64,
    /// Connections and names that the policy refused. Those to a port that no rule opens are refused by the kernel
    /// and not counted.
    pub refused: u64,
    /// Allowed connections that failed: name unknown, nobody answers, over the limit of connections.
    pub failed: u64,
    /// Bytes that the instance sent.
    pub sent_bytes: u64,
    /// Bytes that the instance received.
    pub received_bytes: u64,
}

impl EgressGateway {
    /// Connects the network namespace `instance_netns`, which must hold no interface but loopback, and serves it on
    /// `runtime`, whose threads must be in the host's network namespace. Blocks for a few milliseconds; not for an
    /// async task. Log lines carry the caller's current span.
    ///
    /// # Errors
    /// Without CAP_NET_ADMIN and CAP_SYS_ADMIN, or when namespaces or descriptors run out. The instance must not be used
    /// then: its network may be half made.
    pub fn start(
        instance_netns: BorrowedFd<'_>,
        policy: Arc<EgressPolicy>,
        runtime: &Handle,
    ) -> Result<Self, EgressError> {
        let sockets = netns::connect(instance_netns, &policy)?;
        let register = |source| EgressError::System { operation: "register the gateway's sockets", source };
        let _context = runtime.enter();
        let mut listeners = Vec::with_capacity(sockets.listeners.len());
        for listener in sockets.listeners {
            listeners.push(TcpListener::from_std(listener).map_err(register)?);
        }
        let dns = UdpSocket::from_std(sockets.dns).map_err(register)?;
        let shared = Arc::new(Shared {
            names: Mutex::new(Names::new(&policy)),
            policy,
            slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            lookups: Lookups::new(),
            counters: Counters::default(),
        });
        let server = runtime.spawn(serve(shared.clone(), listeners, dns).in_current_span());
        Ok(Self { server: server.abort_handle(), shared })
    }

    /// What went through so far.
    pub fn stats(&self) -> EgressStats {
        let Counters { connections, refused, failed, sent_bytes, received_bytes } = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EgressStats {
            connections: read(connections),
            refused: read(refused),
            failed: read(failed),
            sent_bytes: read(sent_bytes),
            received_bytes: read(received_bytes),
        }
    }
}

impl Drop for EgressGateway {
    fn drop(&mut self) {
        // The server owns every task, and those own every socket.
        self.server.abort();
    }
}

#[derive(Debug)]
struct Shared {
    policy: Arc<EgressPolicy>,
    names: Mutex<Names>,
    slots: Arc<Semaphore>,
    lookups: Lookups,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

async fn serve(shared: Arc<Shared>, listeners: Vec<TcpListener>, dns: UdpSocket) {
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_names(shared.clone(), dns).in_current_span());
    for listener in listeners {
        tasks.spawn(accept(shared.clone(), listener).in_current_span());
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "part of an egress gateway ended");
        }
    }
}

async fn serve_names(shared: Arc<Shared>, socket: UdpSocket) {
    let mut query = vec![0; MAX_QUERY];
    loop {
        let served = async {
            let (len, client) = socket.recv_from(&mut query).await?;
            if let Some(answer) = dns::answer(&query[..len], |name| shared.resolve(name)) {
                socket.send_to(&answer, client).await?;
            }
            Ok::<(), io::Error>(())
        };
        if let Err(error) = served.await {
            // The client has gone, or its queue is full: it will ask again if it still wants to know.
            tracing::debug!(%error, "a DNS query of an instance was not answered");
        }
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    // Owned here, so that connections end with the listener.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match shared.slots.clone().try_acquire_owned() {
                    Ok(slot) => {
                        let shared = shared.clone();
                        let serve = async move {
                            connection(&shared, stream).await;
                            drop(slot);
                        };
                        connections.spawn(serve.in_current_span());
                    }
                    Err(_) => {
                        shared.counters.failed.fetch_add(1, Ordering::Relaxed);
                        tracing::debug!(limit = MAX_CONNECTIONS, "too many connections of an instance");
                        reset(stream);
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of an instance");
                    // Out of descriptors, most likely: without a pause this would be a busy loop.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "an egress connection broke off");
                }
            }
        }
    }
}

/// Serves one accepted connection. Its local address is what the instance wanted to reach.
async fn connection(shared: &Shared, near: TcpStream) {
    let Ok(SocketAddr::V4(wanted)) = near.local_addr() else { return reset(near) };
    let Some(target) = shared.target(wanted) else { return reset(near) };
    let port = wanted.port();
    let far = match dial(&shared.policy, &shared.lookups, &target, port).await {
        Ok(far) => far,
        Err(error) if error.is_refusal() => {
            shared.refuse(&target, port, &error.to_string());
            return reset(near);
        }
        Err(error) => {
            let before = shared.counters.failed.fetch_add(1, Ordering::Relaxed);
            let cause = error.source().map(ToString::to_string);
            if before < LOGGED_REFUSALS {
                tracing::info!(?target, port, %error, cause, "egress failed");
            } else {
                tracing::debug!(?target, port, %error, cause, "egress failed");
            }
            return reset(near);
        }
    };
    shared.counters.connections.fetch_add(1, Ordering::Relaxed);
    match relay(near, far).await {
        Ok((sent, received)) => {
            shared.counters.sent_bytes.fetch_add(sent, Ordering::Relaxed);
            shared.counters.received_bytes.fetch_add(received, Ordering::Relaxed);
        }
        Err(error) => tracing::debug!(?target, port, %error, "an egress connection broke"),
    }
}

impl Shared {
    /// The synthetic address of `name`, or `None` after noting that it was refused.
    fn resolve(&self, name: &str) -> Option<std::net::Ipv4Addr> {
        let address = self.names().address(name);
        if address.is_none() {
            self.refuse(&Target::Host(name.to_owned()), 0, "no egress rule names this host");
        }
        address
    }

    /// What `wanted` stands for, or `None` after noting that no rule lets it through.
    fn target(&self, wanted: SocketAddrV4) -> Option<Target> {
        let (address, port) = (*wanted.ip(), wanted.port());
        let name = self.names().name(address).map(str::to_owned);
        let (target, rule) = match name {
            Some(name) => {
                let rule = self.policy.rule_for_host(&name, port);
                (Target::Host(name), rule)
            }
            None => (Target::Address(address), self.policy.rule_for_address(address, port)),
        };
        if rule.is_none() {
            self.refuse(&target, port, "no egress rule opens this port there");
        }
        rule.map(|_| target)
    }

    fn refuse(&self, target: &Target, port: u16, reason: &str) {
        let before = self.counters.refused.fetch_add(1, Ordering::Relaxed);
        if before < LOGGED_REFUSALS {
            tracing::info!(?target, port, reason, "egress refused");
        } else {
            tracing::debug!(?target, port, reason, "egress refused");
        }
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Names> {
        // A panic cannot leave the table half changed in a way that matters: it only grows.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
