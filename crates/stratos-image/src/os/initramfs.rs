//! The initramfs: PID 1, the kernel modules it loads, and the console it writes to. Nothing else.
//!
//! It is not compressed: it is small, whoever ships an image compresses all of it, and a kernel that has nothing to
//! unpack starts sooner (by 90 million instructions compared with zstd, by 30 million compared with lz4).

use std::collections::BTreeMap;
use std::path::Path;

use super::check;
use super::cpio::Archive;
use super::error::ImageError;
use super::modules::Module;
use crate::error::at;

/// Folder of the modules, and the list of them in the order in which they are loaded.
const MODULES: &str = "lib/modules";
const ORDER: &str = "lib/modules/order";

/// Writes the initramfs, and gives who each of its files belongs to.
pub(crate) fn write(
    to: &Path,
    init: &Path,
    modules: &[Module],
    kernel: &str,
) -> Result<BTreeMap<String, String>, ImageError> {
    let mut owners = BTreeMap::new();
    let mut archive = Archive::new(Vec::new());
    let written = at("write", to);
    let mut add = |path: String, owner: &str| {
        check::file("initramfs", &path, 0)?;
        owners.insert(path, owner.to_owned());
        Ok::<(), ImageError>(())
    };
    add("init".to_owned(), "stratos")?;
    archive.file(init, Path::new("init"))?;
    let put = (|| {
        archive.console()?;
        for module in modules {
            archive.bytes(&Path::new(MODULES).join(file_name(module)), false, &module.content)?;
        }
        if !modules.is_empty() {
            let order: String = modules.iter().map(|module| file_name(module) + "\n").collect();
            archive.bytes(Path::new(ORDER), false, order.as_bytes())?;
        }
        std::fs::write(to, archive.finish()?)
    })();
    put.map_err(written)?;
    for module in modules {
        add(format!("{MODULES}/{}", file_name(module)), kernel)?;
    }
    if !modules.is_empty() {
        add(ORDER.to_owned(), "stratos")?;
    }
    Ok(owners)
}

fn file_name(module: &Module) -> String {
    format!("{}.ko", module.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_init_and_modules_and_is_the_same_every_time() {
        let folder = tempfile::tempdir().unwrap();
        let init = folder.path().join("init");
        std::fs::write(&init, "program").unwrap();
        let modules = ["dm_mod", "dm_verity"]
            .map(|name| Module { name: name.to_owned(), content: name.as_bytes().to_vec() });
        let bytes = |name: &str, modules: &[Module]| {
            let to = folder.path().join(name);
            let owners = write(&to, &init, modules, "linux-image").unwrap();
            (std::fs::read(&to).unwrap(), owners)
        };
        let (one, owners) = bytes("one", &modules);
        assert_eq!(one, bytes("two", &modules).0);
        let text = String::from_utf8_lossy(&one).into_owned();
        assert!(text.contains("dm_mod.ko\ndm_verity.ko\n"), "the order of loading");
        let owners: Vec<_> = owners.iter().map(|(path, owner)| format!("{path} {owner}")).collect();
        let expected = [
            "init stratos",
            "lib/modules/dm_mod.ko linux-image",
            "lib/modules/dm_verity.ko linux-image",
            "lib/modules/order stratos",
        ];
        assert_eq!(owners, expected);
        let (alone, owners) = bytes("alone", &[]);
        assert!(!String::from_utf8_lossy(&alone).contains("modules"));
        assert_eq!(owners.len(), 1);
    }
}
