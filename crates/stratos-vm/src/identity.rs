//! Who a machine is to its clients: a token and a certificate, made by its owner.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use stratos_api::client::{Client, Endpoint};
use stratos_types::NodeConfig;
use tempfile::TempDir;

use crate::error::{VmError, at};

/// A node's token, and its certificate with its key, in a folder that only their owner may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    folder: PathBuf,
    token: String,
    certificate: String,
    key: String,
}

impl Identity {
    /// Makes a new one and keeps it in `folder`.
    ///
    /// # Errors
    /// When no random bytes are to be had, or a file cannot be written.
    pub fn create(folder: &Path) -> Result<Self, VmError> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|e| at("read", Path::new("/dev/urandom"))(e.into()))?;
        let key = rcgen::KeyPair::generate()?;
        let mut names = rcgen::CertificateParams::new(["127.0.0.1".into(), "localhost".into()])?;
        names.distinguished_name.push(rcgen::DnType::CommonName, "StratOS virtual machine");
        let identity = Self {
            folder: folder.to_owned(),
            token: URL_SAFE_NO_PAD.encode(random),
            certificate: names.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        };
        std::fs::create_dir_all(folder).map_err(at("create", folder))?;
        write_secret(&identity.token_file(), identity.token.as_bytes())?;
        write_secret(&identity.certificate_file(), identity.certificate.as_bytes())?;
        write_secret(&identity.key_file(), identity.key.as_bytes())?;
        Ok(identity)
    }

    /// Reads the one that is kept in `folder`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn open(folder: &Path) -> Result<Self, VmError> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read_to_string(&path).map_err(at("read", &path))
        };
        let (token, certificate, key) = (read("token")?, read("node.pem")?, read("node.key")?);
        Ok(Self { folder: folder.to_owned(), token, certificate, key })
    }

    /// Removes the one that is kept in `folder`, as far as there is one.
    pub fn remove(folder: &Path) {
        for name in ["token", "node.pem", "node.key"] {
            // Whoever makes the next one there replaces what cannot be removed, or fails.
            std::fs::remove_file(folder.join(name)).unwrap_or_default();
        }
    }

    /// File with the token, for `--token-file`.
    pub fn token_file(&self) -> PathBuf {
        self.folder.join("token")
    }

    /// File with the certificate, for `--ca`.
    pub fn certificate_file(&self) -> PathBuf {
        self.folder.join("node.pem")
    }

    fn key_file(&self) -> PathBuf {
        self.folder.join("node.key")
    }

    /// The token itself.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Gives a node this identity.
    pub fn apply(&self, config: &mut NodeConfig) {
        config.api.token = Some(self.token.clone());
        config.api.certificate = Some(self.certificate.clone());
        config.api.key = Some(self.key.clone());
    }

    /// A client of a node with this identity on a port of this machine.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn client(&self, port: u16) -> Result<Client, VmError> {
        let client = Client::new(Endpoint::Https(format!("127.0.0.1:{port}")), Some(&self.token))?;
        Ok(client.trust(&self.certificate_file())?)
    }
}

/// Makes a folder for what holds a machine's token and key, such as its disk: only its owner may enter it.
pub(crate) fn folder_for_owner(parent: &Path, prefix: &str) -> Result<TempDir, VmError> {
    let made =
        tempfile::Builder::new().prefix(prefix).permissions(Permissions::from_mode(0o700)).tempdir_in(parent);
    made.map_err(at("create a folder in", parent))
}

/// Writes a file that only its owner may read.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), VmError> {
    // Removed first: the mode counts when a file is made.
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(at("replace", path)(e)),
        _ => {}
    }
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(bytes)).map_err(at("write", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_identity_is_its_owners_alone_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let made = Identity::create(folder.path()).unwrap();
        for entry in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
        }
        assert_eq!(Identity::open(folder.path()).unwrap(), made);
        let again = Identity::create(folder.path()).unwrap();
        assert_ne!(again.token, made.token);
        again.client(1).unwrap();
    }

    #[test]
    fn a_node_takes_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = NodeConfig::default();
        Identity::create(folder.path()).unwrap().apply(&mut config);
        let text = toml::to_string(&config).unwrap();
        assert_eq!(NodeConfig::parse(&text).unwrap(), config, "{text}");
    }
}
