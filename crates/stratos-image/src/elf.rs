//! The check that every program and library of a layer finds its libraries and its interpreter inside the layer.
//!
//! Only what the check needs is read: 64-bit little-endian headers, the interpreter, and the needed libraries and
//! search paths of the dynamic section (ELF specification, "Program Header", "Dynamic Section").

use std::io::Read as _;
use std::path::Path;

use crate::error::{FileError, at};
use crate::tree::{Node, Tree, TreeError, resolve};

/// What is wrong with a file that begins like an ELF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Why a layer's programs would not load.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// A library or interpreter is not in the layer.
    #[error("/{file} needs {missing}, which is not in the layer")]
    Missing {
        /// The program or library.
        file: String,
        /// What it needs.
        missing: String,
    },
    /// A file begins like an ELF file but is none.
    #[error("/{file} is not a valid ELF file: {problem}")]
    Malformed {
        /// The file.
        file: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The tree could not be walked.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What an ELF file needs from others.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Elf {
    /// Its program interpreter.
    pub(crate) interpreter: Option<String>,
    /// Names of the libraries it needs.
    pub(crate) needed: Vec<String>,
    /// Its own search path, `$ORIGIN` unexpanded.
    pub(crate) search: Vec<String>,
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

impl Elf {
    /// Reads an ELF file; None when the bytes are something else.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        if !bytes.starts_with(b"\x7fELF") {
            return Ok(None);
        }
        if bytes.get(4..6) != Some(&[2, 1]) {
            return Err(Malformed("it is not 64-bit little-endian"));
        }
        let (table, size, count) = (number(bytes, 32, 8)?, number(bytes, 54, 2)?, number(bytes, 56, 2)?);
        let mut loads = Vec::new();
        let (mut interpreter, mut dynamic) = (None, None);
        for index in 0..count {
            let head = table.checked_add(index * size).ok_or(Malformed("its program headers overflow"))?;
            let field = |distance| number(bytes, head.saturating_add(distance), 8);
            let (offset, address, length) = (field(8)?, field(16)?, field(32)?);
            match number(bytes, head, 4)? as u32 {
                PT_LOAD => loads.push((address, length, offset)),
                PT_DYNAMIC => dynamic = Some((offset, length)),
                PT_INTERP => interpreter = Some(text(bytes, offset)?),
                _ => {}
            }
        }
        let mut elf = Self { interpreter, ..Self::default() };
        let Some((offset, length)) = dynamic else { return Ok(Some(elf)) };
        let mut tags = Vec::new();
        for entry in 0..length / 16 {
            let place = offset.saturating_add(entry * 16);
            let tag = number(bytes, place, 8)?;
            if tag == 0 {
                break;
            }
            tags.push((tag, number(bytes, place.saturating_add(8), 8)?));
        }
        let Some(&(_, address)) = tags.iter().find(|(tag, _)| *tag == DT_STRTAB) else {
            return Ok(Some(elf));
        };
        let &(base, _, file) = loads
            .iter()
            .find(|(base, length, _)| address >= *base && address - base < *length)
            .ok_or(Malformed("its string table is not loaded"))?;
        let strings = (address - base).checked_add(file).ok_or(Malformed("its string table overflows"))?;
        for (tag, value) in tags {
            let at = || strings.checked_add(value).ok_or(Malformed("a string overflows"));
            match tag {
                DT_NEEDED => elf.needed.push(text(bytes, at()?)?),
                DT_RPATH | DT_RUNPATH => elf.search.extend(text(bytes, at()?)?.split(':').map(str::to_owned)),
                _ => {}
            }
        }
        Ok(Some(elf))
    }
}

fn number(bytes: &[u8], offset: u64, size: usize) -> Result<u64, Malformed> {
    let start = usize::try_from(offset).map_err(|_| Malformed("an offset is too large"))?;
    let end = start.checked_add(size).ok_or(Malformed("an offset is too large"))?;
    let field = bytes.get(start..end).ok_or(Malformed("it is cut short"))?;
    Ok(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

fn text(bytes: &[u8], offset: u64) -> Result<String, Malformed> {
    let start = usize::try_from(offset).map_err(|_| Malformed("an offset is too large"))?;
    let rest = bytes.get(start..).ok_or(Malformed("a string lies outside the file"))?;
    let end = rest.iter().position(|byte| *byte == 0).ok_or(Malformed("a string has no end"))?;
    String::from_utf8(rest[..end].to_vec()).map_err(|_| Malformed("a string is not UTF-8"))
}

/// Checks every ELF file of a tree.
pub(crate) fn check(tree: &Tree) -> Result<(), ElfError> {
    for (path, node) in tree.nodes()? {
        if matches!(node, Node::File { .. })
            && let Some(bytes) = read_elf(&tree.root().join(&path))?
        {
            check_file(tree.root(), &path, &bytes)?;
        }
    }
    Ok(())
}

fn read_elf(place: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let mut file = std::fs::File::open(place).map_err(at("open", place))?;
    let mut bytes = Vec::new();
    (&mut file).take(4).read_to_end(&mut bytes).map_err(at("read", place))?;
    if bytes != b"\x7fELF" {
        return Ok(None);
    }
    file.read_to_end(&mut bytes).map_err(at("read", place))?;
    Ok(Some(bytes))
}

fn check_file(root: &Path, path: &str, bytes: &[u8]) -> Result<(), ElfError> {
    let malformed = |Malformed(problem)| ElfError::Malformed { file: path.to_owned(), problem };
    let Some(elf) = Elf::parse(bytes).map_err(malformed)? else { return Ok(()) };
    let missing = |missing: &str| ElfError::Missing { file: path.to_owned(), missing: missing.to_owned() };
    let is_file = |path: &str| resolve(root, path).is_some_and(|real| root.join(real).is_file());
    if let Some(interpreter) = &elf.interpreter
        && !is_file(interpreter)
    {
        return Err(missing(interpreter));
    }
    let origin = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let own = elf.search.iter().map(|entry| entry.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", origin));
    let system =
        [format!("usr/lib/{}", crate::arch::triplet()), "usr/lib".to_owned(), "usr/lib64".to_owned()];
    let search: Vec<String> = own.chain(system).collect();
    for library in &elf.needed {
        if !search.iter().any(|folder| is_file(&format!("{folder}/{library}"))) {
            return Err(missing(library));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_binary() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    #[test]
    fn reads_what_a_real_program_needs() {
        let elf = Elf::parse(&own_binary()).unwrap().expect("this test is an ELF file");
        assert!(elf.needed.iter().any(|name| name == "libc.so.6"), "{elf:?}");
        assert!(elf.interpreter.is_some_and(|path| path.contains("/ld-linux")));
        assert_eq!(Elf::parse(b"#!/bin/sh\n"), Ok(None));
    }

    #[test]
    fn damaged_files_are_refused_and_never_panic() {
        let whole = own_binary();
        assert_eq!(Elf::parse(&whole[..40]), Err(Malformed("it is cut short")));
        // Every header byte in turn set to 0xff: an error or some result, but no panic.
        for index in 4..64.min(whole.len()) {
            let mut bytes = whole[..4096.min(whole.len())].to_vec();
            bytes[index] = 0xff;
            drop(Elf::parse(&bytes));
        }
    }

    #[test]
    fn a_missing_library_is_named_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(folder.path().to_owned()).unwrap();
        let binary = own_binary();
        tree.file("usr/bin/tool", true, binary.as_slice(), "test").unwrap();
        let interpreter = Elf::parse(&binary).unwrap().unwrap().interpreter.unwrap();
        let error = check(&tree).unwrap_err().to_string();
        assert_eq!(error, format!("/usr/bin/tool needs {interpreter}, which is not in the layer"));
        tree.file(&interpreter, true, &b"x"[..], "test").unwrap();
        let error = check(&tree).unwrap_err().to_string();
        assert!(error.starts_with("/usr/bin/tool needs lib"), "{error}");
    }
}
