//! Where the node listens: a Unix socket always, TCP when asked for, with TLS beyond loopback.
//!
//! Everything that can be wrong with this is found here, before the node answers anyone.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixSocket};
use tokio_rustls::TlsAcceptor;

use super::self_signed::{self, SelfSignedError};
use super::token::{Token, TokenError};

/// Connections that may wait to be accepted: a burst of clients must not be refused by the kernel.
const BACKLOG: u32 = 4096;

/// Where to listen.
#[derive(Debug, Clone)]
pub struct ListenConfig {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// TCP address, if any.
    pub tcp: Option<SocketAddr>,
    /// Certificate and key for TCP; required beyond loopback.
    pub tls: Option<TlsFiles>,
    /// Where the token for TCP is kept; made when it does not exist.
    pub token_file: PathBuf,
}

/// Files for TLS, PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The node's certificate, followed by those it hangs on.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Make both when neither is there.
    pub make: bool,
}

/// Why the node cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The Unix socket cannot be made.
    #[error("cannot listen on the socket {}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process answers on the Unix socket.
    #[error("another agent answers on {}", path.display())]
    SocketInUse {
        /// Its path.
        path: PathBuf,
    },
    /// Something that is no socket is in the way.
    #[error("{} is not a socket", path.display())]
    NotASocket {
        /// Its path.
        path: PathBuf,
    },
    /// The TCP address cannot be used.
    #[error("cannot listen on {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Beyond loopback, the token would cross the network in the clear.
    #[error("{address} can be reached from other machines and has no TLS")]
    NeedsTls {
        /// The address.
        address: SocketAddr,
    },
    /// No certificate could be made.
    #[error("cannot make a certificate")]
    SelfSigned(#[from] SelfSignedError),
    /// A certificate or key cannot be used.
    #[error("cannot use {} for TLS: {reason}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no token.
    #[error("cannot set up the token for TCP")]
    Token(#[from] TokenError),
}

impl ListenError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Socket { .. } => "run as root, or name a socket in a folder you can write with --socket",
            Self::SocketInUse { .. } => "stop that agent first, or give this one its own --socket",
            Self::NotASocket { .. } => "move it away, or name another path with --socket",
            Self::Tcp { .. } => "choose a free port of an address that this machine has",
            Self::NeedsTls { .. } => {
                "give --tls-cert FILE and --tls-key FILE, or --tls-self-signed, or listen on 127.0.0.1 behind a \
                 proxy that does TLS"
            }
            Self::SelfSigned(SelfSignedError::Half { .. }) => {
                "put the other file back, or remove this one too to have both made anew"
            }
            Self::SelfSigned(_) => {
                "choose a folder that can be written, with --tls-cert and --tls-key or --state"
            }
            Self::Tls { .. } => "both files are PEM: the certificate chain, and the key that belongs to it",
            Self::Token(TokenError::Exposed { .. }) => "chmod 600 the file; replace the token if it was seen",
            Self::Token(_) => "remove the file to have a new token made",
        }
    }
}

/// Bound sockets that nobody accepts from yet: connections wait in the kernel.
pub struct Listeners {
    pub(super) unix: UnixListener,
    pub(super) socket: PathBuf,
    pub(super) tcp: Option<Tcp>,
}

pub(super) struct Tcp {
    pub(super) listener: TcpListener,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) token: Token,
}

impl Listeners {
    /// Binds all sockets. To be called within a tokio runtime.
    ///
    /// # Errors
    /// When one of them cannot be had, or would not be safe.
    pub fn bind(config: &ListenConfig) -> Result<Self, ListenError> {
        let tcp = config.tcp.map(|address| bind_tcp(address, config)).transpose()?;
        let unix = bind_unix(&config.socket)?;
        Ok(Self { unix, socket: config.socket.clone(), tcp })
    }

    /// The TCP address in use, its port chosen by the kernel if port 0 was asked for.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.listener.local_addr().ok())
    }
}

fn bind_tcp(address: SocketAddr, config: &ListenConfig) -> Result<Tcp, ListenError> {
    if config.tls.is_none() && !address.ip().is_loopback() {
        return Err(ListenError::NeedsTls { address });
    }
    if let Some(files) = config.tls.as_ref().filter(|files| files.make) {
        self_signed::make_once(files)?;
    }
    let tls = config.tls.as_ref().map(tls_acceptor).transpose()?;
    let token = Token::load(&config.token_file)?;
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Without it a restarted node would find its own old connections in the way.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    let listener = bind().map_err(|source| ListenError::Tcp { address, source })?;
    Ok(Tcp { listener, tls, token })
}

/// The socket appears under its name complete, with its mode set and listening, in place of a stale one.
fn bind_unix(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = |source| ListenError::Socket { path: path.to_owned(), source };
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(failed)?;
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: path.to_owned() });
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(ListenError::SocketInUse { path: path.to_owned() });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let bind = || {
        // In a folder only we can enter, nobody connects before the mode is set.
        let private = tempfile::Builder::new().prefix(".").tempdir_in(dir)?;
        let temporary = private.path().join("s");
        let socket = UnixSocket::new_stream()?;
        socket.bind(&temporary)?;
        std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o660))?;
        let listener = socket.listen(BACKLOG)?;
        std::fs::rename(&temporary, path)?;
        Ok(listener)
    };
    bind().map_err(failed)
}

fn tls_acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ListenError> {
    let wrong = |path: &Path, reason: &dyn std::fmt::Display| ListenError::Tls {
        path: path.to_owned(),
        reason: reason.to_string(),
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| wrong(&files.certificate, &e))?;
    if chain.is_empty() {
        return Err(wrong(&files.certificate, &"it holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| wrong(&files.key, &e))?;
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| wrong(&files.certificate, &e))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|e| wrong(&files.key, &e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Removes the socket from its path unless another agent has put its own there.
pub(super) fn unlink(path: &Path, ours: Option<u64>) {
    let inode = std::fs::symlink_metadata(path).ok().map(|m| m.ino());
    if inode.is_some()
        && inode == ours
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove the API socket");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path) -> ListenConfig {
        ListenConfig { socket: dir.join("run/api.sock"), tcp: None, tls: None, token_file: dir.join("token") }
    }

    #[tokio::test]
    async fn the_socket_replaces_a_stale_one_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let first = Listeners::bind(&config).unwrap();
        let meta = std::fs::metadata(&config.socket).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o660);
        assert!(matches!(Listeners::bind(&config), Err(ListenError::SocketInUse { .. })));
        drop(first);
        drop(Listeners::bind(&config).unwrap());
        assert_eq!(std::fs::read_dir(config.socket.parent().unwrap()).unwrap().count(), 1);
        std::fs::remove_file(&config.socket).unwrap();
        std::fs::write(&config.socket, "mine").unwrap();
        assert!(matches!(Listeners::bind(&config), Err(ListenError::NotASocket { .. })));
        assert!(!config.token_file.exists(), "no TCP, no token");
    }

    #[tokio::test]
    async fn beyond_loopback_needs_tls() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:443"] {
            let config = ListenConfig { tcp: Some(address.parse().unwrap()), ..config.clone() };
            let Err(error) = Listeners::bind(&config) else { panic!("{address} was bound") };
            assert!(matches!(error, ListenError::NeedsTls { .. }) && error.hint().contains("--tls-cert"));
        }
        let loopback = ListenConfig { tcp: Some("127.0.0.1:0".parse().unwrap()), ..config.clone() };
        let bound = Listeners::bind(&loopback).unwrap();
        assert_ne!(bound.tcp_address().unwrap().port(), 0);
        assert!(config.token_file.exists());
    }

    #[tokio::test]
    async fn unusable_tls_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&certificate, "nothing").unwrap();
        let tls = Some(TlsFiles { certificate: certificate.clone(), key: key.clone(), make: false });
        let config = ListenConfig { tcp: Some("127.0.0.1:0".parse().unwrap()), tls, ..config(dir.path()) };
        let fails = |says: &str| {
            let Err(error) = Listeners::bind(&config) else { panic!("{says}: was bound") };
            assert!(error.to_string().contains(says), "{error}");
        };
        fails("cert.pem for TLS: it holds no certificate");
        let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&certificate, pair.cert.pem()).unwrap();
        fails("key.pem for TLS");
        let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&key, other.signing_key.serialize_pem()).unwrap();
        fails("key.pem for TLS");
        std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
        assert!(Listeners::bind(&config).is_ok());
    }
}
