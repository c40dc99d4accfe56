//! The service `stratos-init network`: gives the node its address. It runs apart from PID 1, which so reads no byte of
//! a network, and keeps no rights but those on the network.

use std::ffi::CStr;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::time::Duration;

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use stratos_sys::netlink::{Hop, Netlink, NetlinkError};
use stratos_types::NodeConfig;
use stratos_types::node_config::{MAX_BYTES, parse_address};

use crate::dhcp::{self, Answer, Ask, CLIENT_PORT, Client, Lease, SERVER_PORT};
use crate::error::InitError;
use crate::phase::Outcome;
use crate::{clock, config, files, notify, patience};

/// Where /etc/resolv.conf leads.
const RESOLV_CONF: &str = "/run/stratos/resolv.conf";
/// The address that is set, for a successor of this process.
const ADDRESS: &str = "/run/stratos/address";
const INTERFACES: &str = "/sys/class/net";
const MOST_INTERFACES: usize = 1024;
/// How long an interface may take to appear, and its line to come up.
const INTERFACE_DEADLINE: Duration = Duration::from_secs(30);
const CARRIER_DEADLINE: Duration = Duration::from_secs(10);
/// First wait for an answer, doubled each time, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(16);

/// Sets the loopback interface up, in PID 1.
///
/// # Errors
/// When the kernel refuses it.
pub fn loopback() -> Result<Outcome, InitError> {
    let mut netlink = Netlink::open()?;
    let index = netlink.index("lo")?;
    netlink.link_up(index)?;
    // /etc/resolv.conf leads here from the first moment on.
    files::replace(RESOLV_CONF, resolv_conf(&[]).as_bytes(), 0o644)?;
    Outcome::done("127.0.0.1")
}

/// Keeps only these capabilities, for good, also over exec.
pub(crate) fn keep_only(kept: CapabilitySet) -> Result<(), InitError> {
    let failed = |errno: rustix::io::Errno| InitError::system("drop capabilities", errno);
    set_no_new_privs(true).map_err(failed)?;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(failed)
}

/// Gives this process a name of its own: it was started from PID 1's program, which is a file called `exe`.
pub(crate) fn set_process_name(name: &CStr) {
    // A name is for people; without one the process is the same.
    let _ = rustix::thread::set_name(name);
}

/// The configuration that PID 1 found right; the defaults without one.
pub(crate) fn configuration() -> NodeConfig {
    let text = files::read_text(config::IN_FORCE, MAX_BYTES).unwrap_or_default();
    NodeConfig::parse(&text).unwrap_or_default()
}

/// The service.
///
/// # Errors
/// When the network cannot be set up: PID 1 starts it again.
pub fn serve() -> Result<(), InitError> {
    set_process_name(c"stratos-network");
    keep_only(CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | CapabilitySet::NET_BIND_SERVICE)?;
    let config = configuration();
    let wanted = config.network.interface.clone();
    let found = patience::until(INTERFACE_DEADLINE, || interface(wanted.as_deref()));
    let name = found.ok_or_else(|| InitError::Late {
        what: wanted.map_or_else(|| "a network interface".to_owned(), |name| format!("interface {name}")),
        after: INTERFACE_DEADLINE,
    })?;
    let mut network = Network::open(&name, config)?;
    network.up()?;
    match network.config.network.address.clone() {
        Some(address) => network.fixed(&address),
        None => network.dynamic(),
    }
}

/// The interface with this name, or the first that has hardware behind it.
fn interface(wanted: Option<&str>) -> Option<String> {
    let names = files::names(INTERFACES, MOST_INTERFACES).ok()?;
    let folder = |name: &str| Path::new(INTERFACES).join(name);
    let index = |name: &str| files::read_value(folder(name).join("ifindex")).ok()?.parse::<u32>().ok();
    match wanted {
        Some(wanted) => names.into_iter().find(|name| name == wanted),
        None => {
            let hardware = names.into_iter().filter(|name| folder(name).join("device").exists());
            hardware.filter_map(|name| Some((index(&name)?, name))).min().map(|(_, name)| name)
        }
    }
}

/// Text of /etc/resolv.conf.
fn resolv_conf(servers: &[Ipv4Addr]) -> String {
    servers.iter().fold(String::from("# written by stratos-init\n"), |text, server| {
        text + &format!("nameserver {server}\n")
    })
}

/// An interface that is being set up.
struct Network {
    name: String,
    index: u32,
    netlink: Netlink,
    config: NodeConfig,
    set: Option<(Ipv4Addr, u8)>,
}

impl Network {
    fn open(name: &str, config: NodeConfig) -> Result<Self, InitError> {
        let netlink = Netlink::open()?;
        let index = netlink.index(name)?;
        let set = files::read_value(ADDRESS).ok().and_then(|text| parse_address(&text));
        Ok(Self { name: name.to_owned(), index, netlink, config, set })
    }

    fn up(&mut self) -> Result<(), InitError> {
        self.netlink.link_up(self.index)?;
        let carrier = Path::new(INTERFACES).join(&self.name).join("carrier");
        let line = || files::read_value(&carrier).is_ok_and(|carrier| carrier == "1").then_some(());
        if patience::until(CARRIER_DEADLINE, line).is_none() {
            println!("{}: no carrier yet", self.name);
        }
        Ok(())
    }

    /// Gives the interface its address, in place of an earlier one.
    fn set(&mut self, address: Ipv4Addr, prefix: u8, gateway: Option<Ipv4Addr>) -> Result<(), InitError> {
        if let Some((old, old_prefix)) = self.set.filter(|set| *set != (address, prefix)) {
            self.take_away(old, old_prefix)?;
        }
        unless_there(self.netlink.add_address(self.index, address, prefix))?;
        self.set = Some((address, prefix));
        files::replace(ADDRESS, format!("{address}/{prefix}\n").as_bytes(), 0o644)?;
        if let Some(gateway) = gateway {
            // A gateway outside of the network is one on the line: some clouds give addresses like that.
            let hop = Hop::OnLink(gateway);
            self.netlink.set_default_route(hop, self.index)?;
        }
        Ok(())
    }

    fn take_away(&mut self, address: Ipv4Addr, prefix: u8) -> Result<(), InitError> {
        self.set = None;
        match self.netlink.remove_address(self.index, address, prefix) {
            Err(error) if error.source.kind() != std::io::ErrorKind::AddrNotAvailable => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn name_servers(&self, given: &[Ipv4Addr]) -> Result<(), InitError> {
        let own = &self.config.network.dns;
        let servers = if own.is_empty() { given } else { own };
        files::replace(RESOLV_CONF, resolv_conf(servers).as_bytes(), 0o644)
    }

    /// The configured address.
    fn fixed(&mut self, address: &str) -> Result<(), InitError> {
        let (address, prefix) =
            parse_address(address).ok_or_else(|| InitError::invalid("network.address", "is none"))?;
        self.set(address, prefix, self.config.network.gateway)?;
        self.name_servers(&[])?;
        println!("{}: {address}/{prefix} as configured", self.name);
        notify::ready()?;
        loop {
            patience::pause(Duration::from_secs(3600));
        }
    }

    /// An address by DHCP, for as long as the server wants.
    fn dynamic(&mut self) -> Result<(), InitError> {
        let socket = self.socket().map_err(|source| InitError::system("open a socket for DHCP", source))?;
        loop {
            let (client, lease) = self.ask_for_any(&socket)?;
            self.take(&lease)?;
            notify::ready()?;
            let lost = self.hold(&socket, &client, lease)?;
            println!("{}: the address {} is lost", self.name, lost.address);
            self.take_away(lost.address, lost.prefix)?;
        }
    }

    fn socket(&self) -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, CLIENT_PORT))?;
        stratos_sys::socket::bind_to_interface(&socket, &self.name)?;
        socket.set_broadcast(true)?;
        Ok(socket)
    }

    fn take(&mut self, lease: &Lease) -> Result<(), InitError> {
        self.set(lease.address, lease.prefix, lease.gateway)?;
        self.name_servers(&lease.dns)?;
        let (name, address, prefix, server) = (&self.name, lease.address, lease.prefix, lease.server);
        println!("{name}: {address}/{prefix} by DHCP from {server}");
        Ok(())
    }

    fn client(&self) -> Result<Client, InitError> {
        let text = files::read_value(Path::new(INTERFACES).join(&self.name).join("address"))?;
        let hardware =
            hardware(&text).ok_or_else(|| InitError::invalid(self.name.as_str(), "is no Ethernet"))?;
        let mut transaction = [0; 4];
        getrandom(&mut transaction, GetRandomFlags::INSECURE)
            .map_err(|errno| InitError::system("get random bytes", errno))?;
        let hostname = self.config.hostname.clone().unwrap_or_default();
        Ok(Client { hardware, transaction: u32::from_ne_bytes(transaction), hostname })
    }

    /// Asks everybody until somebody has given an address.
    fn ask_for_any(&self, socket: &UdpSocket) -> Result<(Client, Lease), InitError> {
        let mut wait = FIRST_WAIT;
        let begun = clock::now();
        loop {
            let asked = clock::now();
            let client = self.client()?;
            let seconds = (clock::now() - begun).as_secs().try_into().unwrap_or(u16::MAX);
            let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
            let discover = client.message(Ask::Discover, seconds);
            if let Some(Answer::Offer(offer)) = exchange(socket, &client, &discover, everybody, wait) {
                let ask = Ask::Request { address: offer.address, server: offer.server };
                let request = client.message(ask, seconds);
                if let Some(Answer::Ack(lease)) = exchange(socket, &client, &request, everybody, wait) {
                    return Ok((client, lease));
                }
            }
            // A server that refuses at once is not asked again at once.
            sleep_until(asked + wait);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Holds a lease, prolonging it, until it is lost.
    fn hold(&mut self, socket: &UdpSocket, client: &Client, mut lease: Lease) -> Result<Lease, InitError> {
        let mut since = clock::now();
        loop {
            let at =
                |seconds: Option<u32>| seconds.map(|seconds| since + Duration::from_secs(seconds.into()));
            let (Some(renew), Some(rebind), Some(ends)) =
                (at(lease.renew_s), at(lease.rebind_s), at(lease.ends_s))
            else {
                patience::pause(Duration::from_secs(3600));
                continue;
            };
            sleep_until(renew);
            let message = client.message(Ask::Renew { address: lease.address }, 0);
            let prolonged = loop {
                let now = clock::now();
                if now >= ends {
                    return Ok(lease);
                }
                let (to, until) =
                    if now < rebind { (lease.server, rebind) } else { (Ipv4Addr::BROADCAST, ends) };
                let to = SocketAddrV4::new(to, SERVER_PORT);
                match exchange(socket, client, &message, to, LONGEST_WAIT.min(until - now)) {
                    Some(Answer::Ack(prolonged)) => break prolonged,
                    Some(Answer::Nak) => return Ok(lease),
                    // Asked again after half of what is left (RFC 2131, 4.4.5), at least a minute.
                    Some(Answer::Offer(_)) | None => {
                        let now = clock::now();
                        let pause = (until.saturating_sub(now) / 2).max(Duration::from_secs(60));
                        sleep_until((now + pause).min(until));
                    }
                }
            };
            since = clock::now();
            if prolonged != lease {
                self.take(&prolonged)?;
            }
            lease = prolonged;
        }
    }
}

/// Waits in small steps, by the clock that goes on while the machine sleeps.
fn sleep_until(time: Duration) {
    loop {
        let left = time.saturating_sub(clock::now());
        if left.is_zero() {
            return;
        }
        patience::pause(left.min(Duration::from_secs(60)));
    }
}

/// Sends a message and waits for an answer to it.
fn exchange(
    socket: &UdpSocket,
    client: &Client,
    message: &[u8],
    to: SocketAddrV4,
    patience: Duration,
) -> Option<Answer> {
    if let Err(error) = socket.send_to(message, to) {
        println!("cannot send to {to}: {error}");
        patience::pause(patience);
        return None;
    }
    let deadline = clock::now() + patience;
    let mut bytes = [0; dhcp::MOST_BYTES];
    loop {
        let left = deadline.saturating_sub(clock::now());
        if left.is_zero() {
            return None;
        }
        socket.set_read_timeout(Some(left)).ok()?;
        if let Ok((length, from)) = socket.recv_from(&mut bytes)
            && from.port() == SERVER_PORT
            && let Some(answer) = dhcp::parse(bytes.get(..length).unwrap_or_default(), client)
        {
            return Some(answer);
        }
    }
}

/// What is there already need not be added.
fn unless_there(result: Result<(), NetlinkError>) -> Result<(), InitError> {
    match result {
        Err(error) if error.source.kind() != std::io::ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}

/// A hardware address from its text.
fn hardware(text: &str) -> Option<[u8; 6]> {
    let mut parts = text.split(':').map(|part| u8::from_str_radix(part, 16));
    let mut address = [0; 6];
    for byte in &mut address {
        *byte = parts.next()?.ok()?;
    }
    parts.next().is_none().then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_written_for_the_resolver() {
        let servers = [Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::new(192, 0, 2, 54)];
        assert_eq!(
            resolv_conf(&servers),
            "# written by stratos-init\nnameserver 192.0.2.53\nnameserver 192.0.2.54\n"
        );
    }

    #[test]
    fn hardware_addresses_are_read() {
        assert_eq!(hardware("52:54:00:12:34:56"), Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        for wrong in ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "xx:54:00:12:34:56"] {
            assert_eq!(hardware(wrong), None);
        }
    }

    #[test]
    fn the_loopback_interface_is_not_the_first() {
        assert_eq!(interface(Some("lo")), Some("lo".to_owned()));
        assert_eq!(interface(Some("none")), None);
        assert_ne!(interface(None), Some("lo".to_owned()));
    }
}
