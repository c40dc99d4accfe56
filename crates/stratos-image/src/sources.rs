//! Which Debian archive to use: the one the host's apt configuration names, with layers' own suite in the place of
//! the host's. Pure functions over the configuration's text.

use std::path::{Path, PathBuf};

/// The suite that layers are made from.
pub const SUITE: &str = "trixie";

/// Why no archive is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourcesError {
    /// The host is not Debian, and no mirror was given.
    #[error(
        "this host is not Debian (its os-release says `{id}`), so its apt configuration names no Debian archive"
    )]
    NotDebian {
        /// The host's `ID`.
        id: String,
    },
    /// The host is Debian, but none of its apt sources is a Debian archive.
    #[error("no Debian archive among the enabled apt sources in {looked_in}")]
    NoArchive {
        /// The files that were read.
        looked_in: String,
    },
    /// The given mirror is no address apt could use.
    #[error("`{mirror}` is not an archive address such as https://HOST/debian")]
    Mirror {
        /// What was given.
        mirror: String,
    },
}

/// One archive and the suites wanted from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archive {
    pub(crate) uri: String,
    pub(crate) suites: Vec<String>,
}

/// One enabled `deb` entry of an apt configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Entry {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
}

/// The archives to use. `files` are the host's apt source files, with their text.
pub(crate) fn archives(
    os_release: &str,
    files: &[(PathBuf, String)],
    mirror: Option<&str>,
) -> Result<Vec<Archive>, SourcesError> {
    if let Some(mirror) = mirror {
        if !mirror.contains(":/") || mirror.contains(char::is_whitespace) {
            return Err(SourcesError::Mirror { mirror: mirror.to_owned() });
        }
        let suites = vec![SUITE.to_owned(), format!("{SUITE}-updates")];
        return Ok(vec![Archive { uri: mirror.to_owned(), suites }]);
    }
    let value = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim_matches(['"', '\'']).to_owned())
    };
    let id = value("ID").unwrap_or_else(|| "nothing".to_owned());
    if id != "debian" {
        return Err(SourcesError::NotDebian { id });
    }
    let codename = value("VERSION_CODENAME").unwrap_or_else(|| SUITE.to_owned());
    let entries: Vec<Entry> = files.iter().flat_map(|(file, text)| parse(file, text)).collect();
    // Other vendors use Debian's suite names too. The keyring tells best whose archive it is, then the address.
    let own_key = |entry: &&Entry| entry.signed_by.as_ref().is_some_and(|key| key.contains("debian-archive"));
    let no_key = |entry: &&Entry| entry.signed_by.is_none();
    let named = |entry: &&Entry| entry.uris.iter().any(|uri| uri.to_ascii_lowercase().contains("debian"));
    let mut chosen = merge(entries.iter().filter(|e| own_key(e) || no_key(e) && named(e)), &codename);
    if chosen.is_empty() {
        chosen = merge(entries.iter().filter(no_key), &codename);
    }
    if !chosen.iter().any(|archive| archive.suites.iter().any(|suite| suite == SUITE)) {
        let looked_in =
            files.iter().map(|(file, _)| file.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(SourcesError::NoArchive { looked_in });
    }
    Ok(chosen)
}

fn merge<'a>(entries: impl Iterator<Item = &'a Entry>, codename: &str) -> Vec<Archive> {
    let mut archives: Vec<Archive> = Vec::new();
    for entry in entries.filter(|entry| entry.components.iter().any(|component| component == "main")) {
        for uri in &entry.uris {
            for suite in entry.suites.iter().filter_map(|suite| translate(suite, codename)) {
                let known = archives.iter().position(|archive| archive.uri == *uri);
                let index = known.unwrap_or_else(|| {
                    archives.push(Archive { uri: uri.clone(), suites: Vec::new() });
                    archives.len() - 1
                });
                if !archives[index].suites.contains(&suite) {
                    archives[index].suites.push(suite);
                }
            }
        }
    }
    archives
}

/// The layers' suite that stands where the host has `suite`; None for suites of other kinds, such as backports.
fn translate(suite: &str, codename: &str) -> Option<String> {
    let same = ["stable", "oldstable", "testing", "unstable", "sid", SUITE];
    let base = |name: &str| name == codename || same.contains(&name);
    if base(suite) {
        return Some(SUITE.to_owned());
    }
    let (name, kind) = suite.rsplit_once(['-', '/'])?;
    match kind {
        "updates" if base(name) && suite.contains('-') => Some(format!("{SUITE}-updates")),
        // Before bullseye, security suites were written NAME/updates.
        "security" | "updates" if base(name) => Some(format!("{SUITE}-security")),
        _ => None,
    }
}

fn parse(file: &Path, text: &str) -> Vec<Entry> {
    if file.extension().is_some_and(|extension| extension == "sources") {
        parse_deb822(text)
    } else {
        text.lines().filter_map(parse_line).collect()
    }
}

/// One `deb [option=value ...] URI SUITE COMPONENT...` line.
fn parse_line(line: &str) -> Option<Entry> {
    let line = line.split('#').next()?.trim();
    let mut rest = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t']))?.trim_start();
    let mut signed_by = None;
    if let Some(options) = rest.strip_prefix('[') {
        let (options, after) = options.split_once(']')?;
        signed_by = options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="))
            .map(str::to_owned);
        rest = after;
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    let uri = words.next().filter(|uri| !uri.starts_with("cdrom:"))?;
    Some(Entry { uris: vec![uri], suites: vec![words.next()?], components: words.collect(), signed_by })
}

/// The stanzas of a deb822 `.sources` file.
fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            entries.extend(entry(&std::mem::take(&mut fields)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            fields.push((key.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    entries
}

fn entry(fields: &[(String, String)]) -> Option<Entry> {
    let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let words =
        |name: &str| field(name).unwrap_or("").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let off = field("enabled").is_some_and(|value| ["no", "false", "off", "0"].contains(&value));
    if off || !words("types").iter().any(|kind| kind == "deb") {
        return None;
    }
    let signed_by = field("signed-by").map(str::to_owned);
    Some(Entry { uris: words("uris"), suites: words("suites"), components: words("components"), signed_by })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOKWORM: &str = "NAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_CODENAME=bookworm\n";

    fn check(name: &str, text: &str, mirror: Option<&str>, expected: Result<&[(&str, &str)], &str>) {
        let files = [(PathBuf::from(format!("/etc/apt/sources.list.d/{name}")), text.to_owned())];
        let found = archives(BOOKWORM, &files, mirror);
        let found = found.map_err(|error| error.to_string());
        let expected = expected.map_err(str::to_owned).map(|list| {
            let archive = |(uri, suites): &(&str, &str)| Archive {
                uri: (*uri).to_owned(),
                suites: suites.split(' ').map(str::to_owned).collect(),
            };
            list.iter().map(archive).collect::<Vec<_>>()
        });
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn the_hosts_archive_is_found_in_both_formats() {
        let main = "http://a.example/debian";
        let security = "http://a.example/debian-security";
        check(
            "debian.sources",
            "Types: deb deb-src\n# a comment\nURIs: http://a.example/debian\nSuites: bookworm\n bookworm-updates bookworm-backports\n\
             Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
             Types: deb\nURIs: http://a.example/debian-security\nSuites: bookworm-security\nComponents: main\n\n\
             Types: deb\nEnabled: no\nURIs: http://b.example/debian\nSuites: bookworm\nComponents: main\n",
            None,
            Ok(&[(main, "trixie trixie-updates"), (security, "trixie-security")]),
        );
        check(
            "a.list",
            "# deb http://c.example/debian bookworm main\ndeb-src http://a.example/debian bookworm main\n\
             deb [arch=amd64 signed-by=/k/debian-archive-keyring.gpg] http://a.example/debian stable main contrib # x\n\
             deb http://a.example/debian-security bookworm/updates main\n\
             deb [signed-by=/k/vendor.gpg] https://vendor.example/debian bookworm main\n\
             deb http://chat.example/linux stable main\ndeb cdrom:[Debian] bookworm main\n",
            None,
            Ok(&[(main, "trixie"), (security, "trixie-security")]),
        );
        check(
            "a.list",
            "deb http://in.house/apt bookworm main",
            None,
            Ok(&[("http://in.house/apt", "trixie")]),
        );
        check(
            "a.list",
            "deb http://a.example/debian bookworm contrib",
            None,
            Err("no Debian archive among the enabled apt sources in /etc/apt/sources.list.d/a.list"),
        );
    }

    #[test]
    fn a_mirror_takes_the_place_of_the_configuration() {
        check(
            "a.list",
            "",
            Some("https://m.example/d"),
            Ok(&[("https://m.example/d", "trixie trixie-updates")]),
        );
        check(
            "a.list",
            "",
            Some("m.example"),
            Err("`m.example` is not an archive address such as https://HOST/debian"),
        );
        let error = archives("ID=ubuntu\n", &[], None).unwrap_err();
        assert_eq!(error, SourcesError::NotDebian { id: "ubuntu".to_owned() });
    }
}
