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
    let given = match smbios_credential()? {
        Some(text) => Some(Found { text, place: "a systemd credential" }),
        None => nocloud()?.map(|text| Found { text, place: "a NoCloud disk" }),
    };
    let (result, in_force) = match given {
        Some(found) => match accept(&found) {
            Ok(config) => (Ok((config, found.place)), Some(found)),
            // Wrong is worse than old: what worked before goes on to work, and the error is told.
            Err(error) => (Err(error), kept()),
        },
        None => match kept() {
            Some(found) => (accept(&found).map(|config| (config, found.place)), Some(found)),
            None => {
                write_in_force("")?;
                return Outcome::skipped("none is given: defaults");
            }
        },
    };
    match (result, in_force) {
        (Ok((config, place)), Some(found)) => {
            write_in_force(&found.text)?;
            node.config = config;
            if node.state_is_kept {
                keep(&found.text, &node.config)?;
            }
            Outcome::done(format!("from {place}"))
        }
        (Err(error), Some(found)) => {
            let config = accept(&found).unwrap_or_default();
            write_in_force(if config == NodeConfig::default() { "" } else { &found.text })?;
            node.config = config;
            Err(error)
        }
        (Err(error), None) => {
            write_in_force("")?;
            Err(error)
        }
        (Ok(_), None) => Outcome::skipped("none is given: defaults"),
    }
}

fn accept(found: &Found) -> Result<NodeConfig, InitError> {
    NodeConfig::parse(&found.text)
        .map_err(|source| InitError::Config { place: found.place.to_owned(), source })
}

fn write_in_force(text: &str) -> Result<(), InitError> {
    files::replace(IN_FORCE, text.as_bytes(), 0o600)
}

/// Keeps a configuration, and its secrets where the agent looks for them. What is there already is not written again.
fn keep(text: &str, config: &NodeConfig) -> Result<(), InitError> {
    let write = |path: &str, text: &str| match files::read_text(path, MAX_BYTES) {
        Ok(there) if there == text => Ok(()),
        _ => files::replace(path, text.as_bytes(), 0o600),
    };
    write(KEPT, text)?;
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

/// The configuration on a NoCloud disk; `None` without such a disk, or when it is for somebody else.
fn nocloud() -> Result<Option<String>, InitError> {
    for name in disk::whole()? {
        let Some(device) = Device::named(&name) else { continue };
        let looked = patience::within(DISK_DEADLINE, "nocloud", move || look(&device));
        let looked = looked.ok_or(InitError::Late { what: format!("disk {name}"), after: DISK_DEADLINE })?;
        let bytes = match looked {
            nocloud::Disk::UserData(bytes) => bytes,
            nocloud::Disk::Other => continue,
            nocloud::Disk::Damaged(problem) => {
                return Err(InitError::invalid(format!("the NoCloud disk {name}"), problem));
            }
        };
        match user_data::config(&bytes) {
            Ok(Some(text)) => return Ok(Some(text.to_owned())),
            Ok(None) => {}
            Err(problem) => return Err(InitError::invalid("user-data of the NoCloud disk", problem)),
        }
    }
    Ok(None)
}

fn look(device: &Device) -> nocloud::Disk {
    let Ok(file) = File::open(device.path()) else { return nocloud::Disk::Other };
    let mut read = |at: u64, length: usize| {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
    };
    nocloud::look(&mut read, MAX_BYTES)
}

/// What the configuration says of the API, as the agent's environment.
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
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
