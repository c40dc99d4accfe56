//! Synthetic addresses: host names as an instance sees them.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use super::{EgressPolicy, MAX_NAMES};

/// The first synthetic address. Those below are the link's.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 0);

/// Names and their addresses, both ways. Addresses stay what they were for the gateway's life.
#[derive(Debug)]
pub(super) struct Names {
    names: Vec<String>,
    positions: HashMap<String, usize>,
    open: bool,
}

impl Names {
    /// The names of `policy`. If it allows any host, others are added as they are asked for.
    pub(super) fn new(policy: &EgressPolicy) -> Self {
        let mut names = Self { names: Vec::new(), positions: HashMap::new(), open: policy.allows_any_host() };
        for host in policy.hosts() {
            names.add(host);
        }
        names
    }

    /// The address of `name`, which is in lower case.
    pub(super) fn address(&mut self, name: &str) -> Option<Ipv4Addr> {
        let position = match self.positions.get(name) {
            Some(position) => *position,
            None if self.open && self.names.len() < MAX_NAMES => self.add(name),
            None => return None,
        };
        Some(Ipv4Addr::from_bits(FIRST.to_bits() + position as u32))
    }

    /// The name that `address` stands for.
    pub(super) fn name(&self, address: Ipv4Addr) -> Option<&str> {
        let position = address.to_bits().checked_sub(FIRST.to_bits())?;
        self.names.get(position as usize).map(String::as_str)
    }

    fn add(&mut self, name: &str) -> usize {
        let position = self.names.len();
        self.names.push(name.to_owned());
        self.positions.insert(name.to_owned(), position);
        position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_correspond() {
        let rules = ["a.com", "10.0.0.0/8:1", "b.com", "a.com:80"];
        let rules = rules.iter().map(|r| r.parse().unwrap()).collect();
        let mut names = Names::new(&EgressPolicy::new(rules, Vec::new()).unwrap());
        assert_eq!(names.address("a.com"), Some([198, 18, 1, 0].into()));
        assert_eq!(names.address("b.com"), Some([198, 18, 1, 1].into()));
        assert_eq!(names.address("c.com"), None);
        assert_eq!(names.name([198, 18, 1, 1].into()), Some("b.com"));
        for address in [[198, 18, 1, 2], [198, 18, 0, 255], [0, 0, 0, 0], [255, 255, 255, 255]] {
            assert_eq!(names.name(address.into()), None, "{address:?}");
        }
    }
}
