//! What no rule opens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::str::FromStr;

use super::{IpRange, IpRangeError};

/// The word for the node's own addresses in a list.
const OWN: &str = "own";

/// Addresses that are refused whatever a function's rules say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    ranges: Vec<IpRange>,
    own: bool,
}

impl Denied {
    /// True when `address` is refused. The node's own addresses are looked up at every call, for they come and go.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address)) || self.own && is_own(address)
    }
}

/// Addresses that lead back into the node (its own, loopback, unspecified), to its link (link-local: also the metadata
/// services of clouds), or to no single machine (multicast, broadcast, reserved).
impl Default for Denied {
    fn default() -> Self {
        let ranges = vec![
            IpRange::v4(Ipv4Addr::new(0, 0, 0, 0), 8),
            IpRange::v4(Ipv4Addr::new(127, 0, 0, 0), 8),
            IpRange::v4(Ipv4Addr::new(169, 254, 0, 0), 16),
            IpRange::v4(Ipv4Addr::new(224, 0, 0, 0), 4),
            IpRange::v4(Ipv4Addr::new(240, 0, 0, 0), 4),
            IpRange::v6(Ipv6Addr::UNSPECIFIED, 128),
            IpRange::v6(Ipv6Addr::LOCALHOST, 128),
            IpRange::v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
            IpRange::v6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
        ];
        Self { ranges, own: true }
    }
}

impl From<Vec<IpRange>> for Denied {
    fn from(ranges: Vec<IpRange>) -> Self {
        Self { ranges, own: false }
    }
}

impl FromStr for Denied {
    type Err = IpRangeError;

    /// Takes networks separated by commas; the word `own` stands for the node's own addresses. Empty: nothing.
    fn from_str(text: &str) -> Result<Self, IpRangeError> {
        let words = || text.split(',').map(str::trim).filter(|word| !word.is_empty());
        let ranges = words().filter(|word| *word != OWN).map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { ranges, own: words().any(|word| word == OWN) })
    }
}

/// Whether this machine has the address: only then a socket can be bound to it (ip(7), unless
/// `net.ipv4.ip_nonlocal_bind` is set, which makes this refuse too much).
fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_denied() {
        let denied = Denied::default();
        for address in
            ["127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.169.254", "::1", "fe80::1", "::ffff:127.0.0.1"]
        {
            assert!(denied.contains(address.parse().unwrap()), "{address}");
        }
        for address in ["192.0.2.1", "10.255.255.1", "2001:db8::1"] {
            assert!(!denied.contains(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn lists_say_what_they_hold() {
        let own = "127.0.0.1".parse().unwrap();
        assert!(!"".parse::<Denied>().unwrap().contains(own));
        assert!("own".parse::<Denied>().unwrap().contains(own));
        let list: Denied = "10.0.0.0/8, 192.0.2.0/24".parse().unwrap();
        assert!(list.contains("192.0.2.1".parse().unwrap()) && !list.contains(own));
        assert!("10.0.0.0/8,other".parse::<Denied>().is_err());
    }
}
