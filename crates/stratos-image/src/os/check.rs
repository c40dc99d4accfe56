//! The check that root and initramfs hold no shell and nothing that runs with more rights than who starts it, and that
//! what the root holds can run.

use std::os::unix::fs::MetadataExt as _;

use super::error::ImageError;
use crate::elf;
use crate::error::at;
use crate::tree::{Node, Tree};

/// Names of programs that run commands given as text. A node is administered over its API only.
const SHELLS: &[&str] = &[
    "ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "mksh", "rbash", "sh", "tcsh", "toybox", "yash",
    "zsh",
];

/// Checks a file by its path and mode.
pub(crate) fn file(place: &'static str, path: &str, mode: u32) -> Result<(), ImageError> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let problem = if SHELLS.contains(&name) {
        "is a shell's name"
    } else if mode & 0o6000 != 0 {
        "runs with its owner's rights"
    } else if mode & 0o002 != 0 {
        "everybody may write"
    } else {
        return Ok(());
    };
    Err(ImageError::Forbidden { place, path: path.to_owned(), problem })
}

/// Checks all of a tree, that each of its links leads to something in it or below one of `mounts`, and that its programs
/// need nothing that is not there.
pub(crate) fn root(tree: &Tree, mounts: &[String]) -> Result<(), ImageError> {
    for (path, node) in tree.nodes()? {
        let mode = if let Node::Link(target) = &node {
            let is_mount = |mount: &String| target.starts_with(&format!("{mount}/"));
            if !mounts.iter().any(is_mount) {
                tree.check_link(&path, target)?;
            }
            0 // a link has no mode of its own, but its name counts
        } else {
            let place = tree.root().join(&path);
            std::fs::symlink_metadata(&place).map_err(at("inspect", &place))?.mode()
        };
        file("root", &path, mode)?;
    }
    Ok(elf::check(tree)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_setuid_and_world_writable_files_are_refused() {
        for (path, mode, expected) in [
            ("usr/bin/stratosd", 0o100_755, ""),
            ("usr/bin/sh", 0o100_755, "is a shell's name"),
            ("busybox", 0, "is a shell's name"),
            ("usr/share/bash/x", 0o100_644, ""),
            ("usr/bin/su", 0o104_755, "runs with its owner's rights"),
            ("usr/bin/x", 0o102_755, "runs with its owner's rights"),
            ("tmp", 0o040_777, "everybody may write"),
        ] {
            let found = file("root", path, mode).map_err(|error| error.to_string());
            let expected = if expected.is_empty() {
                Ok(())
            } else {
                Err(format!("root holds {path}, which {expected}"))
            };
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn programs_have_to_be_static() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(folder.path().to_owned()).unwrap();
        let dynamic = std::fs::File::open("/proc/self/exe").unwrap();
        tree.file("usr/bin/stratosd", true, dynamic, "test").unwrap();
        let error = root(&tree, &[]).unwrap_err();
        assert!(matches!(error, ImageError::Elf(elf::ElfError::Missing { .. })), "{error:?}");
    }

    #[test]
    fn links_may_lead_into_mounts_but_not_to_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(folder.path().to_owned()).unwrap();
        tree.link("etc/resolv.conf", "/run/stratos/resolv.conf", "test").unwrap();
        assert!(root(&tree, &["/run".to_owned()]).is_ok());
        let error = root(&tree, &["/var".to_owned()]).unwrap_err();
        assert!(matches!(error, ImageError::Tree(_)), "{error:?}");
    }
}
