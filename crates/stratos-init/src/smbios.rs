//! SMBIOS, as far as it hands over a configuration: the strings of its "OEM strings" tables (type 11), in which systemd
//! credentials come to a virtual machine. Pure: the host's bytes in, text out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Most bytes of all tables together that are read.
pub const MAX_BYTES: usize = 1 << 20;
const OEM_STRINGS: u8 = 11;
const END: u8 = 127;
const BINARY: &str = "io.systemd.credential.binary:";
const TEXT: &str = "io.systemd.credential:";

/// The text of the credential `name`, `None` when no table has it. The first one counts.
///
/// # Errors
/// When it is there and is no text: what is wrong with it.
pub fn credential(tables: &[u8], name: &str) -> Result<Option<String>, &'static str> {
    for string in (Strings { rest: tables, strings: &[] }) {
        let value = |prefix: &str| {
            let text = string.strip_prefix(prefix.as_bytes())?;
            text.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
        };
        let bytes = if let Some(base64) = value(BINARY) {
            STANDARD.decode(base64).map_err(|_| "its base64 is damaged")?
        } else if let Some(text) = value(TEXT) {
            text.to_vec()
        } else {
            continue;
        };
        return String::from_utf8(bytes).map(Some).map_err(|_| "it is not UTF-8");
    }
    Ok(None)
}

/// Every string of the tables of type 11. Ends where the tables do, or make no sense any more.
struct Strings<'a> {
    rest: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            if !self.strings.is_empty() {
                let end = self.strings.iter().position(|byte| *byte == 0).unwrap_or(self.strings.len());
                let (string, rest) = self.strings.split_at(end);
                self.strings = rest.get(1..).unwrap_or_default();
                return Some(string);
            }
            // A structure: its kind, the length of its fixed part, a handle; then strings, each ended by a zero, and
            // another zero after the last.
            let (kind, length) = (*self.rest.first()?, usize::from(*self.rest.get(1)?));
            let after = self.rest.get(length.max(4)..)?;
            let end = after.windows(2).position(|pair| pair == [0, 0])?;
            self.rest = after.get(end + 2..)?;
            match kind {
                OEM_STRINGS => self.strings = after.get(..end)?,
                END => return None,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn structure(kind: u8, strings: &[&str]) -> Vec<u8> {
        let mut bytes = vec![kind, 5, 0, 1, strings.len() as u8];
        for string in strings {
            bytes.extend(string.bytes().chain([0]));
        }
        if strings.is_empty() {
            bytes.push(0);
        }
        bytes.push(0);
        bytes
    }

    #[test]
    fn a_credential_is_found_among_other_tables() {
        let tables = [
            structure(1, &["QEMU", "io.systemd.credential:stratos.config=no"]),
            structure(3, &[]),
            structure(11, &["vendor", "io.systemd.credential:other=x"]),
            structure(11, &["io.systemd.credential.binary:stratos.config=dmVyc2lvbiA9IDE="]),
            structure(127, &[]),
            structure(11, &["io.systemd.credential:late=x"]),
        ]
        .concat();
        assert_eq!(credential(&tables, "stratos.config"), Ok(Some("version = 1".to_owned())));
        assert_eq!(credential(&tables, "other"), Ok(Some("x".to_owned())));
        assert_eq!(credential(&tables, "othe"), Ok(None));
        assert_eq!(credential(&tables, "late"), Ok(None));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let tables =
            structure(11, &["io.systemd.credential.binary:a=!", "io.systemd.credential.binary:b=/w=="]);
        assert_eq!(credential(&tables, "a"), Err("its base64 is damaged"));
        assert_eq!(credential(&tables, "b"), Err("it is not UTF-8"));
    }

    #[test]
    fn tables_that_end_early_have_nothing() {
        let tables = [structure(1, &["x"]), structure(11, &["io.systemd.credential:a=b"])].concat();
        for length in 0..tables.len() {
            assert_eq!(credential(&tables[..length], "a"), Ok(None), "{length} bytes");
        }
        assert_eq!(credential(&[11, 0, 0, 0, 0, 0], "a"), Ok(None));
    }
}
