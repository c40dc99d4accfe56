//! The file `user-data` of a NoCloud disk, as a cloud or `cloud-localds` writes it.

/// The first line of a document that is for StratOS; others are for cloud-init.
pub const MARK: &str = "#stratos-config";

/// The configuration in a file `user-data`; `None` when it is for somebody else.
///
/// # Errors
/// When it is for StratOS and is no text: what is wrong with it.
pub fn config(bytes: &[u8]) -> Result<Option<&str>, &'static str> {
    // Editors on Windows begin a file like this.
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let Some(rest) = bytes.strip_prefix(MARK.as_bytes()) else {
        return Ok(None);
    };
    let text = std::str::from_utf8(rest).map_err(|_| "it is not UTF-8")?;
    match text.chars().next() {
        None => Ok(Some("")),
        Some(first) if first.is_whitespace() => Ok(Some(text)),
        Some(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_for_stratos_is_taken_without_its_mark() {
        assert_eq!(config(b"#stratos-config\nversion = 1\n"), Ok(Some("\nversion = 1\n")));
        assert_eq!(config(b"\xEF\xBB\xBF#stratos-config\r\n"), Ok(Some("\r\n")));
        assert_eq!(config(b"#stratos-config"), Ok(Some("")));
        for other in [&b"#cloud-config\n"[..], b"", b"#stratos-configuration\n", b" #stratos-config"] {
            assert_eq!(config(other), Ok(None));
        }
        assert_eq!(config(b"#stratos-config\n\xff"), Err("it is not UTF-8"));
    }
}
