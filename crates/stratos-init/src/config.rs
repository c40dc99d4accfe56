//! The node's configuration: where it comes from, and what is made of it before services start.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use stratos_types::NodeConfig;
use stratos_types::node_config::MAX_BYTES;

use crate::boot::Node;
use crate::disk::{self, Device};
use crate::error::InitError;
use crate::files;
use crate::patience;
use crate::phase::Outcome;
use crate::{nocloud, smbios, user_data};

/// Where the configuration is kept for the next boot.
pub const KEPT: &str = "/var/lib/stratos/node.toml";
/// Where the one in force is, for `stratos-init network` and `stratos-init time`.
pub const IN_FORCE: &str = "/run/stratos/node.toml";
/// The API's token, certificate and key.
pub const TOKEN: &str = "/var/lib/stratos/token";
const TLS_FOLDER: &str = "/var/lib/stratos/tls";
/// The certificate.
pub const CERTIFICATE: &str = "/var/lib/stratos/tls/node.pem";
/// Its key.
pub const KEY: &str = "/var/lib/stratos/tls/node.key";
/// Tells that certificate and key were given by a configuration, and not made by the agent.
const GIVEN: &str = "/var/lib/stratos/tls/given";

/// The variables that the node gives to all functions.
const FUNCTION_ENVIRONMENT: &str = "/run/stratos/functions.toml";

/// Name of the systemd credential.
const CREDENTIAL: &str = "stratos.config";
const SMBIOS: &str = "/sys/firmware/dmi/tables/DMI";
/// How long a disk may take to be read.
const DISK_DEADLINE: Duration = Duration::from_secs(20);

/// Text of a configuration, and where it was found.
struct Found {
    text: String,
    place: &'static str,
}

/// Finds the configuration, keeps it, and writes what is in it for the agent.
///
/// # Errors
/// When one is there and makes no sense: the node then runs with an earlier one, or with the defaults.
pub fn load(node: &mut Node) -> Result<Outcome, InitError> {
    files::folder("/run/stratos")?;
    let kept = || files::read_text(KEPT, MAX_BYTES).ok().map(|text| Found { text, place: "the state" });
    let accepted = |found: Found| accept(&found).map(|config| (found, config));
    // Wrong is worse than old: what worked before goes on to work, and the error is told.
    let (result, in_force) = match given().and_then(|found| found.map(accepted).transpose()) {
        Ok(Some(good)) => (Ok(()), Some(good)),
        Ok(None) => match kept().map(accepted).transpose() {
            Ok(good) => (Ok(()), good),
            Err(error) => (Err(error), None),
        },
        Err(error) => (Err(error), kept().map(accepted).transpose().ok().flatten()),
    };
    let Some((found, config)) = in_force else {
        write_in_force(&NodeConfig::default())?;
        return result.and_then(|()| Outcome::skipped("none is given: defaults"));
    };
    write_in_force(&config)?;
    node.config = config;
    // Also where the state is in memory: the agent takes token and certificate from there.
    let kept = keep(&found.text, &node.config);
    result.and(kept)?;
    Outcome::done(format!("from {}", found.place))
}

/// What this boot was given.
fn given() -> Result<Option<Found>, InitError> {
    if let Some(text) = smbios_credential()? {
        return Ok(Some(Found { text, place: "a systemd credential" }));
    }
    Ok(nocloud()?.map(|text| Found { text, place: "a NoCloud disk" }))
}

fn accept(found: &Found) -> Result<NodeConfig, InitError> {
    NodeConfig::parse(&found.text)
        .map_err(|source| InitError::Config { place: found.place.to_owned(), source })
}

/// Writes what the services `network` and `time` have to know, and none of the API's secrets: they read what comes from
/// a network.
fn write_in_force(config: &NodeConfig) -> Result<(), InitError> {
    files::replace(IN_FORCE, in_force(config)?.as_bytes(), 0o600)
}

fn in_force(config: &NodeConfig) -> Result<String, InitError> {
    let NodeConfig { version, hostname, network, time, .. } = config.clone();
    let part = NodeConfig { version, hostname, network, time, ..NodeConfig::default() };
    toml::to_string(&part).map_err(|error| InitError::invalid("the configuration", error.to_string()))
}

/// Keeps a configuration, and its secrets where the agent looks for them. What is there already is not written again.
fn keep(text: &str, config: &NodeConfig) -> Result<(), InitError> {
    let write = |path: &str, text: &str| match files::read_text(path, MAX_BYTES) {
        Ok(there) if there == text => Ok(()),
        _ => files::replace(path, text.as_bytes(), 0o600),
    };
    write(KEPT, text)?;
    if let Some(variables) = function_environment(config) {
        write(FUNCTION_ENVIRONMENT, &variables)?;
    }
    if let Some(token) = &config.api.token {
        write(TOKEN, &format!("{token}\n"))?;
    }
    if let (Some(certificate), Some(key)) = (&config.api.certificate, &config.api.key) {
        files::folder(TLS_FOLDER)?;
        write(GIVEN, "")?;
        write(CERTIFICATE, certificate)?;
        return write(KEY, key);
    }
    // A configured certificate does not outlive its configuration: the agent makes one of its own.
    if std::fs::exists(GIVEN).unwrap_or(false) {
        for path in [CERTIFICATE, KEY, GIVEN] {
            match std::fs::remove_file(path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(InitError::file("remove", path, source));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The variables of functions as the agent reads them; `None` without any.
fn function_environment(config: &NodeConfig) -> Option<String> {
    // Those that may not be given were refused with the configuration.
    let variables = config.function_environment().ok()?;
    (!variables.is_empty()).then(|| variables.to_toml())
}

/// The credential in the firmware's tables; `None` without such tables, or a credential.
fn smbios_credential() -> Result<Option<String>, InitError> {
    let tables = match files::read(SMBIOS, smbios::MAX_BYTES) {
        Ok(tables) => tables,
        Err(InitError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    smbios::credential(&tables, CREDENTIAL)
        .map_err(|problem| InitError::invalid(format!("the systemd credential {CREDENTIAL}"), problem))
}

/// The configuration on a NoCloud disk; `None` without such a disk, or when it is for somebody else. What is wrong with
/// one disk does not keep another one from being read.
fn nocloud() -> Result<Option<String>, InitError> {
    let mut result = Ok(None);
    for name in disk::whole()? {
        match nocloud_disk(&name) {
            Ok(Some(text)) => return Ok(Some(text)),
            Ok(None) => {}
            Err(error) => result = Err(error),
        }
    }
    result
}

fn nocloud_disk(name: &str) -> Result<Option<String>, InitError> {
    let Some(device) = Device::named(name) else { return Ok(None) };
    let looked = patience::within(DISK_DEADLINE, "nocloud", move || look(&device));
    let late = || InitError::Late { what: format!("disk {name}"), after: DISK_DEADLINE };
    let bytes = match looked.ok_or_else(late)? {
        nocloud::Disk::UserData(bytes) => bytes,
        nocloud::Disk::Other => return Ok(None),
        nocloud::Disk::Damaged(problem) => {
            return Err(InitError::invalid(format!("the NoCloud disk {name}"), problem));
        }
    };
    let text = user_data::config(&bytes)
        .map_err(|problem| InitError::invalid(format!("user-data of the NoCloud disk {name}"), problem))?;
    Ok(text.map(str::to_owned))
}

fn look(device: &Device) -> nocloud::Disk {
    let Ok(file) = File::open(device.path()) else { return nocloud::Disk::Other };
    let mut read = |at: u64, length: usize| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
    };
    nocloud::look(&mut read, MAX_BYTES)
}

/// What the configuration says of the API and of functions, as the agent's environment.
pub fn environment(config: &NodeConfig) -> Vec<(&'static str, String)> {
    let mut environment = vec![
        ("STRATOS_LISTEN", config.api.listen.to_string()),
        ("STRATOS_TOKEN_FILE", TOKEN.to_owned()),
        ("STRATOS_TLS_CERT", CERTIFICATE.to_owned()),
        ("STRATOS_TLS_KEY", KEY.to_owned()),
        ("STRATOS_WARM", u8::from(config.memory.warm).to_string()),
    ];
    if config.api.certificate.is_none() {
        environment.push(("STRATOS_TLS_SELF_SIGNED", "1".to_owned()));
    }
    if function_environment(config).is_some() {
        environment.push(("STRATOS_FUNCTION_ENVIRONMENT", FUNCTION_ENVIRONMENT.to_owned()));
    }
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_on_the_network_do_not_see_the_secrets() {
        let config = NodeConfig::parse(
            "hostname = 'n'\n[network]\naddress = '192.0.2.1/24'\n[time]\nservers = ['192.0.2.2']\n\
             [functions.environment]\nA = 'SECRET'\n[api]\ntoken = '0123456789abcdef0123456789abcdef'\ncertificate = 'CERT'\nkey = 'SECRET'",
        )
        .unwrap();
        let text = in_force(&config).unwrap();
        assert!(!text.contains("SECRET") && !text.contains("0123456789abcdef"), "{text}");
        let part = NodeConfig::parse(&text).unwrap();
        assert_eq!((part.hostname, part.network, part.time), (config.hostname, config.network, config.time));
    }

    #[test]
    fn the_agent_is_told_what_the_configuration_says() {
        let environment_of = |text: &str| {
            let config = NodeConfig::parse(text).unwrap();
            environment(&config)
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            environment_of(""),
            "STRATOS_LISTEN=0.0.0.0:8443 STRATOS_TOKEN_FILE=/var/lib/stratos/token \
             STRATOS_TLS_CERT=/var/lib/stratos/tls/node.pem STRATOS_TLS_KEY=/var/lib/stratos/tls/node.key \
             STRATOS_WARM=1 STRATOS_TLS_SELF_SIGNED=1"
        );
        let given = environment_of(
            "[api]\nlisten = '127.0.0.1:1'\ncertificate = 'c'\nkey = 'k'\n[memory]\nwarm = false",
        );
        assert!(given.starts_with("STRATOS_LISTEN=127.0.0.1:1 "), "{given}");
        assert!(given.ends_with(" STRATOS_WARM=0"), "{given}");
        let variables = "[functions.environment]\nAWS_REGION = 'eu-central-1'";
        let given = environment_of(variables);
        assert!(given.ends_with(" STRATOS_FUNCTION_ENVIRONMENT=/run/stratos/functions.toml"), "{given}");
        let written = function_environment(&NodeConfig::parse(variables).unwrap()).unwrap();
        assert_eq!(written, "AWS_REGION = \"eu-central-1\"\n");
    }
}
