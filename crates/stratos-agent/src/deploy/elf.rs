//! What must be known of an executable before it is deployed: that it can run on this machine and in the layer.

/// Bytes from the start of a file that are enough to know it: headers and the interpreter's name lie there.
pub const HEAD: u64 = 64 << 10;

const PT_INTERP: u32 = 3;
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

/// The dynamic loader an executable asks for; `None` for a static one.
fn interpreter(head: &[u8]) -> Option<String> {
    let table = usize::try_from(u64_at(head, 32)?).ok()?;
    let (size, count) = (usize::from(u16_at(head, 54)?), usize::from(u16_at(head, 56)?));
    for i in 0..count {
        let header = table.checked_add(i.checked_mul(size)?)?;
        if u32_at(head, header)? == PT_INTERP {
            let offset = usize::try_from(u64_at(head, header.checked_add(8)?)?).ok()?;
            let length = usize::try_from(u64_at(head, header.checked_add(32)?)?).ok()?;
            let bytes = head.get(offset..offset.checked_add(length.min(256))?)?;
            let text = bytes.split(|b| *b == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
    }
    None
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
}
