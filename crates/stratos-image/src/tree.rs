//! The tree a layer is assembled in: a folder on disk, and who put each file there.
//!
//! The layout is merged-usr: `bin`, `sbin`, `lib` and `lib64` are links into `usr`, and every path is brought to that
//! form before anything is written. Package content is not trusted with paths: `..` is refused, and nothing is ever
//! written through a link.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::error::{FileError, at};

/// Why something does not fit into a tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A package names a path outside the tree, or through a link.
    #[error("{owner} holds the path `{path}`, which {problem}")]
    Path {
        /// The package or wheel.
        owner: String,
        /// The path.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Two sources hold the same file.
    #[error("both {first} and {second} hold /{path}")]
    Conflict {
        /// Who came first.
        first: String,
        /// Who came second.
        second: String,
        /// The path in the layer.
        path: String,
    },
    /// A pattern of the description matches nothing in its package.
    #[error("pattern `{pattern}` of {owner} matches nothing in it")]
    Unmatched {
        /// The package or wheel.
        owner: String,
        /// The pattern.
        pattern: String,
    },
    /// A package holds something no layer may have, such as a device node.
    #[error("{owner}: {path} is neither file, folder nor link")]
    Kind {
        /// The package or wheel.
        owner: String,
        /// The path.
        path: String,
    },
    /// A symbolic link leads nowhere.
    #[error("/{path} links to {target}, which is not in the layer")]
    Dangling {
        /// The link.
        path: String,
        /// Where it points.
        target: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// One thing in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// A folder.
    Folder,
    /// A file, and whether it is executable.
    File { executable: bool },
    /// A symbolic link and its target.
    Link(String),
}

/// A tree under assembly.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    owners: BTreeMap<String, String>,
}

/// The links that make a tree merged-usr.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

impl Tree {
    /// A tree in a folder that is empty or not there yet.
    pub(crate) fn new(root: PathBuf) -> Result<Self, TreeError> {
        fs::create_dir_all(&root).map_err(at("create", &root))?;
        let mut tree = Self { root, owners: BTreeMap::new() };
        for name in MERGED {
            tree.folder(&format!("usr/{name}"), "layout")?;
            symlink(format!("usr/{name}"), tree.root.join(name))
                .map_err(at("create", &tree.root.join(name)))?;
            tree.owners.insert(name.to_owned(), "layout".to_owned());
        }
        Ok(tree)
    }

    /// Where the tree is.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Which source each file and link came from.
    pub(crate) fn owners(&self) -> &BTreeMap<String, String> {
        &self.owners
    }

    /// Makes a folder and those above it.
    pub(crate) fn folder(&mut self, path: &str, owner: &str) -> Result<(), TreeError> {
        let path = normal(path, owner)?;
        let mut done = self.root.clone();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            done.push(part);
            match fs::symlink_metadata(&done) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => {
                    let problem = "leads through something that is no folder";
                    return Err(TreeError::Path { owner: owner.to_owned(), path, problem });
                }
                Err(_) => {
                    fs::create_dir(&done).map_err(at("create", &done))?;
                    // Explicit, since the build's umask must not show in the layer.
                    fs::set_permissions(&done, Permissions::from_mode(0o755))
                        .map_err(at("set the mode of", &done))?;
                }
            }
        }
        Ok(())
    }

    /// Writes a file.
    pub(crate) fn file(
        &mut self,
        path: &str,
        executable: bool,
        mut content: impl Read,
        owner: &str,
    ) -> Result<(), TreeError> {
        let (path, place) = self.claim(path, owner)?;
        let mut file = File::create_new(&place).map_err(at("create", &place))?;
        io::copy(&mut content, &mut file).map_err(at("write", &place))?;
        let mode = if executable { 0o755 } else { 0o644 };
        file.set_permissions(Permissions::from_mode(mode)).map_err(at("set the mode of", &place))?;
        self.owners.insert(path, owner.to_owned());
        Ok(())
    }

    /// Makes a symbolic link.
    pub(crate) fn link(&mut self, path: &str, target: &str, owner: &str) -> Result<(), TreeError> {
        let (path, place) = self.claim(path, owner)?;
        symlink(target, &place).map_err(at("create", &place))?;
        self.owners.insert(path, owner.to_owned());
        Ok(())
    }

    fn claim(&mut self, path: &str, owner: &str) -> Result<(String, PathBuf), TreeError> {
        let path = normal(path, owner)?;
        if let Some(first) = self.owners.get(&path) {
            return Err(TreeError::Conflict { first: first.clone(), second: owner.to_owned(), path });
        }
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder, owner)?;
        }
        let place = self.root.join(&path);
        Ok((path, place))
    }

    /// All that is in the tree, sorted by path, folders before their content.
    pub(crate) fn nodes(&self) -> Result<BTreeMap<String, Node>, TreeError> {
        let mut nodes = BTreeMap::new();
        let mut open = vec![String::new()];
        while let Some(folder) = open.pop() {
            let place = self.root.join(&folder);
            for entry in fs::read_dir(&place).map_err(at("list", &place))? {
                let entry = entry.map_err(at("list", &place))?;
                let name = entry.file_name().into_string().map_err(|name| TreeError::Path {
                    owner: "the layer".to_owned(),
                    path: format!("{folder}/{}", name.to_string_lossy()),
                    problem: "is not UTF-8",
                })?;
                let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                let meta = entry.metadata().map_err(at("inspect", &entry.path()))?;
                let node = if meta.is_dir() {
                    open.push(path.clone());
                    Node::Folder
                } else if meta.is_symlink() {
                    let target = fs::read_link(entry.path()).map_err(at("read", &entry.path()))?;
                    Node::Link(target.to_string_lossy().into_owned())
                } else {
                    Node::File { executable: meta.permissions().mode() & 0o111 != 0 }
                };
                nodes.insert(path, node);
            }
        }
        Ok(nodes)
    }

    /// Checks that every link leads to something in the tree.
    pub(crate) fn check_links(&self) -> Result<(), TreeError> {
        for (path, node) in self.nodes()? {
            if let Node::Link(target) = node {
                self.check_link(&path, &target)?;
            }
        }
        Ok(())
    }

    /// Checks that one link leads to something in the tree.
    pub(crate) fn check_link(&self, path: &str, target: &str) -> Result<(), TreeError> {
        match resolve(&self.root, path) {
            Some(_) => Ok(()),
            None => Err(TreeError::Dangling { path: path.to_owned(), target: target.to_owned() }),
        }
    }
}

/// A path as it stands in a merged-usr tree: relative, without `.`, links of the layout resolved.
pub(crate) fn normal(path: &str, owner: &str) -> Result<String, TreeError> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        let problem = "leaves the layer";
        return Err(TreeError::Path { owner: owner.to_owned(), path: path.to_owned(), problem });
    }
    let joined = parts.join("/");
    Ok(match parts.first() {
        Some(first) if MERGED.contains(first) && parts.len() > 1 => format!("usr/{joined}"),
        _ => joined,
    })
}

/// Where a path of the tree at `root` really is, relative to it, with links followed inside the tree only.
pub(crate) fn resolve(root: &Path, path: &str) -> Option<String> {
    let mut pending: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut done: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = pending.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                done.pop();
                continue;
            }
            _ => {}
        }
        done.push(part);
        let place = root.join(done.join("/"));
        if fs::symlink_metadata(&place).ok()?.is_symlink() {
            links += 1;
            if links > 40 {
                return None;
            }
            let target = fs::read_link(&place).ok()?.to_str()?.to_owned();
            done.pop();
            if target.starts_with('/') {
                done.clear();
            }
            pending.extend(target.split('/').rev().map(str::to_owned));
        }
    }
    Some(done.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Tree) {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(folder.path().to_owned()).unwrap();
        (folder, tree)
    }

    #[test]
    fn paths_become_merged_usr() {
        for (path, expected) in [
            ("./lib/x/liba.so", "usr/lib/x/liba.so"),
            ("/bin/sh", "usr/bin/sh"),
            ("./usr/lib/a", "usr/lib/a"),
            ("./lib", "lib"),
            ("etc//passwd", "etc/passwd"),
            ("library/x", "library/x"),
        ] {
            assert_eq!(normal(path, "p").unwrap(), expected, "{path}");
        }
        assert!(normal("./usr/../../etc/passwd", "p").is_err());
    }

    #[test]
    fn a_file_has_one_owner_and_is_never_written_through_a_link() {
        let (_folder, mut tree) = tree();
        tree.file("etc/a", false, &b"1"[..], "one").unwrap();
        let error = tree.file("/etc/a", false, &b"2"[..], "two").unwrap_err();
        assert_eq!(error.to_string(), "both one and two hold /etc/a");
        tree.link("var/evil", "/etc", "two").unwrap();
        let error = tree.file("var/evil/b", false, &b"2"[..], "two").unwrap_err();
        assert!(error.to_string().contains("leads through something that is no folder"), "{error}");
    }

    #[test]
    fn links_are_followed_inside_the_tree_only() {
        let (_folder, mut tree) = tree();
        tree.file("usr/lib64/ld.so", true, &b""[..], "p").unwrap();
        tree.link("etc/ld", "/lib64/ld.so", "p").unwrap();
        assert_eq!(resolve(tree.root(), "etc/ld").as_deref(), Some("usr/lib64/ld.so"));
        tree.check_links().unwrap();
        tree.link("etc/out", "../../../../../../../../../../../bin/sh", "p").unwrap();
        let error = tree.check_links().unwrap_err();
        assert!(matches!(error, TreeError::Dangling { ref path, .. } if path == "etc/out"), "{error}");
    }
}
