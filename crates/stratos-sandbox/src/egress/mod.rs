//! Egress: what an instance may connect to, and the gateway that connects for it.
//!
//! An instance's network namespace has no route to anything. With egress rules it gets an interface to a second
//! namespace of its own, the *gateway namespace*, which is connected to nothing else: no packet is ever forwarded,
//! and the host's own network configuration (interfaces, routes, firewall) stays untouched. The gateway namespace
//! takes every allowed address as its own; the agent accepts the connection there, decides by its destination, and
//! makes a second connection from the host's namespace. What is not allowed either has no route, or is reset.
//!
//! Host names become synthetic addresses: the gateway answers DNS itself, only for names of the policy, and resolves
//! the real name when a connection is made. So a name's rule holds whatever its addresses are, and an instance never
//! learns them. Addresses that lead back into the node are refused after resolution, at every connection.
//!
//! TCP over IPv4 towards the instance; the far side may be IPv6.

mod denied;
mod dial;
pub mod dns;
mod gateway;
mod names;
mod netns;
mod policy;
mod range;
mod relay;

pub use denied::Denied;
pub use gateway::{EgressGateway, EgressStats};
pub use policy::EgressPolicy;
pub use range::{IpRange, IpRangeError};

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use stratos_sys::netlink::NetlinkError;

/// The gateway's address on the link to the instance; also the instance's DNS server.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The instance's address on that link.
pub const INSTANCE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// Prefix length of the link's network.
const LINK_PREFIX: u8 = 30;
/// The network set aside for benchmarks (RFC 2544), which no real service uses: link and synthetic addresses.
const RESERVED: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 15);
/// Distinct TCP ports of one policy, at most: each takes a descriptor per instance.
pub const MAX_PORTS: usize = stratos_types::spec::MAX_EGRESS_PORTS;
/// Host names of one policy, and those a gateway open to any host answers for, at most.
pub const MAX_NAMES: usize = 4096;
/// Connections of one gateway at a time, at most.
pub const MAX_CONNECTIONS: usize = 512;

/// Why egress cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The rules cover too many ports.
    #[error("the egress rules open {ports} ports, over the limit of {MAX_PORTS}")]
    TooManyPorts {
        /// Distinct ports of all rules.
        ports: usize,
    },
    /// The rules name too many hosts.
    #[error("the egress rules name {hosts} hosts, over the limit of {MAX_NAMES}")]
    TooManyHosts {
        /// Distinct names of all rules.
        hosts: usize,
    },
    /// A network lies within the addresses the gateway uses itself.
    #[error("egress to {network}/{prefix} is impossible: 198.18.0.0/15 is used by the gateway itself")]
    Reserved {
        /// The rule's network.
        network: Ipv4Addr,
        /// Its prefix length.
        prefix: u8,
    },
    /// The connection between instance and gateway cannot be configured.
    #[error("cannot connect the instance to its egress gateway")]
    Network {
        /// What failed.
        source: NetlinkError,
    },
    /// A namespace, thread or descriptor operation failed.
    #[error("cannot {operation}")]
    System {
        /// What was attempted.
        operation: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A listener of the gateway cannot be made.
    #[error("cannot listen on {address} in the gateway namespace")]
    Listen {
        /// The address.
        address: SocketAddrV4,
        /// The kernel's answer.
        source: io::Error,
    },
}
