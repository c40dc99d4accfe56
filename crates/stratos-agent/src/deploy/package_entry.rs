//! What an entry of a package may be: pure, so that it can be tried with anything.

use tar::EntryType;

use super::package::PackageError;

/// Most bytes of one path or link target: the kernel takes 4,095 of a whole path, the node's own folders included.
pub const MAX_PATH: usize = 2048;
/// Most folders around an entry: what deletes or walks a tree may hold a descriptor or stack for each level.
const MAX_DEPTH: usize = 100;

/// What an entry may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Dir,
    /// A file; `executable` when any x bit was set. All other mode bits are dropped.
    File {
        /// Mode 0755 instead of 0644.
        executable: bool,
    },
    /// A symlink that stays inside the package, as far as its text tells.
    Symlink {
        /// Its target, as it was given.
        target: String,
    },
    /// Another name of a file that came earlier.
    HardLink {
        /// That file's path in the package.
        target: String,
    },
}

/// An entry that passed the checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedEntry {
    /// Relative, without `.` and `..`; empty for the package's own folder.
    pub path: String,
    /// What it is.
    pub kind: Kind,
}

/// The one constructor of [`CheckedEntry`] for packages: `path` and `link` as the archive gives them, `kind` the entry's
/// type flag, `mode` its permission bits.
///
/// # Errors
/// [`PackageError::Entry`], naming the entry and what to do.
pub fn check_entry(
    path: &[u8],
    kind: EntryType,
    mode: u32,
    link: Option<&[u8]>,
) -> Result<CheckedEntry, PackageError> {
    let checked = check_built_entry(path, kind, mode, link)?;
    if checked.path.split('/').next() == Some(".stratos") {
        return Err(PackageError::Entry {
            entry: checked.path.chars().take(200).collect(),
            problem: "is in a folder that StratOS fills itself",
            hint: "leave the folder `.stratos` out of the package",
        });
    }
    Ok(checked)
}

/// The same for the code of an artifact, whose dependencies are where StratOS puts them.
///
/// # Errors
/// [`PackageError::Entry`], naming the entry and what to do.
pub fn check_built_entry(
    path: &[u8],
    kind: EntryType,
    mode: u32,
    link: Option<&[u8]>,
) -> Result<CheckedEntry, PackageError> {
    let shown = || String::from_utf8_lossy(&path[..path.len().min(200)]).escape_debug().to_string();
    let refuse = |problem, hint| -> Result<_, PackageError> {
        Err(PackageError::Entry { entry: shown(), problem, hint })
    };
    let clean = match clean_path(path) {
        Ok(clean) => clean,
        Err((problem, hint)) => return refuse(problem, hint),
    };
    let kind = match kind {
        EntryType::Directory => Kind::Dir,
        EntryType::Regular | EntryType::Continuous => Kind::File { executable: mode & 0o111 != 0 },
        EntryType::Symlink => match link.map(|link| check_link(&clean, link)) {
            Some(Ok(target)) => Kind::Symlink { target },
            Some(Err((problem, hint))) => return refuse(problem, hint),
            None => return refuse("is a link to nothing", "make the archive again"),
        },
        EntryType::Link => match link.map(clean_path) {
            Some(Ok(target)) if !target.is_empty() => Kind::HardLink { target },
            _ => {
                return refuse(
                    "is a hard link out of the package",
                    "put a copy of the file into the package",
                );
            }
        },
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            return refuse(
                "is a device or pipe",
                "a package holds files, folders and symlinks; leave it out",
            );
        }
        _ => {
            return refuse(
                "is of a kind that packages cannot hold",
                "make the archive with plain files, folders and symlinks (no sparse files)",
            );
        }
    };
    if clean.is_empty() && kind != Kind::Dir {
        return refuse("has no name", "make the archive again");
    }
    Ok(CheckedEntry { path: clean, kind })
}

type Problem = (&'static str, &'static str);

/// A relative path without `.` components and trailing slashes.
fn clean_path(path: &[u8]) -> Result<String, Problem> {
    const AGAIN: &str = "make the archive from inside the function's folder: tar -C FOLDER -cf package.tar .";
    if path.len() > MAX_PATH {
        return Err(("has a path of more than 2048 bytes", "shorten its path"));
    }
    let Ok(text) = std::str::from_utf8(path) else {
        return Err(("has a name that is not UTF-8", "rename it"));
    };
    if text.chars().any(char::is_control) {
        return Err(("has a control character in its name", "rename it"));
    }
    if text.starts_with('/') {
        return Err(("is an absolute path", AGAIN));
    }
    let mut clean = String::with_capacity(text.len());
    for part in text.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            return Err(("leads out of the package", AGAIN));
        }
        if part.len() > 255 {
            return Err(("has a name of more than 255 bytes", "shorten its name"));
        }
        if !clean.is_empty() {
            clean.push('/');
        }
        clean.push_str(part);
    }
    if clean.matches('/').count() > MAX_DEPTH {
        return Err(("is in more than 100 nested folders", "move it further up"));
    }
    Ok(clean)
}

/// A symlink's target, if its text stays inside. Chains of links could still lead out; that is why nothing on the node
/// follows a link of a package except confined to its folder.
fn check_link(path: &str, target: &[u8]) -> Result<String, Problem> {
    const HINT: &str = "replace the link by what it points to";
    let text = match std::str::from_utf8(target) {
        Ok(text) if !text.is_empty() && text.len() <= MAX_PATH && !text.chars().any(char::is_control) => text,
        _ => return Err(("is a link with an unusable target", HINT)),
    };
    let mut depth = path.split('/').count() as i64 - 1;
    for part in text.split('/') {
        depth += match part {
            "" | "." => 0,
            ".." => -1,
            _ => 1,
        };
        if depth < 0 {
            return Err(("is a link that leads out of the package", HINT));
        }
    }
    if text.starts_with('/') {
        return Err(("is a link to an absolute path", HINT));
    }
    Ok(text.to_owned())
}
