//! Sessions with the command line, written down as a person would see them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::Node;
use crate::redact::redact;

/// A shell in a folder of its own that talks to one node with the real `stratos`.
pub struct Session {
    dir: TempDir,
    node: Option<PathBuf>,
}

impl Session {
    /// A shell that talks to `node`.
    ///
    /// # Panics
    /// When there is no temporary folder to be had.
    pub fn new(node: &Node) -> Self {
        Self { node: Some(node.dir().to_owned()), ..Self::without_node() }
    }

    /// A shell that knows of no node.
    ///
    /// # Panics
    /// When there is no temporary folder to be had.
    pub fn without_node() -> Self {
        let dir = tempfile::Builder::new().prefix("stratos-session-").tempdir().expect("a temporary folder");
        Self { dir, node: None }
    }

    /// The shell's current folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file in the current folder, and the folders it lies in.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.dir().join(path);
        std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a writable folder");
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// A command in the current folder that finds `stratos`, the node and the layers, and nothing of this
    /// machine's own settings.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let programs = crate::program("stratos").parent().expect("a program is in a folder").to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&path)));
        let mut command = Command::new(program);
        command
            .current_dir(self.dir())
            .env_clear()
            .env("PATH", path.expect("folders of a PATH make one"))
            .env("TMPDIR", self.dir())
            .env("STRATOS_LAYERS", crate::layers_dir())
            .stdin(Stdio::null());
        if let Some(node) = &self.node {
            command.env("STRATOS_NODE", node.join("api.sock"));
        }
        command
    }

    /// Runs the lines of `transcript` that begin with `$ `, in a shell each, and compares what is printed with what
    /// stands there: stdout as it is, stderr after `! `, the exit code in brackets when it is not 0.
    ///
    /// # Panics
    /// When anything differs.
    #[track_caller]
    pub fn check(&self, transcript: &str) {
        self.check_with(&[], transcript);
    }

    /// As [`Session::check`], with names in `transcript` that stand for a value of this run.
    ///
    /// # Panics
    /// When anything differs.
    #[track_caller]
    pub fn check_with(&self, values: &[(&str, &str)], transcript: &str) {
        let want = transcript.trim_start_matches('\n');
        let mut got = String::new();
        for line in want.lines().filter_map(|line| line.strip_prefix("$ ")) {
            got.push_str(&format!("$ {line}\n"));
            let line = values.iter().fold(line.to_owned(), |line, (name, value)| line.replace(name, value));
            let output = self.command("sh").args(["-c", &line]).output().expect("sh starts");
            let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
            got.push_str(&stdout);
            if !stdout.is_empty() && !stdout.ends_with('\n') {
                got.push('\n');
            }
            got.extend(stderr.lines().map(|line| format!("! {line}").trim_end().to_owned() + "\n"));
            match output.status.code() {
                Some(0) => {}
                Some(code) => got.push_str(&format!("[exit {code}]\n")),
                None => got.push_str(&format!("[{}]\n", output.status)),
            }
        }
        let got = values.iter().fold(got, |got, (name, value)| got.replace(value, name));
        let got = self.redact(&got);
        assert!(got == want, "expected\n{want}\n=== but got\n{got}");
    }

    /// Runs `stratos ARGUMENTS --json`, which must succeed without a word on stderr; its document.
    ///
    /// # Panics
    /// When it does not.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.command("stratos").args(arguments).arg("--json").output().expect("stratos starts");
        let stderr = text(&output.stderr);
        assert!(output.status.success() && stderr.is_empty(), "{arguments:?}: {}\n{stderr}", output.status);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{arguments:?}: {e}: {}", text(&output.stdout)))
    }

    /// `text` without what differs from run to run.
    pub fn redact(&self, text: &str) -> String {
        let layers = crate::layers_dir();
        let mut paths = vec![(self.dir(), "dir"), (layers.as_path(), "layers")];
        paths.extend(self.node.as_deref().map(|node| (node, "node")));
        redact(text, &paths)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
