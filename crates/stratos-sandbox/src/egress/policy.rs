//! What one function may reach: its rules, checked once.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use stratos_types::egress::{EgressRule, EgressTarget};

use super::{Denied, EgressError, IpRange, MAX_NAMES, MAX_PORTS, RESERVED};

/// The egress rules of a function, shared by its instances' gateways.
#[derive(Debug)]
pub struct EgressPolicy {
    rules: Vec<EgressRule>,
    denied: Denied,
    ports: BTreeSet<u16>,
}

impl EgressPolicy {
    /// Checks `rules`. Addresses in `denied` are refused whatever the rules say
    /// (`Denied::default()` is the usual list). Rules for any host are for dependency builds
    /// only; that they do not come from a function's own configuration is the caller's part.
    ///
    /// # Errors
    /// Too many ports, or a network within those of the gateway itself.
    pub fn new(rules: Vec<EgressRule>, denied: impl Into<Denied>) -> Result<Self, EgressError> {
        let ports: BTreeSet<u16> = rules.iter().flat_map(|rule| rule.ports.clone()).collect();
        if ports.len() > MAX_PORTS {
            return Err(EgressError::TooManyPorts { ports: ports.len() });
        }
        let reserved = IpRange::v4(RESERVED.0, RESERVED.1);
        for rule in &rules {
            if let EgressTarget::Cidr { addr, prefix } = rule.target
                && prefix >= RESERVED.1
                && reserved.contains(addr.into())
            {
                return Err(EgressError::Reserved { network: addr, prefix });
            }
        }
        let policy = Self { rules, denied: denied.into(), ports };
        match policy.hosts().len() {
            hosts if hosts > MAX_NAMES => Err(EgressError::TooManyHosts { hosts }),
            _ => Ok(policy),
        }
    }

    /// True when the policy allows nothing; an instance then needs no gateway.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Every port some rule opens, in order.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.iter().copied()
    }

    /// The names of the rules, each once, in the order of the rules.
    pub(super) fn hosts(&self) -> Vec<&str> {
        let mut seen = HashSet::new();
        let hosts = self.rules.iter().filter_map(|rule| match &rule.target {
            EgressTarget::Host(host) => Some(host.as_str()),
            EgressTarget::Cidr { .. } | EgressTarget::AnyHost => None,
        });
        hosts.filter(|host| seen.insert(*host)).collect()
    }

    /// The networks of the rules, each once.
    pub(super) fn networks(&self) -> BTreeSet<(Ipv4Addr, u8)> {
        let network = |rule: &EgressRule| match rule.target {
            EgressTarget::Cidr { addr, prefix } => Some((addr, prefix)),
            EgressTarget::Host(_) | EgressTarget::AnyHost => None,
        };
        self.rules.iter().filter_map(network).collect()
    }

    /// True when names outside the rules may be resolved, too.
    pub(super) fn allows_any_host(&self) -> bool {
        self.rules.iter().any(|rule| rule.target == EgressTarget::AnyHost)
    }

    /// The rule that lets a connection to `host` at `port` through.
    pub(super) fn rule_for_host(&self, host: &str, port: u16) -> Option<&EgressRule> {
        self.rules.iter().find(|rule| {
            let named = match &rule.target {
                EgressTarget::Host(name) => name == host,
                EgressTarget::AnyHost => true,
                EgressTarget::Cidr { .. } => false,
            };
            named && rule.covers_port(port)
        })
    }

    /// The rule that lets a connection to `address` at `port` through.
    pub(super) fn rule_for_address(&self, address: Ipv4Addr, port: u16) -> Option<&EgressRule> {
        self.rules.iter().find(|rule| match rule.target {
            EgressTarget::Cidr { addr, prefix } => {
                IpRange::v4(addr, prefix).contains(address.into()) && rule.covers_port(port)
            }
            EgressTarget::Host(_) | EgressTarget::AnyHost => false,
        })
    }

    /// True when nothing may connect to `address`, whatever the rules say.
    pub(super) fn denies(&self, address: IpAddr) -> bool {
        self.denied.contains(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(rules: &[&str]) -> Result<EgressPolicy, EgressError> {
        EgressPolicy::new(rules.iter().map(|r| r.parse().unwrap()).collect(), Denied::default())
    }

    #[test]
    fn rules_decide_by_target_and_port() {
        let policy = policy(&["a.example.com", "b.example.com:80-82", "10.1.0.0/16:5432"]).unwrap();
        for (host, port, allowed) in [
            ("a.example.com", 443, true),
            ("a.example.com", 80, false),
            ("b.example.com", 82, true),
            ("b.example.com", 83, false),
            ("c.example.com", 443, false),
        ] {
            assert_eq!(policy.rule_for_host(host, port).is_some(), allowed, "{host}:{port}");
        }
        for (address, port, allowed) in
            [([10, 1, 2, 3], 5432, true), ([10, 1, 2, 3], 5433, false), ([10, 2, 2, 3], 5432, false)]
        {
            let found = policy.rule_for_address(address.into(), port);
            assert_eq!(found.is_some(), allowed, "{address:?}:{port}");
        }
        assert_eq!(policy.ports().collect::<Vec<_>>(), [80, 81, 82, 443, 5432]);
    }

    #[test]
    fn impossible_rules_are_refused() {
        assert!(policy(&["a.example.com:1-256"]).is_ok());
        for (rules, says) in [
            (&["a.example.com:1-257"][..], "257 ports"),
            (&["a.example.com:1-200", "b.example.com:150-300"], "300 ports"),
            (&["198.18.1.0/24"], "198.18.1.0/24 is impossible"),
            (&["198.19.255.255"], "198.19.255.255/32 is impossible"),
        ] {
            let error = policy(rules).unwrap_err().to_string();
            assert!(error.contains(says), "{rules:?}: {error}");
        }
        assert!(policy(&["0.0.0.0/0:80"]).is_ok());
    }
}
