//! The kernel modules of an initramfs: the wanted ones, with all that they depend on, in an order in which each can be
//! loaded.
//!
//! Debian's package holds no `modules.dep` (installing it would write one), so dependencies are read where `depmod`
//! reads them: from the section `.modinfo` of each module. Modules that are built into the kernel need no file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::error::{FileError, at};

/// Why a kernel's modules cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// A module is neither a file nor built in.
    #[error("the kernel has no module `{name}`, which {for_what}")]
    Missing {
        /// The module.
        name: String,
        /// Who needs it.
        for_what: String,
    },
    /// A file is no kernel module.
    #[error("{} is not a kernel module: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Modules depend on each other in a circle.
    #[error("module `{name}` depends on itself")]
    Circle {
        /// The module.
        name: String,
    },
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// One module, unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its name, with `_` for `-`.
    pub(crate) name: String,
    /// The content of its `.ko` file.
    pub(crate) content: Vec<u8>,
}

/// The wanted modules and those they need, each after what it depends on. `folder` is `lib/modules/VERSION`.
pub(crate) fn closure(folder: &Path, wanted: &[&str]) -> Result<Vec<Module>, ModuleError> {
    let mut closure = Closure {
        files: files(folder)?,
        built_in: built_in(folder)?,
        open: BTreeSet::new(),
        done: Vec::new(),
    };
    for name in wanted {
        closure.add(&normal(name), "the image's description lists")?;
    }
    Ok(closure.done)
}

struct Closure {
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
    open: BTreeSet<String>,
    done: Vec<Module>,
}

impl Closure {
    fn add(&mut self, name: &str, for_what: &str) -> Result<(), ModuleError> {
        if self.built_in.contains(name) || self.done.iter().any(|module| module.name == name) {
            return Ok(());
        }
        if !self.open.insert(name.to_owned()) {
            return Err(ModuleError::Circle { name: name.to_owned() });
        }
        let Some(path) = self.files.get(name).cloned() else {
            return Err(ModuleError::Missing { name: name.to_owned(), for_what: for_what.to_owned() });
        };
        let content = content(&path)?;
        let needs = Needs::of(&content)
            .ok_or(ModuleError::Malformed { path, problem: "it has no readable section .modinfo" })?;
        for before in needs.if_there {
            // It may name what this kernel lacks, or an algorithm in place of a module.
            if self.files.contains_key(&before) && !self.open.contains(&before) {
                self.add(&before, name)?;
            }
        }
        for dependency in needs.depends {
            self.add(&dependency, &format!("`{name}` needs"))?;
        }
        self.open.remove(name);
        self.done.push(Module { name: name.to_owned(), content });
        Ok(())
    }
}

/// A module's name as the kernel knows it.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// All module files under a folder, by name.
fn files(folder: &Path) -> Result<BTreeMap<String, PathBuf>, FileError> {
    let mut files = BTreeMap::new();
    let mut open = vec![folder.join("kernel")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).map_err(at("list", &folder))? {
            let path = entry.map_err(at("list", &folder))?.path();
            if path.is_dir() {
                open.push(path);
            } else if let Some(name) = path.file_name().and_then(|name| name.to_str())
                && let Some(stem) = name.strip_suffix(".ko").or_else(|| name.strip_suffix(".ko.xz"))
            {
                files.insert(normal(stem), path);
            }
        }
    }
    Ok(files)
}

/// Names of the modules that are part of the kernel itself; a package that does not say so has none.
fn built_in(folder: &Path) -> Result<BTreeSet<String>, FileError> {
    let file = folder.join("modules.builtin");
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(at("read", &file)(error)),
    };
    let name = |line: &str| Some(normal(line.rsplit('/').next()?.strip_suffix(".ko")?));
    Ok(text.lines().filter_map(name).collect())
}

/// A module's content, unpacked if it is compressed: the kernel may lack the means, and the initramfs as a whole
/// compresses better than its parts.
fn content(path: &Path) -> Result<Vec<u8>, ModuleError> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return Ok(std::fs::read(path).map_err(at("read", path))?);
    }
    let file = std::fs::File::open(path).map_err(at("open", path))?;
    let mut content = Vec::new();
    lzma_rs::xz_decompress(&mut BufReader::new(file), &mut content)
        .map_err(|_| ModuleError::Malformed { path: path.to_owned(), problem: "it cannot be unpacked" })?;
    Ok(content)
}

/// What a module needs to be loaded before it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Needs {
    /// Modules whose symbols it uses.
    depends: Vec<String>,
    /// Modules that it works better with (`softdep: pre`).
    if_there: Vec<String>,
}

impl Needs {
    /// Reads a module; None when it is no 64-bit little-endian ELF file with a section `.modinfo`.
    fn of(module: &[u8]) -> Option<Self> {
        let mut needs = Self::default();
        for entry in section(module, b".modinfo")?.split(|byte| *byte == 0) {
            let entry = std::str::from_utf8(entry).ok()?;
            if let Some(names) = entry.strip_prefix("depends=") {
                needs.depends.extend(names.split(',').filter(|name| !name.is_empty()).map(normal));
            } else if let Some(words) = entry.strip_prefix("softdep=") {
                let before = words.split_whitespace().skip_while(|word| *word != "pre:").skip(1);
                needs.if_there.extend(before.take_while(|word| *word != "post:").map(normal));
            }
        }
        Some(needs)
    }
}

/// The content of a section of a 64-bit little-endian ELF file.
fn section<'a>(file: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    if file.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let word = |at: usize| Some(u64::from_le_bytes(file.get(at..at.checked_add(8)?)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_le_bytes(file.get(at..at.checked_add(2)?)?.try_into().ok()?));
    let headers = usize::try_from(word(40)?).ok()?;
    let size = usize::from(half(58)?);
    let header = |n: u16| headers.checked_add(usize::from(n).checked_mul(size)?);
    let content = |header: usize| {
        let start = usize::try_from(word(header.checked_add(24)?)?).ok()?;
        let length = usize::try_from(word(header.checked_add(32)?)?).ok()?;
        file.get(start..start.checked_add(length)?)
    };
    let names = content(header(half(62)?)?)?;
    for n in 0..half(60)? {
        let header = header(n)?;
        let name = u32::from_le_bytes(file.get(header..header.checked_add(4)?)?.try_into().ok()?);
        let name = names.get(name as usize..)?.split(|byte| *byte == 0).next()?;
        if name == wanted {
            return content(header);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with nothing but a section `.modinfo`.
    fn module(modinfo: &str) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let (info_at, names_at) = (64, 64 + modinfo.len());
        let headers_at = names_at + names.len();
        file[40..48].copy_from_slice(&(headers_at as u64).to_le_bytes());
        file[58..60].copy_from_slice(&64u16.to_le_bytes());
        file[60..62].copy_from_slice(&2u16.to_le_bytes());
        file[62..64].copy_from_slice(&1u16.to_le_bytes());
        file.extend(modinfo.as_bytes());
        file.extend(names);
        for (name, at, length) in [(1u32, info_at, modinfo.len()), (10, names_at, names.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(length as u64).to_le_bytes());
            file.extend(header);
        }
        file
    }

    fn kernel(modules: &[(&str, &str)], built_in: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("kernel/drivers")).unwrap();
        for (name, info) in modules {
            std::fs::write(folder.path().join("kernel/drivers").join(name), module(info)).unwrap();
        }
        std::fs::write(folder.path().join("modules.builtin"), built_in).unwrap();
        folder
    }

    fn order(kernel: &tempfile::TempDir, wanted: &[&str]) -> String {
        match closure(kernel.path(), wanted) {
            Ok(modules) => modules.into_iter().map(|module| module.name).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn modules_come_after_what_they_depend_on_and_once() {
        let kernel = kernel(
            &[
                ("dm-verity.ko", "license=GPL\0depends=dm-bufio,dm-mod,crc16\0"),
                ("dm-bufio.ko", "depends=dm-mod\0"),
                ("dm-mod.ko", "depends=\0"),
                ("fs.ko", "softdep=pre: fast sha256 post: later\0depends=dm-mod\0"),
                ("fast.ko", "name=fast\0"),
                ("later.ko", "name=later\0"),
            ],
            "kernel/lib/crc16.ko\nkernel/fs/ext4.ko\n",
        );
        assert_eq!(order(&kernel, &["dm_verity", "fs"]), "dm_mod dm_bufio dm_verity fast fs");
        assert_eq!(order(&kernel, &["ext4", "dm-mod"]), "dm_mod");
        assert_eq!(
            order(&kernel, &["nvme"]),
            "the kernel has no module `nvme`, which the image's description lists"
        );
    }

    #[test]
    fn missing_circular_and_damaged_modules_are_refused() {
        let kernel = kernel(
            &[("a.ko", "depends=b\0"), ("b.ko", "depends=a\0"), ("c.ko", "depends=d\0"), ("e.ko", "")],
            "",
        );
        assert_eq!(order(&kernel, &["a"]), "module `a` depends on itself");
        assert_eq!(order(&kernel, &["c"]), "the kernel has no module `d`, which `c` needs");
        assert_eq!(order(&kernel, &["e"]), "e", "a module that says nothing needs nothing");
        let whole = module("depends=x\0");
        let needs = Needs::of(&whole);
        for end in 0..whole.len() {
            let found = Needs::of(&whole[..end]);
            // The last bytes are fields that nobody reads.
            assert!(found.is_none() || found == needs, "{end}");
        }
        std::fs::write(kernel.path().join("kernel/f.ko.xz"), "no xz").unwrap();
        assert!(order(&kernel, &["f"]).ends_with("f.ko.xz is not a kernel module: it cannot be unpacked"));
    }
}
