//! The few rtnetlink requests that connect two network namespaces: interfaces, addresses, routes.
//!
//! A [`Netlink`] socket acts on the namespace its thread was in when it was opened, wherever the thread goes
//! later. IPv4 only. Every request waits for the kernel's answer; requests here are answered at once.

use std::ffi::CString;
use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// A request the kernel refused, or a socket that could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}")]
pub struct NetlinkError {
    /// What was asked for, with its names and addresses.
    pub operation: String,
    /// The kernel's answer.
    pub source: io::Error,
}

/// Where packets for a network go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// To a router on a directly connected network.
    Via(Ipv4Addr),
    /// To a router that the interface reaches directly although no address of it says so.
    OnLink(Ipv4Addr),
    /// To this namespace itself: it takes every address of the network for its own ("AnyIP").
    Local,
}

/// A route socket of one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

// Message and attribute numbers from the kernel's uapi that libc lacks or names otherwise.
const VETH_INFO_PEER: u16 = 1;
const ROUTE_ON_LINK: u32 = 4;
const NLM_CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
const NLM_REPLACE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
/// Bytes of a message header, of a link message and of an attribute header.
const HEADER: usize = 16;
const LINK_MESSAGE: usize = 16;

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel has no rtnetlink or no descriptors are left.
    pub fn open() -> Result<Self, NetlinkError> {
        let open = || {
            let socket = rustix::net::socket_with(
                AddressFamily::NETLINK,
                SocketType::RAW,
                SocketFlags::CLOEXEC,
                None, // NETLINK_ROUTE is protocol 0
            )?;
            rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
            Ok(socket)
        };
        let socket = open().map_err(|errno: Errno| error("open a route socket", errno))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The index of the interface `name`.
    ///
    /// # Errors
    /// `ENODEV` when there is none.
    pub fn index(&self, name: &str) -> Result<u32, NetlinkError> {
        rustix::net::netdevice::name_to_index(&self.socket, name)
            .map_err(|errno| error(&format!("find interface {name}"), errno))
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// `ENODEV`, or `EPERM` without CAP_NET_ADMIN over the namespace.
    pub fn link_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0);
        message.link(index, libc::IFF_UP as u32);
        self.request(message, || format!("set interface {index} up"))
    }

    /// Makes a pair of connected interfaces: `name` here and `peer` in the namespace `peer_netns`. Both are
    /// down and have no address.
    ///
    /// # Errors
    /// `EEXIST` when a name is taken, `EPERM` without CAP_NET_ADMIN over both namespaces, `EOPNOTSUPP` when
    /// the kernel has no veth.
    pub fn add_veth(
        &mut self,
        name: &str,
        peer: &str,
        peer_netns: BorrowedFd<'_>,
    ) -> Result<(), NetlinkError> {
        let operation = || format!("make the interface pair {name}, {peer}");
        let c_name = |name: &str| CString::new(name).map_err(|_| error(&operation(), Errno::INVAL));
        let (c_name, c_peer) = (c_name(name)?, c_name(peer)?);
        let mut message = Message::new(libc::RTM_NEWLINK, NLM_CREATE);
        message.link(0, 0);
        message.attribute(libc::IFLA_IFNAME, c_name.as_bytes_with_nul());
        message.nest(libc::IFLA_LINKINFO, |message| {
            message.attribute(libc::IFLA_INFO_KIND, b"veth");
            message.nest(libc::IFLA_INFO_DATA, |message| {
                message.nest(VETH_INFO_PEER, |message| {
                    message.link(0, 0);
                    message.attribute(libc::IFLA_IFNAME, c_peer.as_bytes_with_nul());
                    message.attribute(libc::IFLA_NET_NS_FD, &peer_netns.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.request(message, operation)
    }

    /// Gives an interface an address with the prefix length of its network.
    ///
    /// # Errors
    /// `EEXIST` when it has it already, `EINVAL` for a prefix over 32.
    pub fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<(), NetlinkError> {
        let mut message = Message::new(libc::RTM_NEWADDR, NLM_CREATE);
        message.bytes(&[libc::AF_INET as u8, prefix, 0, libc::RT_SCOPE_UNIVERSE]);
        message.bytes(&index.to_ne_bytes());
        message.attribute(libc::IFA_LOCAL, &address.octets());
        message.attribute(libc::IFA_ADDRESS, &address.octets());
        self.request(message, || format!("add address {address}/{prefix} to interface {index}"))
    }

    /// Takes an address from an interface, and with it the routes that lead through its network.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` when it does not have it.
    pub fn remove_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<(), NetlinkError> {
        let mut message = Message::new(libc::RTM_DELADDR, 0);
        message.bytes(&[libc::AF_INET as u8, prefix, 0, libc::RT_SCOPE_UNIVERSE]);
        message.bytes(&index.to_ne_bytes());
        message.attribute(libc::IFA_LOCAL, &address.octets());
        self.request(message, || format!("take address {address}/{prefix} from interface {index}"))
    }

    /// Adds the route to a network. `network` must have no bits past `prefix`. For [`Hop::Local`], `index` is
    /// the loopback interface.
    ///
    /// # Errors
    /// `ENETUNREACH` when the router is on no connected network, `EEXIST` for a route that is there,
    /// `EINVAL` for bits past the prefix.
    pub fn add_route(
        &mut self,
        network: Ipv4Addr,
        prefix: u8,
        hop: Hop,
        index: u32,
    ) -> Result<(), NetlinkError> {
        self.route(network, prefix, hop, index, NLM_CREATE)
    }

    /// Sets the default route, in place of another one.
    ///
    /// # Errors
    /// As [`add_route`](Self::add_route), without `EEXIST`.
    pub fn set_default_route(&mut self, hop: Hop, index: u32) -> Result<(), NetlinkError> {
        self.route(Ipv4Addr::UNSPECIFIED, 0, hop, index, NLM_REPLACE)
    }

    fn route(
        &mut self,
        network: Ipv4Addr,
        prefix: u8,
        hop: Hop,
        index: u32,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        // An address is the namespace's own only if it stands in the local table.
        let (table, kind, scope) = match hop {
            Hop::Via(_) | Hop::OnLink(_) => (libc::RT_TABLE_MAIN, libc::RTN_UNICAST, libc::RT_SCOPE_UNIVERSE),
            Hop::Local => (libc::RT_TABLE_LOCAL, libc::RTN_LOCAL, libc::RT_SCOPE_HOST),
        };
        let mut message = Message::new(libc::RTM_NEWROUTE, flags);
        message.bytes(&[libc::AF_INET as u8, prefix, 0, 0, table, libc::RTPROT_STATIC, scope, kind]);
        let on_link = if matches!(hop, Hop::OnLink(_)) { ROUTE_ON_LINK } else { 0 };
        message.bytes(&on_link.to_ne_bytes());
        message.attribute(libc::RTA_DST, &network.octets());
        message.attribute(libc::RTA_OIF, &index.to_ne_bytes());
        if let Hop::Via(gateway) | Hop::OnLink(gateway) = hop {
            message.attribute(libc::RTA_GATEWAY, &gateway.octets());
        }
        self.request(message, || format!("add the route to {network}/{prefix}"))
    }

    /// Sends a request and reads the answer to it.
    fn request(&mut self, message: Message, operation: impl Fn() -> String) -> Result<(), NetlinkError> {
        self.sequence += 1;
        let exchange = || {
            let bytes = message.finish(self.sequence);
            let kernel = SocketAddrNetlink::new(0, 0);
            rustix::net::sendto(&self.socket, &bytes, SendFlags::empty(), &kernel)?;
            let mut answer = [0u8; 4096];
            loop {
                let (len, _) = rustix::net::recv(&self.socket, &mut answer[..], RecvFlags::empty())?;
                if let Some(result) = acknowledgement(&answer[..len], self.sequence) {
                    return result;
                }
            }
        };
        exchange().map_err(|errno| error(&operation(), errno))
    }
}

fn error(operation: &str, errno: Errno) -> NetlinkError {
    NetlinkError { operation: operation.to_owned(), source: errno.into() }
}

/// What a datagram from the kernel says of request `sequence`: `None` when it is about another one.
fn acknowledgement(datagram: &[u8], sequence: u32) -> Option<Result<(), Errno>> {
    let word = |at: usize| Some(u32::from_ne_bytes(datagram.get(at..at + 4)?.try_into().ok()?));
    let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
    if word(8)? != sequence || i32::from(kind) != libc::NLMSG_ERROR {
        return None;
    }
    match word(HEADER)? as i32 {
        0 => Some(Ok(())),
        code => Some(Err(Errno::from_raw_os_error(-code))),
    }
}

/// A request under construction.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, flags: u16) -> Self {
        let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut bytes = Vec::with_capacity(192);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Self { bytes }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A link message (`struct ifinfomsg`) that changes `flags` to set.
    fn link(&mut self, index: u32, flags: u32) {
        let before = self.bytes.len();
        self.bytes(&[libc::AF_UNSPEC as u8, 0, 0, 0]);
        for word in [index, flags, flags] {
            self.bytes(&word.to_ne_bytes());
        }
        debug_assert_eq!(self.bytes.len() - before, LINK_MESSAGE);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |message| message.bytes(value));
    }

    /// An attribute whose value `fill` writes. Its length does not count the padding after it.
    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes(&[0; 2]);
        self.bytes(&kind.to_ne_bytes());
        fill(self);
        let len = (self.bytes.len() - start) as u16;
        self.bytes[start..start + mem::size_of::<u16>()].copy_from_slice(&len.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = self.bytes.len() as u32;
        self.bytes[..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_nest_and_pad() {
        let mut message = Message::new(0x1234, 0);
        message.nest(1, |message| message.attribute(2, b"abc"));
        let bytes = message.finish(7);
        assert_eq!(bytes.len(), 16 + 4 + 8);
        assert_eq!(&bytes[..4], &28u32.to_ne_bytes());
        assert_eq!(&bytes[8..12], &7u32.to_ne_bytes());
        assert_eq!(&bytes[16..20], &[12u16.to_ne_bytes(), 1u16.to_ne_bytes()].concat()[..]);
        assert_eq!(&bytes[20..24], &[7u16.to_ne_bytes(), 2u16.to_ne_bytes()].concat()[..]);
        assert_eq!(&bytes[24..], b"abc\0");
    }

    #[test]
    fn answers_are_matched_and_bounded() {
        let answer = |kind: u16, sequence: u32, code: i32| {
            let mut bytes = vec![0; 4];
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(&[0; 2]);
            bytes.extend_from_slice(&sequence.to_ne_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&code.to_ne_bytes());
            bytes
        };
        assert_eq!(acknowledgement(&answer(2, 5, 0), 5), Some(Ok(())));
        assert_eq!(acknowledgement(&answer(2, 5, -17), 5), Some(Err(Errno::EXIST)));
        assert_eq!(acknowledgement(&answer(2, 4, 0), 5), None);
        assert_eq!(acknowledgement(&answer(3, 5, 0), 5), None);
        for len in 0..20 {
            assert_eq!(acknowledgement(&answer(2, 5, 0)[..len], 5), None, "{len} bytes");
        }
    }
}
