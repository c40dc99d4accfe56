//! Where a Go program keeps the state of its random generators, so that each instance gets its own.
//!
//! `crypto/rand` asks the kernel. `math/rand` and `math/rand/v2` take their numbers from a generator of the thread (`m`)
//! that they run on, which is seeded from a global one when the thread is made: runtime/rand.go of Go 1.22 and later. Both
//! are plain bytes that may have any value; where they are, the program's symbols and debugging information say, and those
//! are in each Go program that was not stripped of them.

use std::borrow::Cow;
use std::cell::Cell;
use std::io::{self, Read as _};
use std::time::{Duration, Instant};

use flate2::read::ZlibDecoder;
use gimli::{AttributeValue, DebuggingInformationEntry, Dwarf, EndianSlice, LittleEndian, SectionId, Unit};
use object::read::elf::ElfFile64;
use object::{CompressionFormat, Endianness, Object as _, ObjectSection as _, ObjectSymbol as _};

/// Threads that a program may have had at once; what comes after is a list without end.
const MOST_THREADS: usize = 10_000;
/// Most bytes of all sections that are read, unpacked; and of the table of abbreviations, which takes many times its size
/// in memory. A program of 100 MB, Kubernetes' for one, has half of that and a tenth.
const MOST_BYTES: u64 = 128 << 20;
const MOST_ABBREVIATIONS: u64 = 4 << 20;
/// Most units, and how long the search may take: it is a stranger's program that says how much there is to look at.
const MOST_UNITS: usize = 50_000;
const PATIENCE: Duration = Duration::from_secs(5);
/// What is read of the debugging information: names and places of types and variables, and what a unit's head refers to.
const SECTIONS: [SectionId; 8] = [
    SectionId::DebugAbbrev,
    SectionId::DebugAddr,
    SectionId::DebugInfo,
    SectionId::DebugLine,
    SectionId::DebugLineStr,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
    SectionId::DebugRngLists,
];

/// Bytes of the process's memory, by address and length, that are different in each instance.
pub type Ranges = Vec<(u64, u32)>;

/// Why they cannot be told.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unknown {
    /// It was built without symbols or debugging information.
    #[error(
        "it is a Go program without debugging information, by which the state of math/rand would be found: its random numbers \
         would repeat in its instances; build it without -ldflags=\"-s -w\""
    )]
    Stripped,
    /// Its runtime is not one that is known here.
    #[error(
        "it is a Go program whose runtime is not known here (Go 1.22 and later is): its random numbers would repeat in its \
         instances"
    )]
    Runtime,
    /// What its debugging information says makes no sense.
    #[error("its debugging information makes no sense: {0}")]
    Invalid(String),
    /// A word of its memory cannot be read.
    #[error("its memory cannot be read: {0}")]
    Memory(String),
}

impl From<gimli::Error> for Unknown {
    fn from(error: gimli::Error) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// Whether an executable is a Go program. Stripped ones are known, too.
pub(super) fn is_go(elf: &ElfFile64<'_, Endianness>) -> bool {
    elf.section_by_name(".go.buildinfo").is_some()
}

/// The state of all generators of a program, from its file and the words of its memory; `None` when it is no Go program.
pub fn of_program(program: &[u8], word: impl Fn(u64) -> io::Result<u64>) -> Option<Result<Ranges, Unknown>> {
    let elf = ElfFile64::<Endianness>::parse(program).ok()?;
    is_go(&elf).then(|| random_state(&elf, 0, word))
}

/// The same of one that is known to be a Go program, and is mapped `moved` bytes above the addresses in its file.
pub(super) fn random_state(
    elf: &ElfFile64<'_, Endianness>,
    moved: u64,
    word: impl Fn(u64) -> io::Result<u64>,
) -> Result<Ranges, Unknown> {
    let symbol = |name: &str| {
        let found = elf.symbols().find(|symbol| symbol.name() == Ok(name) && symbol.is_definition());
        found.map(|symbol| symbol.address().wrapping_add(moved)).ok_or(Unknown::Stripped)
    };
    let (global, first) = (symbol("runtime.globalRand")?, symbol("runtime.allm")?);
    let layout = Layout::read(elf)?;
    let mut ranges = vec![(global.wrapping_add(layout.state_of_global), layout.state_bytes)];
    let word = |address: u64| word(address).map_err(|error| Unknown::Memory(error.to_string()));
    let mut thread = word(first)?;
    while thread != 0 {
        if ranges.len() > 3 * MOST_THREADS {
            return Err(Unknown::Invalid("its list of threads has no end".to_owned()));
        }
        ranges.push((thread.wrapping_add(layout.state_of_thread), layout.state_bytes));
        ranges.extend(layout.cheap.iter().map(|(offset, bytes)| (thread.wrapping_add(*offset), *bytes)));
        thread = word(thread.wrapping_add(layout.next_thread))?;
    }
    Ok(ranges)
}

/// Offsets in the structures of Go's runtime.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    /// `state` in `globalRand`.
    state_of_global: u64,
    /// `chacha8` in `m`.
    state_of_thread: u64,
    /// `alllink` in `m`.
    next_thread: u64,
    /// `cheaprand` and `cheaprand64` in `m`, and their sizes. Go's own packages do not give these out; others do.
    cheap: Vec<(u64, u32)>,
    /// Numbers that wait to be drawn, and the seed of those that follow: all of a `chacha8rand.State` before its indices.
    state_bytes: u32,
}

type Slice<'a> = EndianSlice<'a, LittleEndian>;

impl Layout {
    fn read(elf: &ElfFile64<'_, Endianness>) -> Result<Self, Unknown> {
        let left = Cell::new(MOST_BYTES);
        let sections = gimli::DwarfSections::load(|id| section(elf, id, &left))?;
        let mut dwarf = sections.borrow(|bytes| EndianSlice::new(bytes, LittleEndian));
        // Else each unit would read the table anew that it shares with others.
        dwarf.populate_abbreviations_cache(gimli::AbbreviationsCacheStrategy::All);
        let found = Structures::find(&dwarf)?;
        let thread = found.thread.ok_or(Unknown::Stripped)?;
        let state = found.state.ok_or(Unknown::Runtime)?;
        let global = found.global.ok_or(Unknown::Runtime)?;
        let offset = |of: &Members, name: &str| {
            of.iter().find(|(known, _)| known == name).map(|(_, offset)| *offset).ok_or(Unknown::Runtime)
        };
        let state_bytes = offset(&state, "i")?;
        // Numbers that wait, and then the seed: 256 and 32 bytes.
        let is_known = offset(&state, "buf")? == 0 && offset(&state, "seed")? == 256 && state_bytes == 288;
        if !is_known {
            return Err(Unknown::Runtime);
        }
        Ok(Self {
            state_of_global: offset(&global, "state")?,
            state_of_thread: offset(&thread, "chacha8")?,
            next_thread: offset(&thread, "alllink")?,
            cheap: vec![(offset(&thread, "cheaprand")?, 4), (offset(&thread, "cheaprand64")?, 8)],
            state_bytes: 288,
        })
    }
}

/// A section, unpacked. `left`: bytes that all of them may have yet.
fn section<'data>(
    elf: &ElfFile64<'data, Endianness>,
    id: SectionId,
    left: &Cell<u64>,
) -> Result<Cow<'data, [u8]>, Unknown> {
    let invalid = |error: &dyn std::fmt::Display| Unknown::Invalid(format!("{}: {error}", id.name()));
    let wanted = SECTIONS.contains(&id).then(|| elf.section_by_name(id.name())).flatten();
    let Some(section) = wanted else { return Ok(Cow::Borrowed(&[])) };
    let data = section.compressed_data().map_err(|error| invalid(&error))?;
    let most = if id == SectionId::DebugAbbrev { MOST_ABBREVIATIONS } else { left.get() };
    if data.uncompressed_size > most.min(left.get()) {
        return Err(invalid(&"there is too much of it"));
    }
    left.set(left.get() - data.uncompressed_size);
    match data.format {
        CompressionFormat::None => Ok(Cow::Borrowed(data.data)),
        CompressionFormat::Zlib => {
            let mut bytes = Vec::new();
            let mut limited = ZlibDecoder::new(data.data).take(data.uncompressed_size);
            limited.read_to_end(&mut bytes).map_err(|error| invalid(&error))?;
            Ok(Cow::Owned(bytes))
        }
        _ => Err(invalid(&"it is packed in a way that is not known here")),
    }
}

/// The members of a structure, and their offsets.
type Members = Vec<(String, u64)>;

/// The structures that are looked for.
#[derive(Default)]
struct Structures {
    /// `runtime.m`
    thread: Option<Members>,
    /// `internal/chacha8rand.State`
    state: Option<Members>,
    /// That of the variable `runtime.globalRand`, which has no name.
    global: Option<Members>,
}

impl Structures {
    fn find(dwarf: &Dwarf<Slice<'_>>) -> Result<Self, Unknown> {
        let began = Instant::now();
        let mut found = Self::default();
        let mut headers = dwarf.units();
        for _ in 0..MOST_UNITS {
            let Some(header) = headers.next()? else { return Ok(found) };
            let unit = dwarf.unit(header)?;
            let mut tree = unit.entries_tree(None)?;
            let mut children = tree.root()?.children();
            while let Some(child) = children.next()? {
                if began.elapsed() > PATIENCE {
                    return Err(Unknown::Invalid("there is too much of it".to_owned()));
                }
                let entry = child.entry();
                let is_structure = match entry.tag() {
                    gimli::DW_TAG_structure_type => true,
                    gimli::DW_TAG_variable => false,
                    _ => continue,
                };
                let Some(name) = name_of(dwarf, &unit, entry)? else { continue };
                match (is_structure, &*name) {
                    (true, "runtime.m") => found.thread = Some(members(dwarf, &unit, child)?),
                    (true, "internal/chacha8rand.State") => found.state = Some(members(dwarf, &unit, child)?),
                    (false, "runtime.globalRand") => found.global = type_members(dwarf, &unit, entry)?,
                    _ => {}
                }
            }
            if found.thread.is_some() && found.state.is_some() && found.global.is_some() {
                return Ok(found);
            }
        }
        Err(Unknown::Invalid("it has too many units".to_owned()))
    }
}

fn members(
    dwarf: &Dwarf<Slice<'_>>,
    unit: &Unit<Slice<'_>>,
    structure: gimli::EntriesTreeNode<'_, '_, '_, Slice<'_>>,
) -> Result<Members, Unknown> {
    let mut found = Vec::new();
    let mut children = structure.children();
    while let Some(child) = children.next()? {
        found.extend(member_of(dwarf, unit, child.entry())?);
    }
    Ok(found)
}

/// The members of a variable's type.
fn type_members(
    dwarf: &Dwarf<Slice<'_>>,
    unit: &Unit<Slice<'_>>,
    variable: &DebuggingInformationEntry<'_, '_, Slice<'_>>,
) -> Result<Option<Members>, Unknown> {
    let in_unit = |unit: &Unit<Slice<'_>>, offset| {
        let mut tree = unit.entries_tree(Some(offset))?;
        members(dwarf, unit, tree.root()?).map(Some)
    };
    match variable.attr_value(gimli::DW_AT_type)? {
        Some(AttributeValue::UnitRef(offset)) => in_unit(unit, offset),
        Some(AttributeValue::DebugInfoRef(offset)) => {
            let mut headers = dwarf.units();
            while let Some(header) = headers.next()? {
                if let Some(offset) = offset.to_unit_offset(&header) {
                    return in_unit(&dwarf.unit(header)?, offset);
                }
            }
            Ok(None)
        }
        _ => Ok(None),
    }
}

fn name_of<'a>(
    dwarf: &Dwarf<Slice<'a>>,
    unit: &Unit<Slice<'a>>,
    entry: &DebuggingInformationEntry<'_, '_, Slice<'a>>,
) -> Result<Option<Cow<'a, str>>, Unknown> {
    let Some(value) = entry.attr_value(gimli::DW_AT_name)? else { return Ok(None) };
    Ok(Some(dwarf.attr_string(unit, value)?.to_string_lossy()))
}

fn member_of(
    dwarf: &Dwarf<Slice<'_>>,
    unit: &Unit<Slice<'_>>,
    entry: &DebuggingInformationEntry<'_, '_, Slice<'_>>,
) -> Result<Option<(String, u64)>, Unknown> {
    let location = entry.attr_value(gimli::DW_AT_data_member_location)?;
    let Some(offset) = location.and_then(|value| value.udata_value()) else { return Ok(None) };
    Ok(name_of(dwarf, unit, entry)?.map(|name| (name.into_owned(), offset)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of nothing but what is looked for, with two threads at 0x1000 and 0x2000.
    #[test]
    fn the_state_of_each_thread_and_of_new_ones_is_found() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/go_program/small");
        let program = std::fs::read(corpus).unwrap();
        let elf = ElfFile64::<Endianness>::parse(&*program).unwrap();
        let address = |name| elf.symbols().find(|symbol| symbol.name() == Ok(name)).unwrap().address();
        let (global, first) = (address("runtime.globalRand"), address("runtime.allm"));
        let word = |at: u64| match at {
            0x2040 => Ok(0),
            0x1040 => Ok(0x2000),
            at if at == first => Ok(0x1000),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let expected = vec![
            (global + 40, 288),
            (0x1000 + 128, 288),
            (0x1000 + 432, 4),
            (0x1000 + 440, 8),
            (0x2000 + 128, 288),
            (0x2000 + 432, 4),
            (0x2000 + 440, 8),
        ];
        assert_eq!(of_program(&program, word), Some(Ok(expected)));
        let endless = of_program(&program, |_| Ok(0x1000));
        assert_eq!(endless, Some(Err(Unknown::Invalid("its list of threads has no end".to_owned()))));
        let unreadable = of_program(&program, |_| Err(io::ErrorKind::NotFound.into()));
        assert!(matches!(unreadable, Some(Err(Unknown::Memory(_)))), "{unreadable:?}");
    }

    #[test]
    fn other_programs_are_left_alone() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(of_program(&own, |_| Ok(0)).is_none());
        assert!(of_program(b"#!/bin/sh", |_| Ok(0)).is_none());
    }
}
