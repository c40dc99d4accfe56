//! Egress rules: what a function may connect to. Without a rule it may connect to nothing.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The port a rule opens when it names none: HTTPS.
const DEFAULT_PORT: u16 = 443;

/// Where a rule lets connections go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EgressTarget {
    /// One exact host name, lower case.
    Host(String),
    /// An IPv4 network.
    Cidr {
        /// The network's address; bits past `prefix` are zero.
        addr: Ipv4Addr,
        /// Prefix length, 0 to 32.
        prefix: u8,
    },
    /// Any host name. Only for dependency builds: `stratos.toml` cannot express it.
    AnyHost,
}

/// One permission to connect: a target and a range of TCP ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EgressRule {
    /// Where to.
    pub target: EgressTarget,
    /// Destination TCP ports, both ends included.
    pub ports: RangeInclusive<u16>,
}

/// Why a text is not an egress rule.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EgressError {
    /// The host part is empty or holds characters a host name cannot have.
    #[error("`{0}` is neither a host name nor an IPv4 network")]
    Target(String),
    /// A wildcard was used.
    #[error("`{0}` has a wildcard; name each host")]
    Wildcard(String),
    /// IPv6 addresses are not supported: instances have IPv4 only.
    #[error("`{0}` is an IPv6 address; instances have IPv4 only, use the host name")]
    Ipv6(String),
    /// The part after the colon is not a port or a range of ports.
    #[error("`{0}` is not a port (1-65535) or a range like 8000-8010")]
    Port(String),
}

impl EgressRule {
    /// True for a network inside 198.18.0.0/15 (RFC 2544), which instances reach StratOS's own gateway by.
    pub fn is_reserved(&self) -> bool {
        matches!(self.target, EgressTarget::Cidr { addr, prefix: 15.. } if matches!(addr.octets(), [198, 18 | 19, ..]))
    }

    /// True when `port` is inside the rule's range.
    pub fn covers_port(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }
}

impl FromStr for EgressRule {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        if text.contains('*') {
            return Err(EgressError::Wildcard(text.into()));
        }
        if text.starts_with('[') || text.matches(':').count() > 1 {
            return Err(EgressError::Ipv6(text.into()));
        }
        let (target, ports) = match text.split_once(':') {
            Some((target, ports)) => (target, parse_ports(ports)?),
            None => (text, DEFAULT_PORT..=DEFAULT_PORT),
        };
        Ok(Self { target: parse_target(target)?, ports })
    }
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, EgressError> {
    let error = || EgressError::Port(text.into());
    // The standard library would take a `+` before a number, too.
    let port = |s: &str| s.parse::<u16>().ok().filter(|p| *p != 0 && !s.starts_with('+')).ok_or_else(error);
    let (first, last) = match text.split_once('-') {
        Some((a, b)) => (port(a)?, port(b)?),
        None => (port(text)?, port(text)?),
    };
    if first > last { Err(error()) } else { Ok(first..=last) }
}

fn parse_target(text: &str) -> Result<EgressTarget, EgressError> {
    let error = || EgressError::Target(text.into());
    let (host, prefix) = match text.split_once('/') {
        Some((host, prefix)) => (
            host,
            Some(
                prefix
                    .parse::<u8>()
                    .ok()
                    .filter(|p| *p <= 32 && !prefix.starts_with('+'))
                    .ok_or_else(error)?,
            ),
        ),
        None => (text, None),
    };
    if let Ok(addr) = host.parse::<Ipv4Addr>() {
        let prefix = prefix.unwrap_or(32);
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        return Ok(EgressTarget::Cidr { addr: Ipv4Addr::from(u32::from(addr) & mask), prefix });
    }
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    // A last label of digits only is a mistyped address, never a host name (RFC 3696, section 2).
    let numeric = host.rsplit('.').next().is_none_or(|l| l.bytes().all(|b| b.is_ascii_digit()));
    if prefix.is_some() || host.len() > 253 || numeric || !host.split('.').all(label) {
        return Err(error());
    }
    Ok(EgressTarget::Host(host.to_ascii_lowercase()))
}

impl fmt::Display for EgressRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            EgressTarget::Host(host) => f.write_str(host)?,
            EgressTarget::Cidr { addr, prefix } => write!(f, "{addr}/{prefix}")?,
            EgressTarget::AnyHost => f.write_str("*")?,
        }
        match (self.ports.start(), self.ports.end()) {
            (a, b) if a == b => write!(f, ":{a}"),
            (a, b) => write!(f, ":{a}-{b}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_print_as_they_mean() {
        for (text, means) in [
            ("api.example.com", "api.example.com:443"),
            ("API.Example.com.:8443", "api.example.com:8443"),
            ("10.1.2.3/8:5432", "10.0.0.0/8:5432"),
            ("192.0.2.7:80", "192.0.2.7/32:80"),
            ("0.0.0.0/0:8000-8010", "0.0.0.0/0:8000-8010"),
            ("localhost:1", "localhost:1"),
        ] {
            assert_eq!(text.parse::<EgressRule>().unwrap().to_string(), means, "{text}");
        }
    }

    #[test]
    fn wrong_rules_say_why() {
        for (text, says) in [
            ("*.example.com", "wildcard"),
            ("[::1]:443", "IPv6"),
            ("fe80::1", "IPv6"),
            ("", "neither"),
            ("a..b", "neither"),
            ("-a.com", "neither"),
            ("10.0.0.300:1", "neither"),
            ("10.0.0.0/33", "neither"),
            ("example.com/8", "neither"),
            ("a.com:0", "not a port"),
            ("a.com:9-1", "not a port"),
            ("a.com:70000", "not a port"),
            ("a.com:", "not a port"),
            ("a.com:+1", "not a port"),
            ("10.0.0.0/+8", "neither"),
        ] {
            let error = text.parse::<EgressRule>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
