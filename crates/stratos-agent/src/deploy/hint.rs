//! What commonly goes wrong when dependencies are resolved, told by the words pip and npm use for it.

use super::build::Ended;

const NETWORK: &str = "the node could not reach the package index: check its network, and its build settings \
                       (package index, proxy, certificates)";
const CERTIFICATE: &str =
    "the package index's certificate is not trusted: name the authority's file in the node's build settings";
const NO_SPACE: &str = "the build ran out of space: its /tmp is as large as its memory limit, and the node's disk may \
                        be full";

const PIP: &[(&[&str], &str)] = &[
    (&["CERTIFICATE_VERIFY_FAILED"], CERTIFICATE),
    (
        &[
            "name resolution",
            "NameResolutionError",
            "NewConnectionError",
            "Max retries",
            "ProxyError",
            "timed out",
        ],
        NETWORK,
    ),
    (&["No space left"], NO_SPACE),
    (
        &["DO NOT MATCH THE HASHES"],
        "a package differs from the hash in requirements.txt: renew the hash, or find out why",
    ),
    (
        &["Hashes are required"],
        "one line has a hash, so every line needs one: `pip-compile --generate-hashes` writes them",
    ),
    (
        &["ResolutionImpossible", "conflicting dependencies"],
        "two requirements exclude each other: loosen one of them",
    ),
    (&["Invalid requirement"], "correct the line: NAME, or NAME==VERSION"),
    (
        &["(from versions: none)"],
        "the index has no such package, or none with a wheel for Python 3.13: check the name's spelling",
    ),
    (
        &["No matching distribution", "Could not find a version"],
        "no version fits: it does not exist, or has no wheel for Python 3.13 (packages are not built from source)",
    ),
    (&["Cannot find command 'git'"], "name a release of a package index instead of a repository"),
];

const NPM: &[(&[&str], &str)] = &[
    (&["SELF_SIGNED_CERT", "UNABLE_TO_VERIFY", "UNABLE_TO_GET_ISSUER", "CERT_"], CERTIFICATE),
    (&["ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ECONNRESET", "network"], NETWORK),
    (&["ENOSPC"], NO_SPACE),
    (
        &["in sync", "EUSAGE"],
        "package.json and package-lock.json disagree: run `npm install` and deploy again",
    ),
    (
        &["EINTEGRITY"],
        "a package differs from its digest in package-lock.json: find out why before renewing the lock",
    ),
    (&["ERESOLVE"], "two dependencies exclude each other: loosen one of them in package.json"),
    (&["ETARGET", "notarget"], "no such version is published: check the version in package.json"),
    (&["E404", "404 Not Found"], "the registry has no such package: check the name's spelling"),
    (&["E401", "E403"], "the registry asks for a login: put a token into the node's npmrc"),
    (&["EJSONPARSE"], "package.json or package-lock.json is not valid JSON"),
    (&["EBADENGINE"], "a package excludes Node.js 24: choose another version of it"),
    (&["ENOENT spawn git", "spawn git"], "name a release of a registry instead of a repository"),
];

fn search(table: &[(&[&str], &str)], lines: &[String], otherwise: &str) -> String {
    let says = |words: &[&str]| words.iter().any(|word| lines.iter().any(|line| line.contains(word)));
    table.iter().find(|(words, _)| says(words)).map_or(otherwise, |(_, hint)| hint).to_owned()
}

/// For a job that was ended from outside.
pub(super) fn of_job(ended: &Ended) -> Option<String> {
    if ended.oom_killed {
        return Some(
            "the build used more memory than the node gives builds: raise it in the build settings".into(),
        );
    }
    ended
        .timed_out
        .then(|| "the build took longer than the node allows: check its network, or raise the limit".into())
}

pub(super) fn of_pip(lines: &[String]) -> String {
    search(PIP, lines, "the lines above are pip's; try `pip install --only-binary :all: -r requirements.txt`")
}

pub(super) fn of_npm(lines: &[String]) -> String {
    search(NPM, lines, "the lines above are npm's; try `npm ci --omit=dev --ignore-scripts`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_commonly_goes_wrong_is_named() {
        let pip = [
            ("ERROR: No matching distribution found for flsk", "no version fits"),
            (
                "ERROR: Could not find a version that satisfies the requirement x (from versions: none)",
                "no such package",
            ),
            ("Temporary failure in name resolution", "could not reach"),
            ("ssl.SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED]", "not trusted"),
            ("ERROR: Invalid requirement: 'a b'", "correct the line"),
            ("something new", "pip's"),
        ];
        for (line, hint) in pip {
            assert!(of_pip(&[line.to_owned()]).contains(hint), "{line}");
        }
        let npm = [
            ("npm error code E404", "no such package"),
            (
                "npm error `npm ci` can only install packages when your package.json and package-lock.json are in sync.",
                "disagree",
            ),
            ("npm error code EINTEGRITY", "digest"),
            ("npm error code ENOTFOUND", "could not reach"),
            ("something new", "npm's"),
        ];
        for (line, hint) in npm {
            assert!(of_npm(&[line.to_owned()]).contains(hint), "{line}");
        }
    }
}
