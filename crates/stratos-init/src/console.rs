//! The console: few short lines, which nothing waits for.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::OFlags;

/// Where it is.
pub const PATH: &str = "/dev/console";

/// The machine's console, when it has one.
#[derive(Debug, Default)]
pub struct Console(Option<File>);

impl Console {
    /// Opens it. A terminal whose other end takes nothing would hold up who writes: it is opened so that it does not.
    pub fn open() -> Self {
        let flags = (OFlags::NOCTTY | OFlags::NONBLOCK).bits() as i32;
        Self(OpenOptions::new().write(true).custom_flags(flags).open(PATH).ok())
    }

    /// Prints a line. There is nobody to tell when that fails.
    pub fn print(&mut self, message: &str) {
        if let Some(file) = &mut self.0 {
            drop(file.write_all(format!("stratos: {message}\n").as_bytes()));
        }
    }
}
