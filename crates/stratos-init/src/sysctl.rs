//! Kernel settings from `sysctl.toml`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::InitError;
use crate::files;
use crate::phase::Outcome;

/// Where they are in the root.
pub const PATH: &str = "/usr/share/stratos/sysctl.toml";
const MOST_BYTES: usize = 64 << 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    sysctl: Vec<Sysctl>,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sysctl {
    /// Its name, with points.
    pub key: String,
    /// Its value.
    pub value: String,
    /// Why it has this value.
    pub reason: String,
    /// Whether it is set last, when the boot has done what it forbids.
    #[serde(default)]
    pub last: bool,
}

impl Sysctl {
    fn path(&self) -> PathBuf {
        Path::new("/proc/sys").join(self.key.replace('.', "/"))
    }
}

/// Reads a document of settings.
///
/// # Errors
/// When it is none, or a setting has no reason or no proper name.
pub fn parse(path: &Path, text: &str) -> Result<Vec<Sysctl>, InitError> {
    let document: Document = toml::from_str(text)
        .map_err(|source| InitError::Toml { path: path.to_owned(), source: Box::new(source) })?;
    for sysctl in &document.sysctl {
        let part = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        };
        if !sysctl.key.split('.').all(part) || sysctl.reason.is_empty() {
            return Err(InitError::invalid(sysctl.key.as_str(), "needs a proper name and a reason"));
        }
    }
    Ok(document.sysctl)
}

/// Sets what is to be set now: the last ones, or the others.
///
/// # Errors
/// When the document cannot be read. A setting that this kernel lacks is told, and no failure.
pub fn apply(last: bool) -> Result<Outcome, InitError> {
    let path = Path::new(PATH);
    let sysctls = parse(path, &files::read_text(path, MOST_BYTES)?)?;
    let (mut set, mut lacking, mut refused) = (0, Vec::new(), Vec::new());
    for sysctl in sysctls.iter().filter(|sysctl| sysctl.last == last) {
        match files::write_value(sysctl.path(), &sysctl.value) {
            Ok(()) => set += 1,
            Err(InitError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                lacking.push(sysctl.key.as_str());
            }
            Err(error) => refused.push(error.chain()),
        }
    }
    let lacking = match lacking.is_empty() {
        true => String::new(),
        false => format!("; not in this kernel: {}", lacking.join(", ")),
    };
    match refused.is_empty() {
        true => Outcome::done(format!("{set} set{lacking}")),
        false => Err(InitError::invalid(format!("{set} set{lacking}"), refused.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_the_distribution_are_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../distro/sysctl.toml");
        let sysctls = parse(&path, &std::fs::read_to_string(&path).unwrap()).unwrap();
        let mut keys: Vec<_> = sysctls.iter().map(|sysctl| &sysctl.key).collect();
        assert!(keys.len() > 20);
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), sysctls.len(), "each key once");
        for sysctl in &sysctls {
            // All of these are in every kernel of this machine's kind, apart from a few.
            assert!(sysctl.reason.len() > 20, "{}", sysctl.key);
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("[[sysctl]]\nkey = 'a'\nvalue = '1'", "missing field `reason`"),
            ("[[sysctl]]\nkey = 'a/b'\nvalue = '1'\nreason = 'x'", "a/b: needs a proper name"),
            ("[[sysctl]]\nkey = '..'\nvalue = '1'\nreason = 'x'", "..: needs a proper name"),
            ("[[sysctl]]\nkey = 'a'\nvalue = '1'\nreason = ''", "a: needs a proper name and a reason"),
            ("[[sysctl]]\nkey = 'a'\nvalue = '1'\nreason = 'x'\nwhy = ''", "unknown field `why`"),
        ] {
            let error = parse(Path::new("s.toml"), text).unwrap_err().chain();
            assert!(error.contains(expected), "{error}\nexpected {expected}");
        }
    }
}
