//! Functions as tests write them: a few files in memory, or a folder of the repository.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// A Node.js handler that counts how often its instance saw each event, and says which instance it is.
pub const COUNTER: &str = r#"
    const id = Math.random().toString(36);
    const seen = {};
    export const handler = async (event) => {
        seen[event] = (seen[event] ?? 0) + 1;
        return { id, event, times: seen[event] };
    };
"#;

/// An archive to deploy.
#[derive(Default)]
pub struct Package {
    files: Vec<(String, Vec<u8>, u32)>,
}

impl Package {
    /// An empty package.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handler in one ESM file.
    pub fn node(name: &str, code: &str) -> Self {
        Self::new()
            .file(
                "stratos.toml",
                format!("name = \"{name}\"\nruntime = \"node24\"\nhandler = \"index.handler\"\n"),
            )
            .file("index.mjs", code)
    }

    /// A handler in one Python file.
    pub fn python(name: &str, code: &str) -> Self {
        Self::new()
            .file(
                "stratos.toml",
                format!("name = \"{name}\"\nruntime = \"python3.13\"\nhandler = \"app.handler\"\n"),
            )
            .file("app.py", code)
    }

    /// A Node.js server on `$PORT`.
    pub fn node_server(name: &str, code: &str) -> Self {
        Self::new()
            .file(
                "stratos.toml",
                format!("name = \"{name}\"\nruntime = \"node24\"\nstart = \"node server.mjs\"\n"),
            )
            .file("server.mjs", code)
    }

    /// Adds a file.
    #[must_use]
    pub fn file(mut self, path: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), contents.into(), 0o644));
        self
    }

    /// Adds an executable file.
    #[must_use]
    pub fn executable(mut self, path: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), contents.into(), 0o755));
        self
    }

    /// Adds lines to `stratos.toml`.
    ///
    /// # Panics
    /// When there is none yet.
    #[must_use]
    pub fn setting(mut self, lines: &str) -> Self {
        let toml = self.files.iter_mut().find(|(path, ..)| path == "stratos.toml").expect("a stratos.toml");
        toml.1.extend_from_slice(lines.as_bytes());
        toml.1.push(b'\n');
        self
    }

    /// A folder of the repository, such as `examples/hello-node`, without dot files.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn folder(path: &str) -> Self {
        let mut package = Self::new();
        package.add_folder(&crate::repository().join(path), "");
        package
    }

    fn add_folder(&mut self, dir: &Path, prefix: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let mut entries: Vec<_> = std::fs::read_dir(dir)
            .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
            .map(|entry| entry.expect("a readable folder"))
            .collect();
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().into_string().expect("names in the repository are UTF-8");
            if name.starts_with('.') || name == "target" {
                continue;
            }
            let path = format!("{prefix}{name}");
            let metadata = entry.metadata().expect("a readable file");
            if metadata.is_dir() {
                self.add_folder(&entry.path(), &format!("{path}/"));
            } else {
                let contents = std::fs::read(entry.path()).expect("a readable file");
                self.files.push((path, contents, metadata.permissions().mode() & 0o777));
            }
        }
    }

    /// The package as a tar archive.
    ///
    /// # Panics
    /// Never for file names that fit a tar header.
    pub fn archive(&self) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, contents, mode) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(contents.len() as u64);
            header.set_mode(*mode);
            archive.append_data(&mut header, path, contents.as_slice()).expect("a Vec takes every write");
        }
        archive.into_inner().expect("a Vec takes every write")
    }
}

/// The program of `examples/hello-native`, built as its README says; in a virtual machine, the one brought along.
///
/// # Errors
/// When it does not build.
pub fn native_example() -> anyhow::Result<PathBuf> {
    if crate::vm::is_inside() {
        return Ok(crate::program("hello-native"));
    }
    example_program("hello-native", "bootstrap")
}

/// A program of a native example, built as its README says.
///
/// # Errors
/// When it does not build.
pub fn example_program(example: &str, program: &str) -> anyhow::Result<PathBuf> {
    let target = crate::program("stratosd").with_file_name(example);
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--locked", "--manifest-path"])
        .arg(crate::repository().join("examples").join(example).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the native example {example} does not build");
    Ok(target.join("release").join(program))
}
