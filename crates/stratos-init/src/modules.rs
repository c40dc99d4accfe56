//! Kernel modules of the initramfs, where the kernel has its drivers in such.

use std::fs::File;
use std::path::Path;

use rustix::io::Errno;
use rustix::system::finit_module;

use crate::boot::Node;
use crate::clock;
use crate::error::InitError;
use crate::files;
use crate::phase::Outcome;

/// Folder of the modules in the initramfs.
pub const FOLDER: &str = "/lib/modules";
/// File in it that names them, one a line, each after those it needs.
const ORDER: &str = "order";
const MOST_BYTES: usize = 64 << 10;
/// `MODULE_INIT_COMPRESSED_FILE` of finit_module(2).
const COMPRESSED: i32 = 4;

/// Loads every module that the order names.
///
/// # Errors
/// When a module cannot be loaded, after all others were tried: a driver for other hardware must not end the boot, and
/// what is missing shows in the phases that need it.
pub fn load(node: &mut Node) -> Result<Outcome, InitError> {
    let order = Path::new(FOLDER).join(ORDER);
    if !order.exists() {
        return Outcome::skipped("the kernel has its drivers built in");
    }
    let text = files::read_text(&order, MOST_BYTES)?;
    let (mut loaded, mut failed, mut slowest) = (0, Vec::new(), (0, ""));
    for name in names(&text) {
        let begun = clock::boot_us();
        match load_one(&Path::new(FOLDER).join(name)) {
            Ok(()) => loaded += 1,
            Err(error) => failed.push(error.chain()),
        }
        let took = clock::boot_us().saturating_sub(begun);
        node.journal.note(&format!("{name}: {took} us"));
        slowest = slowest.max((took, name));
    }
    match failed.is_empty() {
        true => Outcome::done(format!("{loaded} modules, the slowest {} in {} us", slowest.1, slowest.0)),
        false => Err(InitError::invalid(format!("{loaded} modules loaded"), failed.join("; "))),
    }
}

/// The names in the order file; a line that leads out of the folder is left out.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter(|name| !name.starts_with('/') && !name.split('/').any(|part| part == ".."))
}

fn load_one(path: &Path) -> Result<(), InitError> {
    let file = File::open(path).map_err(|source| InitError::file("open", path, source))?;
    let flags = if path.extension().is_some_and(|kind| kind == "ko") { 0 } else { COMPRESSED };
    match finit_module(file, c"", flags) {
        // NODEV: the driver found that its hardware is not there.
        Ok(()) | Err(Errno::EXIST | Errno::NODEV) => Ok(()),
        Err(Errno::NOENT) => Err(InitError::missing(format!(
            "a module that {} needs, or an earlier place for it",
            path.display()
        ))),
        Err(errno) => Err(InitError::file("load", path, errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_read_without_comments_and_ways_out() {
        let text = "# first\nvirtio.ko\n\n fs/erofs.ko.xz \n../../x.ko\n/etc/y.ko\n";
        assert_eq!(names(text).collect::<Vec<_>>(), ["virtio.ko", "fs/erofs.ko.xz"]);
    }
}
