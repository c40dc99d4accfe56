//! The gateway namespace: made, connected to the instance's, and filled with listening sockets.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::BorrowedFd;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use stratos_sys::netlink::{Hop, Netlink, NetlinkError};
use stratos_sys::netns::NetNs;

use super::{EgressError, EgressPolicy, GATEWAY, INSTANCE, LINK_PREFIX, RESERVED};

/// Interface names. Nobody sees the gateway's; the instance's is what programs expect.
const GATEWAY_LINK: &str = "gw0";
const INSTANCE_LINK: &str = "eth0";
const DNS_PORT: u16 = 53;

/// The gateway's sockets, not blocking. They are all that keeps its namespace alive: closing the last one
/// destroys it, and the instance's interface with it.
pub(super) struct Sockets {
    pub(super) listeners: Vec<TcpListener>,
    pub(super) dns: UdpSocket,
}

/// Makes a gateway namespace for `policy` and connects `instance`, which must be new, to it.
///
/// Works on a thread of its own, which ends inside the instance's namespace: no thread of the caller ever leaves the
/// host's.
pub(super) fn connect(instance: BorrowedFd<'_>, policy: &EgressPolicy) -> Result<Sockets, EgressError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("egress-setup".into())
            .stack_size(256 * 1024)
            .spawn_scoped(scope, || set_up(instance, policy))
            .map_err(|source| EgressError::System { operation: "start a thread", source })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn set_up(instance: BorrowedFd<'_>, policy: &EgressPolicy) -> Result<Sockets, EgressError> {
    let system = |operation| move |source| EgressError::System { operation, source };
    let gateway = NetNs::create().map_err(system("make the gateway namespace"))?;
    let sockets = gateway
        .run(|| {
            configure_gateway(instance, policy).map_err(|source| EgressError::Network { source })?;
            listen(policy)
        })
        .map_err(system("enter the gateway namespace"))??;
    move_into_link_name_space(instance, Some(LinkNameSpaceType::Network))
        .map_err(|errno| system("enter the instance's namespace")(errno.into()))?;
    configure_instance(policy).map_err(|source| EgressError::Network { source })?;
    Ok(sockets)
}

/// Runs in the gateway namespace.
fn configure_gateway(instance: BorrowedFd<'_>, policy: &EgressPolicy) -> Result<(), NetlinkError> {
    let mut netlink = Netlink::open()?;
    netlink.add_veth(GATEWAY_LINK, INSTANCE_LINK, instance)?;
    let (link, loopback) = (netlink.index(GATEWAY_LINK)?, netlink.index("lo")?);
    netlink.add_address(link, GATEWAY, LINK_PREFIX)?;
    netlink.link_up(link)?;
    // These hold the instance's address, too. It stays the address of a neighbour, because the link's own network is
    // longer, and the kernel looks local and main routes up as one table where no policy rules are set.
    netlink.add_route(RESERVED.0, RESERVED.1, Hop::Local, loopback)?;
    for (network, prefix) in policy.networks() {
        netlink.add_route(network, prefix, Hop::Local, loopback)?;
    }
    Ok(())
}

/// Runs in the instance's namespace.
fn configure_instance(policy: &EgressPolicy) -> Result<(), NetlinkError> {
    let mut netlink = Netlink::open()?;
    let link = netlink.index(INSTANCE_LINK)?;
    netlink.add_address(link, INSTANCE, LINK_PREFIX)?;
    netlink.link_up(link)?;
    netlink.add_route(RESERVED.0, RESERVED.1, Hop::Via(GATEWAY), link)?;
    for (network, prefix) in policy.networks() {
        netlink.add_route(network, prefix, Hop::Via(GATEWAY), link)?;
    }
    Ok(())
}

/// Runs in the gateway namespace.
fn listen(policy: &EgressPolicy) -> Result<Sockets, EgressError> {
    let at = |address: SocketAddrV4| move |source| EgressError::Listen { address, source };
    let mut listeners = Vec::new();
    for port in policy.ports() {
        let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        let listener = TcpListener::bind(address).map_err(at(address))?;
        listener.set_nonblocking(true).map_err(at(address))?;
        listeners.push(listener);
    }
    let address = SocketAddrV4::new(GATEWAY, DNS_PORT);
    let dns = UdpSocket::bind(address).map_err(at(address))?;
    dns.set_nonblocking(true).map_err(at(address))?;
    Ok(Sockets { listeners, dns })
}
