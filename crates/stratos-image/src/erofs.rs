//! Writing a tree as an EROFS image, the same bytes everywhere.
//!
//! `mkfs.erofs` comes from the locked Debian packages and gets the tree as a tar stream in sorted order, so that
//! neither the host's version of it nor the order in which a file system lists its folders shows in the image.
//! Layers are not compressed: their pages are shared by all instances, and a start should not have to unpack them. The
//! root of an operating system image is: it is read once.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::Stdio;

use stratos_types::Digest;

use crate::run::{self, RunError};
use crate::tree::{Node, Tree};

/// Where the program is in its tree.
const MKFS: &str = "usr/bin/mkfs.erofs";

/// Whether an image is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Every file as it is.
    Plain,
    /// In clusters of 64 KiB, by the slowest and best compressor whose output unpacks fast.
    Compressed,
}

/// Writes the image of `tree` with the `mkfs.erofs` of the tree `tools`. `inputs` seeds the image's UUID.
pub(crate) fn write(
    tree: &Tree,
    image: &Path,
    inputs: &Digest,
    tools: &Path,
    log: &Path,
    packing: Packing,
) -> Result<(), RunError> {
    let fail = |source: io::Error| run::cannot_start(MKFS, source);
    let mut command = run::tree_command(tools, MKFS)?;
    command.args(["--tar=f", "--all-root", "-T0", "-x-1", "--quiet", "-U", &uuid(inputs)]);
    if packing == Packing::Compressed {
        // More workers would cut files into parts, as many as there are.
        command.args(["-zlz4hc,12", "-C65536", "--workers=1"]);
    }
    command.arg(image);
    let output = File::create(log).map_err(fail)?;
    let errors = output.try_clone().map_err(fail)?;
    let mut child = command.stdin(Stdio::piped()).stdout(output).stderr(errors).spawn().map_err(fail)?;
    let stdin = child.stdin.take().expect("its input is piped");
    let written = stream(tree, BufWriter::with_capacity(1 << 20, stdin));
    let status = child.wait().map_err(fail)?;
    let text = std::fs::read(log).map_err(fail)?;
    run::check_status(MKFS, status, || run::tail(&text))?;
    written.map_err(fail)
}

/// Writes the tree as a tar stream.
pub(crate) fn stream(tree: &Tree, to: impl Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(to);
    // The root comes first and by name: without an entry mkfs.erofs would give it a mode of its own choice.
    let root = std::iter::once((".".to_owned(), Node::Folder));
    for (path, node) in root.chain(tree.nodes().map_err(io::Error::other)?) {
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        match node {
            Node::Folder => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                header.set_size(0);
                tar.append_data(&mut header, &path, io::empty())?;
            }
            Node::Link(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                tar.append_link(&mut header, &path, target)?;
            }
            Node::File { executable } => {
                let file = File::open(tree.root().join(&path))?;
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(if executable { 0o755 } else { 0o644 });
                header.set_size(file.metadata()?.len());
                tar.append_data(&mut header, &path, file)?;
            }
        }
    }
    tar.into_inner()?.flush()
}

/// A version 8 UUID (RFC 9562, section 5.8) made from a digest.
fn uuid(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_come_from_the_digest_and_are_well_formed() {
        let one = uuid(&Digest::of(b"one"));
        assert_eq!(one, uuid(&Digest::of(b"one")));
        assert_ne!(one, uuid(&Digest::of(b"two")));
        assert_eq!(one.len(), 36);
        assert_eq!((&one[14..15], &one[19..20]), ("8", "8"));
    }

    #[test]
    fn the_tar_stream_does_not_depend_on_the_order_of_creation() {
        let bytes = |order: [&str; 2]| {
            let folder = tempfile::tempdir().unwrap();
            let mut tree = Tree::new(folder.path().to_owned()).unwrap();
            for path in order {
                tree.file(path, false, path.as_bytes(), "test").unwrap();
            }
            let mut bytes = Vec::new();
            stream(&tree, &mut bytes).unwrap();
            bytes
        };
        assert!(bytes(["etc/a", "etc/b"]) == bytes(["etc/b", "etc/a"]));
    }
}
