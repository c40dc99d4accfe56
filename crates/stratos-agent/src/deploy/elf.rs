//! What must be known of an executable before it is deployed: that it can run on this machine and in the layer; and where
//! in memory it wants to be.

/// Bytes from the start of a file that are enough to know it: headers and the interpreter's name lie there.
pub const HEAD: u64 = 64 << 10;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PF_W: u32 = 2;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;
const EM_RISCV: u16 = 243;

/// Why an executable cannot run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch {
    /// Not an ELF file at all.
    NotElf,
    /// Built for another machine.
    Machine(&'static str),
    /// Linked with a C library that the layer does not hold.
    Interpreter(String),
}

/// Checks the head of a file against the machine it is to run on (an `std::env::consts::ARCH`).
///
/// # Errors
/// Why it cannot run there.
pub fn check(head: &[u8], arch: &str) -> Result<(), Mismatch> {
    if head.len() < 64 || !head.starts_with(b"\x7fELF") {
        return Err(Mismatch::NotElf);
    }
    // Class 64-bit, little-endian: all that StratOS runs on.
    let machine = match (head[4], head[5]) {
        (2, 1) => u16_at(head, 18).unwrap_or(0),
        _ => return Err(Mismatch::Machine("a machine that is not 64-bit little-endian")),
    };
    let named = match machine {
        EM_X86_64 => "x86_64",
        EM_AARCH64 => "aarch64",
        EM_RISCV => "riscv64",
        _ => "an unknown machine",
    };
    if named != arch {
        return Err(Mismatch::Machine(named));
    }
    match interpreter(head) {
        Some(path) if !path.rsplit('/').next().is_some_and(|name| name.starts_with("ld-linux-")) => {
            Err(Mismatch::Interpreter(path))
        }
        _ => Ok(()),
    }
}

/// A part of an executable that is mapped from its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it lies in the file.
    pub offset: u64,
    /// Where it is mapped, or relative to where the executable is.
    pub address: u64,
    /// How long it is in the file.
    pub bytes: u64,
    /// Each process gets pages of its own.
    pub writable: bool,
}

/// The segments of an executable, from its head. Of one that is none, none.
pub fn segments(head: &[u8]) -> Vec<Segment> {
    let loads = program_headers(head).filter(|header| header.kind == PT_LOAD);
    loads
        .map(|header| Segment {
            offset: header.offset,
            address: header.address,
            bytes: header.bytes,
            writable: header.flags & PF_W != 0,
        })
        .collect()
}

/// The dynamic loader an executable asks for; `None` for a static one.
fn interpreter(head: &[u8]) -> Option<String> {
    let header = program_headers(head).find(|header| header.kind == PT_INTERP)?;
    let offset = usize::try_from(header.offset).ok()?;
    let length = usize::try_from(header.bytes).ok()?;
    let bytes = head.get(offset..offset.checked_add(length.min(256))?)?;
    let text = bytes.split(|b| *b == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// What is used of an `Elf64_Phdr` (elf(5)).
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    bytes: u64,
}

/// The program headers, up to the first that is not in the head.
fn program_headers(head: &[u8]) -> impl Iterator<Item = ProgramHeader> {
    let table = u64_at(head, 32).and_then(|at| usize::try_from(at).ok());
    let (size, count) = (u16_at(head, 54).unwrap_or(0), u16_at(head, 56).unwrap_or(0));
    let is_elf = head.starts_with(b"\x7fELF\x02\x01");
    (0..usize::from(count)).map_while(move |index| {
        let at = table.filter(|_| is_elf)?.checked_add(index.checked_mul(usize::from(size))?)?;
        Some(ProgramHeader {
            kind: u32_at(head, at)?,
            flags: u32_at(head, at.checked_add(4)?)?,
            offset: u64_at(head, at.checked_add(8)?)?,
            address: u64_at(head, at.checked_add(16)?)?,
            bytes: u64_at(head, at.checked_add(32)?)?,
        })
    })
}

fn bytes_at<const N: usize>(head: &[u8], at: usize) -> Option<[u8; N]> {
    head.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(head: &[u8], at: usize) -> Option<u16> {
    bytes_at(head, at).map(u16::from_le_bytes)
}

fn u32_at(head: &[u8], at: usize) -> Option<u32> {
    bytes_at(head, at).map(u32::from_le_bytes)
}

fn u64_at(head: &[u8], at: usize) -> Option<u64> {
    bytes_at(head, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(class: u8, machine: u16, interpreter: &str) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1]);
        head[18..20].copy_from_slice(&machine.to_le_bytes());
        if !interpreter.is_empty() {
            head[32..40].copy_from_slice(&64u64.to_le_bytes());
            head[54..56].copy_from_slice(&56u16.to_le_bytes());
            head[56..58].copy_from_slice(&1u16.to_le_bytes());
            head.extend(PT_INTERP.to_le_bytes());
            head.extend([0; 4]);
            head.extend(120u64.to_le_bytes());
            head.extend([0; 16]);
            head.extend((interpreter.len() as u64 + 1).to_le_bytes());
            head.extend([0; 16]);
            head.extend(interpreter.as_bytes());
            head.push(0);
        }
        head
    }

    #[test]
    fn executables_are_known_by_their_head() {
        let glibc = "/lib64/ld-linux-x86-64.so.2";
        let musl = "/lib/ld-musl-x86_64.so.1";
        let cases = [
            (b"#!/bin/sh\n".to_vec(), Err(Mismatch::NotElf)),
            (header(2, EM_X86_64, ""), Ok(())),
            (header(2, EM_X86_64, glibc), Ok(())),
            (header(2, EM_X86_64, musl), Err(Mismatch::Interpreter(musl.into()))),
            (header(2, EM_AARCH64, glibc), Err(Mismatch::Machine("aarch64"))),
            (header(1, 3, ""), Err(Mismatch::Machine("a machine that is not 64-bit little-endian"))),
        ];
        for (head, expected) in cases {
            assert_eq!(check(&head, "x86_64"), expected);
        }
        // Offsets that lead outside are no reason to panic.
        let mut wild = header(2, EM_X86_64, glibc);
        wild[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(check(&wild, "x86_64"), Ok(()));
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(check(&own[..HEAD as usize], std::env::consts::ARCH), Ok(()));
    }
    #[test]
    fn segments_are_what_is_mapped() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let segments = segments(&own[..HEAD as usize]);
        assert!(segments.iter().any(|segment| segment.writable), "{segments:?}");
        let read_only = segments.iter().filter(|segment| !segment.writable);
        for segment in read_only {
            assert!(segment.bytes > 0 && segment.offset + segment.bytes <= own.len() as u64, "{segment:?}");
            assert_eq!(segment.offset % 4096, segment.address % 4096, "{segment:?}");
        }
        assert_eq!(super::segments(b"#!/bin/sh"), []);
        assert_eq!(super::segments(&own[..64]), []);
    }
}
