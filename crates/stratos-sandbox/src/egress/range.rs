//! Ranges of IP addresses, and those no instance may reach.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network: an address and how many of its leading bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IpRange {
    address: IpAddr,
    prefix: u8,
}

/// A text that is not a network.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is not a network like 10.0.0.0/8 or fe80::/10")]
pub struct IpRangeError {
    /// The text.
    pub text: String,
}

impl IpRange {
    /// True when `address` lies in this range. An IPv4 address inside an IPv6 one (`::ffff:127.0.0.1`) is taken
    /// for the IPv4 address, as that is what a connection to it reaches.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.checked_shr(32 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.checked_shr(128 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// An IPv4 network; bits of `address` past `prefix` do not count. `prefix` is at most 32.
    pub(super) const fn v4(address: Ipv4Addr, prefix: u8) -> Self {
        Self { address: IpAddr::V4(address), prefix }
    }

    pub(super) const fn v6(address: Ipv6Addr, prefix: u8) -> Self {
        Self { address: IpAddr::V6(address), prefix }
    }
}

impl FromStr for IpRange {
    type Err = IpRangeError;

    fn from_str(text: &str) -> Result<Self, IpRangeError> {
        let parse = || {
            let (address, prefix) = match text.split_once('/') {
                Some((address, prefix)) => (address, Some(prefix)),
                None => (text, None),
            };
            let address: IpAddr = address.parse().ok()?;
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let prefix = match prefix {
                Some(prefix) => prefix.parse().ok().filter(|p| *p <= bits)?,
                None => bits,
            };
            Some(Self { address, prefix })
        };
        parse().ok_or_else(|| IpRangeError { text: text.to_owned() })
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_contain_their_addresses_only() {
        for (range, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("127.0.0.0/8", "::ffff:127.0.0.1", "::ffff:128.0.0.1"),
            ("fe80::/10", "febf::1", "fec0::1"),
            ("::1", "::1", "::2"),
            ("::/0", "ff02::1", "::ffff:1.2.3.4"),
        ] {
            let range: IpRange = range.parse().unwrap();
            assert!(range.contains(inside.parse().unwrap()), "{range} holds {inside}");
            assert!(!range.contains(outside.parse().unwrap()), "{range} lacks {outside}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0", "::/129", "10.0.0.0/", "a/8", "10.0.0.0/-1"] {
            assert!(text.parse::<IpRange>().is_err(), "{text}");
        }
    }
}
