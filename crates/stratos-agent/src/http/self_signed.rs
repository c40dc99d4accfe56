//! A certificate that the node makes for itself, once: clients are given it as the one to trust.

use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use super::listeners::TlsFiles;

/// Longest host name in the kernel (HOST_NAME_MAX is 64) that is a name in a certificate, too.
const MAX_NAME: usize = 63;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum SelfSignedError {
    /// Only one of the two files is there. It is not overwritten.
    #[error("{} is there, and {} is not", there.display(), missing.display())]
    Half {
        /// The file that is there.
        there: PathBuf,
        /// The other one.
        missing: PathBuf,
    },
    /// Key or certificate could not be made.
    #[error("the key or certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// The key that is there could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Makes key and certificate unless they are there.
pub(super) fn make_once(files: &TlsFiles) -> Result<(), SelfSignedError> {
    let key = match (files.certificate.exists(), files.key.exists()) {
        (true, true) => return Ok(()),
        (true, false) => {
            return Err(SelfSignedError::Half {
                there: files.certificate.clone(),
                missing: files.key.clone(),
            });
        }
        // A power cut came between the two, or somebody wants another certificate. A key is never replaced: it may be
        // of use elsewhere.
        (false, true) => {
            let read = |source| SelfSignedError::Read { path: files.key.clone(), source };
            KeyPair::from_pem(&std::fs::read_to_string(&files.key).map_err(read)?)?
        }
        (false, false) => KeyPair::generate()?,
    };
    let mut params = CertificateParams::new(names())?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, "StratOS node");
    params.distinguished_name = name;
    let certificate = params.self_signed(&key)?;
    let write = |path: &Path, text: &str| {
        save(path, text).map_err(|source| SelfSignedError::Write { path: path.to_owned(), source })
    };
    if !files.key.exists() {
        write(&files.key, &key.serialize_pem())?;
    }
    write(&files.certificate, &certificate.pem())?;
    tracing::info!("made a certificate for this node: {}", files.certificate.display());
    Ok(())
}

/// What clients may call this machine: its names and its addresses as they are now.
fn names() -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if !host.is_empty() && host.len() <= MAX_NAME && host.chars().all(legal) {
        names.push(host);
    }
    match stratos_sys::address::own() {
        Ok(addresses) => names.extend(addresses.iter().map(ToString::to_string)),
        Err(error) => tracing::warn!(%error, "this machine's addresses are not in its certificate"),
    }
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// Whole or not at all, for the owner alone.
fn save(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    std::fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let files = TlsFiles {
            certificate: dir.path().join("tls/node.pem"),
            key: dir.path().join("tls/node.key"),
            make: true,
        };
        let read = || [&files.certificate, &files.key].map(|path| std::fs::read_to_string(path).unwrap());
        make_once(&files).unwrap();
        let made = read();
        make_once(&files).unwrap();
        assert_eq!(read(), made);
        for path in [&files.certificate, &files.key] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        std::fs::remove_file(&files.key).unwrap();
        assert!(matches!(make_once(&files), Err(SelfSignedError::Half { .. })));
        assert!(!files.key.exists());
        // A key alone is what an interrupted first start leaves, and may be somebody's.
        std::fs::remove_file(&files.certificate).unwrap();
        std::fs::write(&files.key, "not a key").unwrap();
        assert!(matches!(make_once(&files), Err(SelfSignedError::Make(_))));
        assert_eq!(std::fs::read_to_string(&files.key).unwrap(), "not a key");
        std::fs::write(&files.key, &made[1]).unwrap();
        make_once(&files).unwrap();
        assert_eq!(read()[1], made[1]);
    }

    #[test]
    fn the_machine_is_named_in_it() {
        let names = names();
        for name in ["localhost", "127.0.0.1", "::1"] {
            assert_eq!(names.iter().filter(|n| *n == name).count(), 1, "{names:?}");
        }
        CertificateParams::new(names).unwrap();
    }
}
