//! The token that TCP callers need: made once, kept in a file that only its owner reads.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use stratos_types::node_config::{self, MAX_TOKEN, MIN_TOKEN};

/// Longest token accepted from a file, in bytes.
const MAX_BYTES: u64 = 4096;

/// The node's token.
#[derive(Clone)]
pub struct Token {
    text: String,
    digest: [u8; 32],
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file could not be read or made.
    #[error("cannot {action} the token file {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Others than the owner can read or change the file.
    #[error("the token file {} can be used by others than its owner (mode {mode:o})", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds no usable token.
    #[error("the token file {} holds no token ({MIN_TOKEN} to {MAX_TOKEN} visible ASCII characters)", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The kernel gave no random bytes.
    #[error("the kernel gave no random bytes: {0}")]
    Random(getrandom::Error),
}

impl Token {
    /// Reads the token from `path`; makes 32 random bytes and the file, mode 0600, when there is none.
    ///
    /// # Errors
    /// When it cannot be read or made, or others could read it.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        let failed = |action, source| TokenError::File { action, path: path.to_owned(), source };
        match File::open(path) {
            Ok(file) => Self::read(file, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let token = Self::random()?;
                token.save(path).map_err(|e| failed("write", e))?;
                Ok(token)
            }
            Err(error) => Err(failed("open", error)),
        }
    }

    fn read(file: File, path: &Path) -> Result<Self, TokenError> {
        let failed = |source| TokenError::File { action: "read", path: path.to_owned(), source };
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(TokenError::Exposed { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text).map_err(failed)?;
        let text = text.trim();
        match node_config::is_token(text) {
            true => Ok(Self::from_text(text)),
            false => Err(TokenError::Malformed { path: path.to_owned() }),
        }
    }

    fn random() -> Result<Self, TokenError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(TokenError::Random)?;
        Ok(Self::from_text(&URL_SAFE_NO_PAD.encode(bytes)))
    }

    pub(super) fn from_text(text: &str) -> Self {
        Self { text: text.to_owned(), digest: Sha256::digest(text).into() }
    }

    /// Whole or not at all: a reader never sees half a token, and a crash leaves no empty file behind.
    fn save(&self, path: &Path) -> io::Result<()> {
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600))?;
        writeln!(file, "{}", self.text)?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path)?;
        Ok(())
    }

    /// Whether `given` is the token. Digests are compared, so that the time taken tells nothing about the token.
    pub fn matches(&self, given: &[u8]) -> bool {
        let given: [u8; 32] = Sha256::digest(given).into();
        given == self.digest
    }

    /// The token itself, as the secret key of AWS signatures.
    pub(super) fn secret(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/token");
        let made = Token::load(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(made.secret().len(), 43);
        let again = Token::load(&path).unwrap();
        assert!(again.matches(made.secret().as_bytes()));
        assert!(!again.matches(b"") && !again.matches(&made.secret().as_bytes()[1..]));
        assert!(!format!("{made:?}").contains(made.secret()));
    }

    #[test]
    fn a_file_that_is_no_secret_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        for (text, mode, says) in [
            ("x".repeat(40), 0o640, "can be used by others than its owner (mode 640)"),
            ("short".to_owned(), 0o600, "holds no token"),
            ("ü".repeat(40), 0o600, "holds no token"),
        ] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = Token::load(&path).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
