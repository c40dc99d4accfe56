//! `cargo xtask tidy`: the rules of this repository that no other tool checks.
//!
//! Each check is a function from what is in the tree to a list of findings; this module reads the tree once and prints.

mod crates;
mod layers;
mod links;
mod specification;
mod text;

use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::metadata::Metadata;
use crate::process::{read, top};

/// A text file of the repository.
pub(crate) struct File {
    /// Relative to the top folder.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Something that is wrong, or that somebody should look at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    place: String,
    message: String,
    is_warning: bool,
}

impl Finding {
    pub(crate) fn error(place: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { place: place.to_string(), message: message.into(), is_warning: false }
    }

    pub(crate) fn warning(place: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { is_warning: true, ..Self::error(place, message) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_warning { "warning" } else { "error" };
        write!(f, "{kind}: {}: {}", self.place, self.message)
    }
}

/// Runs every check.
pub(crate) fn run() -> Result<()> {
    let paths = paths()?;
    let files = read_all(&paths)?;
    let metadata = Metadata::load()?;
    let mut findings = layers::check(&metadata);
    findings.extend(crates::check(&metadata, &files)?);
    findings.extend(text::check(&files, &text::places_of_this_machine()));
    findings.extend(links::check(&files, |path| top().join(path).exists()));
    findings.extend(specification::check(&files, |path| top().join(path).exists()));
    for finding in &findings {
        eprintln!("{finding}");
    }
    let errors = findings.iter().filter(|f| !f.is_warning).count();
    if errors > 0 {
        bail!("tidy found {errors} problems");
    }
    println!("tidy: {} files are fine", files.len());
    Ok(())
}

/// Every file that is or will be committed.
fn paths() -> Result<Vec<String>> {
    let mut git = Command::new("git");
    // Whoever runs this as root on a user's clone, CI among them, owns it in every sense but git's.
    git.arg("-c").arg(format!("safe.directory={}", top().display()));
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(top());
    Ok(read(git)?.split_terminator('\0').map(str::to_owned).collect())
}

fn read_all(paths: &[String]) -> Result<Vec<File>> {
    let mut files = Vec::new();
    for path in paths {
        let full: PathBuf = top().join(path);
        match std::fs::symlink_metadata(&full) {
            Ok(meta) if meta.is_file() => {}
            // A link is checked where it leads; a file that is deleted but not committed yet is gone.
            _ => continue,
        }
        // What is not UTF-8 is not text.
        if let Ok(text) = String::from_utf8(std::fs::read(&full)?) {
            files.push(File { path: path.clone(), text });
        }
    }
    Ok(files)
}
