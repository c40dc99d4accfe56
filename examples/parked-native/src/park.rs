//! Waiting to be released: a checkpoint is taken meanwhile, and many processes go on from it, each with a release of its own.
//! The interface is described in docs/formats/release-frame.md. Copy this file into your program.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::FromRawFd;

/// What this process is told when it is released.
pub struct Release {
    /// Random bytes that no other process is told.
    pub seed: [u8; 32],
    /// Variables that are this process's own, secrets among them.
    pub variables: Vec<(String, String)>,
}

/// Says that the program is ready, and waits. `None` in a process that no checkpoint is made of: it just goes on.
///
/// To be called once, by the first thread, after what is to be the same everywhere and before anything that must not be.
/// Random generators that were seeded before must be seeded anew after it.
pub fn park() -> io::Result<Option<Release>> {
    if std::env::var_os("STRATOS_CHECKPOINT").is_none() {
        return Ok(None);
    }
    // SAFETY: the node opens 3 and 4 for this very purpose where it sets that variable, and nothing else in the program uses
    // them. They are closed at the end, and this is called once.
    let (mut release, mut status) = unsafe { (File::from_raw_fd(3), File::from_raw_fd(4)) };
    status.write_all(b"P")?;
    // A read by another means than read(2) would not be recognised.
    let mut head = [0; 52];
    release.read_exact(&mut head)?;
    if !head.starts_with(b"SREL\x01\0\0\0") {
        return Err(io::Error::other("a release of an unknown kind"));
    }
    let length = u32::from_le_bytes(head[48..].try_into().expect("four bytes"));
    let mut variables = vec![0; length as usize];
    release.read_exact(&mut variables)?;
    let variables = String::from_utf8(variables).map_err(io::Error::other)?;
    let pairs = variables.split_terminator('\0').filter_map(|variable| variable.split_once('='));
    Ok(Some(Release {
        seed: head[16..48].try_into().expect("32 bytes"),
        variables: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    }))
}
