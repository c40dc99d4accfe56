//! DHCP (RFC 2131, 2132): the messages of a client, and reading a server's. Pure: bytes in, a lease out.

use std::net::Ipv4Addr;

/// Most bytes of an answer that are read: what fits into a frame.
pub const MOST_BYTES: usize = 1500;
/// Port of a client.
pub const CLIENT_PORT: u16 = 68;
/// Port of a server.
pub const SERVER_PORT: u16 = 67;
const FIXED: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Shortest message: BOOTP's.
const SHORTEST: usize = 300;
/// A lease shorter than this is treated as if it were this long: a server cannot make the client busy.
const SHORTEST_LEASE: u32 = 60;
const FOREVER: u32 = u32::MAX;
/// Most name servers that are taken.
const MOST_SERVERS: usize = 3;

const SUBNET: u8 = 1;
const ROUTERS: u8 = 3;
const NAME_SERVERS: u8 = 6;
const HOSTNAME: u8 = 12;
const REQUESTED: u8 = 50;
const LEASE_TIME: u8 = 51;
const MESSAGE: u8 = 53;
const SERVER: u8 = 54;
const PARAMETERS: u8 = 55;
const MAX_SIZE: u8 = 57;
const RENEWAL: u8 = 58;
const REBINDING: u8 = 59;
const PAD: u8 = 0;
const END: u8 = 255;

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Who has an address for me?
    Discover,
    /// I take this one, of this server.
    Request {
        /// The address.
        address: Ipv4Addr,
        /// Who offered it.
        server: Ipv4Addr,
    },
    /// I have this one and want to keep it.
    Renew {
        /// The address.
        address: Ipv4Addr,
    },
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Hardware address.
    pub hardware: [u8; 6],
    /// Number of this exchange.
    pub transaction: u32,
    /// Host name; empty for none.
    pub hostname: String,
}

impl Client {
    /// The message that asks `ask`, `seconds` after the first one of this exchange.
    pub fn message(&self, ask: Ask, seconds: u16) -> Vec<u8> {
        let (kind, own) = match ask {
            Ask::Discover => (1, Ipv4Addr::UNSPECIFIED),
            Ask::Request { .. } => (3, Ipv4Addr::UNSPECIFIED),
            Ask::Renew { address } => (3, address),
        };
        // Answers to everybody, as long as there is no address to answer to.
        let flags: u16 = if own.is_unspecified() { 0x8000 } else { 0 };
        let mut bytes = vec![1, 1, 6, 0];
        bytes.extend(self.transaction.to_be_bytes());
        bytes.extend(seconds.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.extend(own.octets());
        bytes.extend([0; 12]);
        bytes.extend(self.hardware);
        bytes.resize(FIXED, 0);
        bytes.extend(COOKIE);
        bytes.extend([MESSAGE, 1, kind]);
        if let Ask::Request { address, server } = ask {
            bytes.extend([REQUESTED, 4]);
            bytes.extend(address.octets());
            bytes.extend([SERVER, 4]);
            bytes.extend(server.octets());
        }
        bytes.extend([MAX_SIZE, 2]);
        bytes.extend((MOST_BYTES as u16).to_be_bytes());
        let wanted = [SUBNET, ROUTERS, NAME_SERVERS, LEASE_TIME, SERVER, RENEWAL, REBINDING];
        bytes.extend([PARAMETERS, wanted.len() as u8]);
        bytes.extend(wanted);
        if let (1..=63, name) = (self.hostname.len(), self.hostname.as_bytes()) {
            bytes.extend([HOSTNAME, name.len() as u8]);
            bytes.extend(name);
        }
        bytes.push(END);
        bytes.resize(bytes.len().max(SHORTEST), PAD);
        bytes
    }
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This could be yours.
    Offer(Lease),
    /// This is yours.
    Ack(Lease),
    /// No.
    Nak,
}

/// An address and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// Length of its network's prefix.
    pub prefix: u8,
    /// Where packets for elsewhere go.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// Seconds after which to ask this server to prolong it; `None` for never.
    pub renew_s: Option<u32>,
    /// Seconds after which to ask any server.
    pub rebind_s: Option<u32>,
    /// Seconds after which it is no longer ours.
    pub ends_s: Option<u32>,
}

/// Reads a server's answer to `client`. `None` for anything else: another client's, or no such message.
pub fn parse(bytes: &[u8], client: &Client) -> Option<Answer> {
    let (fixed, options) = bytes.get(..MOST_BYTES.min(bytes.len()))?.split_at_checked(FIXED)?;
    let is_reply = fixed.get(..3)? == [2, 1, 6];
    let transaction = u32::from_be_bytes(fixed.get(4..8)?.try_into().ok()?);
    if !is_reply || transaction != client.transaction || fixed.get(28..34)? != client.hardware {
        return None;
    }
    let options = options.strip_prefix(&COOKIE)?;
    let kind = *option(options, MESSAGE)?.first()?;
    if kind == 6 {
        return Some(Answer::Nak);
    }
    let address = |bytes: &[u8]| bytes.try_into().ok().map(|octets: [u8; 4]| Ipv4Addr::from(octets));
    let addresses = |code| option(options, code).unwrap_or_default().chunks_exact(4).filter_map(address);
    let seconds = |code| option(options, code)?.try_into().ok().map(u32::from_be_bytes);
    let own = address(fixed.get(16..20)?)?;
    if !is_for_a_host(own) {
        return None;
    }
    let ends = seconds(LEASE_TIME).unwrap_or(FOREVER).max(SHORTEST_LEASE);
    // In this order whatever the server says.
    let rebind = seconds(REBINDING).unwrap_or(FOREVER).min(ends / 8 * 7).max(2);
    let renew = seconds(RENEWAL).unwrap_or(FOREVER).min(ends / 2).min(rebind).max(1);
    let finite = |time: u32| (ends != FOREVER).then_some(time);
    let lease = Lease {
        address: own,
        prefix: addresses(SUBNET).next().and_then(prefix).unwrap_or_else(|| class_prefix(own)),
        gateway: addresses(ROUTERS).find(|gateway| is_for_a_host(*gateway)),
        dns: addresses(NAME_SERVERS).filter(|server| is_for_a_host(*server)).take(MOST_SERVERS).collect(),
        server: addresses(SERVER).next()?,
        renew_s: finite(renew),
        rebind_s: finite(rebind),
        ends_s: finite(ends),
    };
    match kind {
        2 => Some(Answer::Offer(lease)),
        5 => Some(Answer::Ack(lease)),
        _ => None,
    }
}

/// The value of the first option with a code.
fn option(mut options: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        let (code, rest) = options.split_first()?;
        match *code {
            PAD => options = rest,
            END => return None,
            code => {
                let (length, rest) = rest.split_first()?;
                let (value, rest) = rest.split_at_checked(usize::from(*length))?;
                if code == wanted {
                    return Some(value);
                }
                options = rest;
            }
        }
    }
}

/// An address that one host can have.
fn is_for_a_host(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    first != 0 && !address.is_loopback() && first < 224
}

/// The length of a mask; `None` when its ones are not together.
fn prefix(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    let length = bits.leading_ones();
    let whole = length > 0 && bits.checked_shl(length).unwrap_or(0) == 0;
    whole.then_some(length as u8)
}

/// The length that an address had when there were classes, for servers that say none.
fn class_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        ..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        Client { hardware: [2, 0, 0, 0, 0, 7], transaction: 0x0102_0304, hostname: "node-1".to_owned() }
    }

    fn answer(kind: u8, options: &[u8]) -> Vec<u8> {
        let mut bytes = client().message(Ask::Discover, 0);
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&[192, 0, 2, 10]);
        bytes.truncate(FIXED + 4);
        bytes.extend([MESSAGE, 1, kind, SERVER, 4, 192, 0, 2, 1]);
        bytes.extend(options);
        bytes.push(END);
        bytes
    }

    #[test]
    fn messages_are_as_the_standard_has_them() {
        let discover = client().message(Ask::Discover, 3);
        assert_eq!(discover[..12], [1, 1, 6, 0, 1, 2, 3, 4, 0, 3, 0x80, 0]);
        assert_eq!(option(&discover[240..], MESSAGE), Some(&[1][..]));
        assert_eq!(option(&discover[240..], HOSTNAME), Some(&b"node-1"[..]));
        assert_eq!(discover.len(), 300);
        let address = Ipv4Addr::new(192, 0, 2, 10);
        let request = client().message(Ask::Request { address, server: Ipv4Addr::new(192, 0, 2, 1) }, 0);
        assert_eq!(option(&request[240..], REQUESTED), Some(&[192, 0, 2, 10][..]));
        assert_eq!(option(&request[240..], SERVER), Some(&[192, 0, 2, 1][..]));
        let renew = client().message(Ask::Renew { address }, 0);
        assert_eq!((&renew[10..12], &renew[12..16]), (&[0, 0][..], &[192, 0, 2, 10][..]));
        assert_eq!(option(&renew[240..], REQUESTED), None);
    }

    #[test]
    fn a_lease_is_read_with_its_times() {
        let options = [
            &[SUBNET, 4, 255, 255, 254, 0, ROUTERS, 8, 192, 0, 2, 1, 192, 0, 2, 2][..],
            &[NAME_SERVERS, 4, 192, 0, 2, 53, LEASE_TIME, 4, 0, 0, 0x0e, 0x10],
        ]
        .concat();
        let Some(Answer::Ack(lease)) = parse(&answer(5, &options), &client()) else { panic!("no lease") };
        let expected = Lease {
            address: Ipv4Addr::new(192, 0, 2, 10),
            prefix: 23,
            gateway: Some(Ipv4Addr::new(192, 0, 2, 1)),
            dns: vec![Ipv4Addr::new(192, 0, 2, 53)],
            server: Ipv4Addr::new(192, 0, 2, 1),
            renew_s: Some(1800),
            rebind_s: Some(3150),
            ends_s: Some(3600),
        };
        assert_eq!(lease, expected);
        assert!(matches!(parse(&answer(2, &options), &client()), Some(Answer::Offer(_))));
        assert_eq!(parse(&answer(6, &[]), &client()), Some(Answer::Nak));
    }

    #[test]
    fn a_server_that_says_little_or_nonsense_is_lived_with() {
        let lease = |options: &[u8]| match parse(&answer(5, options), &client()) {
            Some(Answer::Ack(lease)) => lease,
            other => panic!("{other:?}"),
        };
        let bare = lease(&[]);
        assert_eq!((bare.prefix, bare.gateway, bare.renew_s, bare.ends_s), (24, None, None, None));
        let short = lease(&[LEASE_TIME, 4, 0, 0, 0, 0, RENEWAL, 4, 0, 0, 0, 0, REBINDING, 4, 0, 0, 0, 0]);
        assert_eq!((short.renew_s, short.rebind_s, short.ends_s), (Some(1), Some(2), Some(60)));
        assert_eq!(lease(&[SUBNET, 4, 255, 0, 255, 0]).prefix, 24);
        assert_eq!(lease(&[ROUTERS, 8, 0, 0, 0, 0, 192, 0, 2, 3]).gateway, Some(Ipv4Addr::new(192, 0, 2, 3)));
    }

    #[test]
    fn what_is_not_for_this_client_is_left_alone() {
        let good = answer(5, &[]);
        assert!(parse(&good, &client()).is_some());
        for at in [0, 4, 28, 236] {
            let mut other = good.clone();
            other[at] ^= 0xff;
            assert_eq!(parse(&other, &client()), None, "byte {at}");
        }
        for length in 0..good.len() - 1 {
            assert_eq!(parse(&good[..length], &client()), None, "{length} bytes");
        }
    }
}
