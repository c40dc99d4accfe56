//! Node.js dependencies: npm of the layer into `node_modules`, by the lock file where there is one.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use stratos_api::DeployEvent;
use stratos_sandbox::Image;
use stratos_types::spec::SpecError;

use super::build::{Bind, Builder, Job, SETTINGS};
use super::error::DeployError;
use super::folder::Folder;
use super::hint;

const NODE: &str = "/usr/bin/node";
const NPM: &str = "/usr/lib/node_modules/npm/bin/npm-cli.js";
/// What npm keeps of what it installed, in the format of a lock file.
const INSTALLED: &str = "node_modules/.package-lock.json";
const NPMRC: &str = ".npmrc";
const LOCKS: [&str; 2] = ["package-lock.json", "npm-shrinkwrap.json"];

/// A lock file, as far as it is read here (versions 2 and 3).
#[derive(Default, Deserialize)]
struct Lock {
    #[serde(default)]
    packages: BTreeMap<String, Package>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Package {
    #[serde(default)]
    version: String,
    #[serde(default)]
    integrity: Option<String>,
    #[serde(default)]
    link: bool,
    #[serde(default)]
    in_bundle: bool,
    #[serde(default)]
    has_install_script: bool,
}

/// Installs what `package.json` asks for; gives what was installed.
pub(super) fn resolve(
    builder: &Builder<'_>,
    layer: &Arc<Image>,
    folder: &Folder,
    progress: &mut dyn FnMut(DeployEvent),
) -> Result<Vec<(String, String, String)>, DeployError> {
    let read = |source| DeployError::io("read", folder.path(), source);
    let mut lock = None;
    for name in LOCKS {
        if folder.has_file(name).map_err(read)? {
            lock = Some(name);
            break;
        }
    }
    let package = folder.settings("package.json")?;
    let package: serde_json::Value =
        package.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let wants = ["dependencies", "optionalDependencies"]
        .iter()
        .any(|key| package[key].as_object().is_some_and(|map| !map.is_empty()));
    if !wants {
        return Ok(Vec::new());
    }
    let brought = folder.path().join("node_modules").symlink_metadata().is_ok();
    if brought && lock.is_none() {
        let line = "node_modules came with the package and is taken as it is; no digests are known";
        progress(DeployEvent::Output { line: line.into() });
        return Ok(Vec::new());
    }
    if lock.is_none() {
        let line = "WARNING: there is no package-lock.json, so the versions chosen now are not locked: another \
                    deploy may choose others. `npm install` makes the lock file";
        progress(DeployEvent::Output { line: line.into() });
    }
    check_npmrc(folder)?;
    progress(DeployEvent::Step { step: "resolving dependencies with npm".into() });
    let words = [
        if lock.is_some() { "ci" } else { "install" },
        "--omit=dev",
        // Scripts are programs of strangers; what they would build needs compilers that the layer does not hold.
        "--ignore-scripts",
        // A package's .npmrc may name any program as git, and npm would run it. What is given here wins.
        "--git=/nonexistent",
        // Nor may it name more files of settings, which nobody has looked at.
        "--globalconfig=/nonexistent",
        &format!("--userconfig={SETTINGS}/npmrc"),
        "--no-audit",
        "--no-fund",
        "--no-progress",
        "--no-update-notifier",
        "--cache=/tmp/npm",
    ];
    let mut argv = vec![NODE.to_owned(), NPM.into()];
    argv.extend(words.map(str::to_owned));
    if lock.is_none() {
        argv.push("--no-package-lock".into());
    }
    let job = Job {
        what: "npm",
        layer,
        binds: vec![Bind { source: folder.path().to_owned(), target: "/var/task".into(), writable: true }],
        argv,
        cwd: "/var/task",
        env: Vec::new(),
        network: true,
    };
    let ended = builder.run(job, progress)?;
    let file = lock.unwrap_or("package.json");
    if !ended.ok {
        let git = ended.lines.iter().any(|line| line.contains("spawn /nonexistent"));
        let hint = hint::of_job(&ended).unwrap_or_else(|| match git {
            true => "name a release of a registry instead of a repository".into(),
            false => hint::of_npm(&ended.lines),
        });
        // What follows explains npm's options.
        return Err(DeployError::Dependencies {
            file,
            tail: ended.tail(Some("Clean install a project")),
            hint,
        });
    }
    let text = folder.text(INSTALLED).map_err(read)?;
    let installed: Lock = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    for (path, package) in &installed.packages {
        if package.has_install_script {
            let name = name_of(path);
            let line = format!("WARNING: {name} has an install script, which is not run; it may not work");
            progress(DeployEvent::Output { line });
        }
    }
    listed(installed, file)
}

/// Refuses a `.npmrc` that names variables: npm puts in their values, such as the node's logins, and the file may send
/// them anywhere.
fn check_npmrc(folder: &Folder) -> Result<(), DeployError> {
    let wrong = |line: Option<usize>, message: &str, hint: &str| {
        let key = line.map(|number| format!("line {number}"));
        Err(SpecError { file: NPMRC.into(), key, message: message.into(), hint: hint.into() }.into())
    };
    let text = folder.text(NPMRC).map_err(|source| DeployError::io("read", folder.path(), source))?;
    let Some(text) = text else {
        return match folder.path().join(NPMRC).symlink_metadata() {
            Ok(_) => wrong(None, "is not a file of plain UTF-8 in the package", "save it as a UTF-8 file"),
            Err(_) => Ok(()),
        };
    };
    // npm's line ends are these two, alone or together.
    for (number, line) in (1..).zip(text.replace("\r\n", "\n").split(['\n', '\r'])) {
        if line.contains("${") {
            let message = "names a variable of the environment, and a deploy has none of its own";
            return wrong(Some(number), message, "write the value");
        }
        // Quoted values are read as JSON, in which this could stand for `${`.
        if line.contains("\\u") {
            return wrong(Some(number), "holds the escape `\\u`", "write the character itself");
        }
    }
    Ok(())
}

/// `a/node_modules/@x/b` is the package `@x/b`.
fn name_of(path: &str) -> &str {
    path.rsplit_once("node_modules/").map_or(path, |(_, name)| name)
}

fn listed(lock: Lock, file: &'static str) -> Result<Vec<(String, String, String)>, DeployError> {
    let mut packages = Vec::new();
    for (path, package) in lock.packages {
        // Links lead to folders of the package itself; bundled packages came in the archive of another.
        if path.is_empty() || package.link || package.in_bundle || !path.contains("node_modules/") {
            continue;
        }
        let name = name_of(&path).to_owned();
        let Some(digest) = package.integrity else {
            return Err(DeployError::Dependencies {
                file,
                tail: vec![format!("{name} came without a digest")],
                hint: "name packages of a registry; a repository cannot be locked by digest".into(),
            });
        };
        packages.push((name, package.version, digest));
    }
    packages.sort();
    packages.dedup();
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_with_variables_are_refused() {
        for (text, line) in [
            ("registry=https://mirror.example\n; $ is a character\n", None),
            ("a=b\r\n//mirror.example/:_authToken=${TOKEN}", Some("line 2")),
            (r#"registry="https://mirror.example/$\u007bTOKEN}""#, Some("line 1")),
        ] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(NPMRC), text).unwrap();
            match (check_npmrc(&Folder::open(dir.path()).unwrap()), line) {
                (Ok(()), None) => {}
                (Err(DeployError::Spec(error)), Some(_)) => assert_eq!(error.key.as_deref(), line, "{text}"),
                (other, _) => panic!("{text}: {other:?}"),
            }
        }
        // Where it leads to in the sandbox cannot be told here.
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/var/task/other", dir.path().join(NPMRC)).unwrap();
        assert!(check_npmrc(&Folder::open(dir.path()).unwrap()).is_err());
    }

    #[test]
    fn installed_packages_are_read_from_npms_own_list() {
        let list = |text: &str| listed(serde_json::from_str(text).unwrap(), "package-lock.json");
        let text = r#"{"lockfileVersion":3,"packages":{
            "":{"name":"f"},
            "node_modules/b":{"version":"2.0.0","integrity":"sha512-b","license":"MIT"},
            "node_modules/b/node_modules/@x/a":{"version":"1.0.0","integrity":"sha512-a"},
            "node_modules/c":{"version":"1.0.0","inBundle":true},
            "node_modules/local":{"resolved":"local","link":true},
            "local":{"version":"0.1.0"}}}"#;
        let expected = [("@x/a", "1.0.0", "sha512-a"), ("b", "2.0.0", "sha512-b")];
        assert_eq!(list(text).unwrap(), expected.map(|(a, b, c)| (a.into(), b.into(), c.into())));
        let error = list(r#"{"packages":{"node_modules/g":{"version":"1.0.0"}}}"#).unwrap_err();
        assert!(matches!(error, DeployError::Dependencies { .. }));
    }
}
