//! The configuration of a StratOS node: one TOML document, given at first boot, read strictly.
//!
//! ```toml
//! version = 1
//! hostname = "node-1"
//!
//! [network]
//! address = "192.0.2.10/24"      # without it: DHCP
//! gateway = "192.0.2.1"
//! dns = ["192.0.2.53"]
//!
//! [time]
//! servers = ["192.0.2.123"]
//!
//! [api]
//! listen = "0.0.0.0:8443"
//! token = "..."                  # without it one is made at first boot
//! certificate = """..."""        # PEM; without both a self-signed one is made at first boot
//! key = """..."""
//!
//! [cpu]
//! reserved = "1"                 # CPUs kept for functions that ask for them
//!
//! [functions.environment]        # variables that all functions on this node are given
//! AWS_REGION = "eu-central-1"
//!
//! [memory]
//! zram = 50                      # percent of the machine's memory; 0 for none
//! warm = true                    # read at boot what functions' starts have touched before
//! ```

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::NodeEnvironment;

/// Most bytes of a configuration.
pub const MAX_BYTES: usize = 256 << 10;

/// Fewest characters of a token: 128 bits in base64.
pub const MIN_TOKEN: usize = 22;
/// Most characters of a token.
pub const MAX_TOKEN: usize = 1024;

/// A node's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Version of the document's format: 1.
    pub version: u32,
    /// Host name, at most 63 of letters, digits and `-`; `stratos` without one.
    pub hostname: Option<String>,
    /// The network.
    pub network: NetworkConfig,
    /// The clock.
    pub time: TimeConfig,
    /// The node's API.
    pub api: ApiConfig,
    /// What functions are given.
    pub functions: FunctionsConfig,
    /// Who gets which CPU.
    pub cpu: CpuConfig,
    /// What memory is used for.
    pub memory: MemoryConfig,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            version: 1,
            hostname: None,
            network: NetworkConfig::default(),
            time: TimeConfig::default(),
            api: ApiConfig::default(),
            functions: FunctionsConfig::default(),
            cpu: CpuConfig::default(),
            memory: MemoryConfig::default(),
        }
    }
}

/// Addresses of a node; all of it from DHCP when there is no `address`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Name of the interface; the first one with hardware behind it without.
    pub interface: Option<String>,
    /// Address and prefix length, such as `192.0.2.10/24`.
    pub address: Option<String>,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers, in place of those DHCP names.
    pub dns: Vec<Ipv4Addr>,
}

/// A node's clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeConfig {
    /// NTP servers by address; the hardware clock alone without.
    pub servers: Vec<Ipv4Addr>,
}

/// A node's API on the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The token clients need; made at first boot without one.
    pub token: Option<String>,
    /// Certificate chain, PEM; self-signed and made at first boot without one.
    pub certificate: Option<String>,
    /// The certificate's private key, PEM.
    pub key: Option<String>,
}

impl Default for ApiConfig {
    fn default() -> Self {
        let listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8443));
        Self { listen, token: None, certificate: None, key: None }
    }
}

/// What functions are given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FunctionsConfig {
    /// Variables that all functions on this node are given.
    pub environment: BTreeMap<String, String>,
}

/// Who gets which CPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CpuConfig {
    /// CPUs that only functions with `cpu_class = "reserved"` run on, as a list such as `2-3,6`; none without. CPU 0
    /// stays with the system.
    pub reserved: Option<String>,
}

/// What memory is used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Most memory that compressed swap takes, in percent of the machine's, 0 to 80; 0 is none.
    pub zram: u8,
    /// Whether files that earlier starts of functions touched are read ahead at boot.
    pub warm: bool,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { zram: 25, warm: true }
    }
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum NodeConfigError {
    /// It is too large to be one.
    #[error("the node's configuration has {0} bytes, more than {MAX_BYTES}")]
    TooLarge(usize),
    /// It is not TOML, or has unknown keys or values of the wrong kind.
    #[error("the node's configuration, line {line}: {problem}")]
    Parse {
        /// Where, from 1.
        line: usize,
        /// What is wrong there. The line itself is not shown: it may hold a secret.
        problem: String,
    },
    /// A value makes no sense.
    #[error("the node's configuration: {key} {problem}")]
    Value {
        /// The key, such as `network.address`.
        key: &'static str,
        /// What is wrong with its value, and what it may be.
        problem: String,
    },
}

/// An error's message without the value that it is about, which may be a secret.
fn without_value(message: &str) -> String {
    let about_a_value = ["invalid type", "invalid value", "invalid length", "unknown variant"];
    match about_a_value.iter().find(|kind| message.starts_with(**kind)) {
        Some(kind) => match message.rsplit_once(", expected ") {
            Some((_, expected)) => format!("{kind}, expected {expected}"),
            None => (*kind).to_owned(),
        },
        None => message.to_owned(),
    }
}

impl NodeConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    /// See [`NodeConfigError`]; secrets are never part of one.
    pub fn parse(text: &str) -> Result<Self, NodeConfigError> {
        if text.len() > MAX_BYTES {
            return Err(NodeConfigError::TooLarge(text.len()));
        }
        let config: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            NodeConfigError::Parse { line, problem: without_value(error.message()) }
        })?;
        config.check()?;
        Ok(config)
    }

    /// The variables that all functions on this node are given.
    ///
    /// # Errors
    /// When one of them may not be given.
    pub fn function_environment(&self) -> Result<NodeEnvironment, NodeConfigError> {
        let checked = NodeEnvironment::new(self.functions.environment.clone());
        checked.map_err(|error| NodeConfigError::Value {
            key: "functions.environment",
            problem: format!("cannot be used: {error}"),
        })
    }

    fn check(&self) -> Result<(), NodeConfigError> {
        let wrong = |key, problem: &str| Err(NodeConfigError::Value { key, problem: problem.to_owned() });
        if self.version != 1 {
            return wrong("version", "has to be 1, the only format this version knows");
        }
        let legal = |name: &str| {
            let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            let inner = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
            name.len() <= 63 && inner && ends(name.chars().next()) && ends(name.chars().last())
        };
        if self.hostname.as_deref().is_some_and(|name| !legal(name)) {
            return wrong("hostname", "has to be 1 to 63 letters, digits and hyphens, none at an end");
        }
        if self.network.address.as_deref().is_some_and(|address| parse_address(address).is_none()) {
            return wrong(
                "network.address",
                "has to be an IPv4 address with its prefix length, such as 192.0.2.10/24",
            );
        }
        if self.network.address.is_none() && self.network.gateway.is_some() {
            return wrong("network.gateway", "needs network.address beside it");
        }
        if self.api.certificate.is_some() != self.api.key.is_some() {
            return wrong("api.certificate", "and api.key go together");
        }
        if self.api.token.as_deref().is_some_and(|token| !is_token(token)) {
            return wrong("api.token", "has to be 22 to 1024 visible ASCII characters");
        }
        if self
            .cpu
            .reserved
            .as_deref()
            .is_some_and(|list| parse_cpu_list(list).is_none_or(|cpus| cpus.contains(&0)))
        {
            return wrong("cpu.reserved", "has to be a list of CPUs such as 2-3,6, without CPU 0");
        }
        if self.memory.zram > 80 {
            return wrong("memory.zram", "has to be 0 to 80 percent");
        }
        self.function_environment().map(drop)
    }
}

/// Whether a text can be a node's token: long enough not to be guessed, and of what a header can carry.
pub fn is_token(text: &str) -> bool {
    (MIN_TOKEN..=MAX_TOKEN).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// An IPv4 address and its prefix length.
pub fn parse_address(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let prefix = prefix.parse().ok().filter(|prefix| (1..=32).contains(prefix))?;
    Some((address.parse().ok()?, prefix))
}

/// A list of CPUs as the kernel writes it (cpuset(7), "List format"), at most CPU 1023; sorted, each once.
pub fn parse_cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = std::collections::BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|cpu| *cpu < 1024);
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_a_configuration() {
        let config = NodeConfig::parse("").unwrap();
        assert_eq!(config, NodeConfig::default());
        assert_eq!(config.api.listen.to_string(), "0.0.0.0:8443");
    }

    #[test]
    fn mistakes_are_named_without_showing_secrets() {
        for (text, expected) in [
            ("version = 2", "version has to be 1"),
            ("hostname = '-a'", "hostname has to be"),
            ("[network]\naddress = '192.0.2.1'", "network.address has to be"),
            ("[network]\ngateway = '192.0.2.1'", "network.gateway needs"),
            ("[api]\nkey = 'secret'", "api.certificate and api.key go together"),
            ("[api]\ntoken = 'secret'", "api.token has to be 22 to 1024"),
            ("[cpu]\nreserved = '0-1'", "cpu.reserved has to be"),
            ("[cpu]\nreserved = '3-1'", "cpu.reserved has to be"),
            ("[memory]\nzram = 81", "memory.zram has to be"),
            (
                "[functions.environment]\nPORT = 'secret'",
                "functions.environment cannot be used: PORT is set by",
            ),
            ("[functions.environment]\nA = 5", "line 2: invalid type, expected a string"),
            ("[api]\ntokken = 'secret'", "line 2: unknown field `tokken`"),
            ("api = 'secret'", "line 1: invalid type, expected struct"),
            ("version = 1\n\n[memory]\nzram = 'secret'", "line 4: invalid type, expected u8"),
        ] {
            let error = NodeConfig::parse(text).unwrap_err();
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            let shown = format!("{error}: {source}");
            assert!(shown.contains(expected), "{shown}\nexpected {expected}");
            assert!(!shown.contains("secret"), "{shown}");
        }
    }

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(parse_cpu_list("2-3,6,3"), Some(vec![2, 3, 6]));
        for wrong in ["", "a", "1-", "2-1", "1024", "1,,2"] {
            assert_eq!(parse_cpu_list(wrong), None, "{wrong}");
        }
    }
}
