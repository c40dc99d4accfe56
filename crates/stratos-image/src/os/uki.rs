//! Unified kernel images: an EFI program that holds kernel, command line and initramfs as sections, so that one
//! signature covers all of them (UAPI specification "Unified Kernel Image").
//!
//! The program is systemd's stub; its sections stay as they are, the image's follow behind them. PE format: Microsoft's
//! "PE Format", sections "File Headers" and "Section Table". Only what has to change is understood.

/// Bytes of an entry of the section table.
const SECTION: usize = 40;
/// A section of data that is only read (IMAGE_SCN_CNT_INITIALIZED_DATA, IMAGE_SCN_MEM_READ).
const READ_ONLY_DATA: u32 = 0x4000_0040;

/// What is put behind the stub, in the order in which it is given.
pub(crate) struct Part<'a> {
    /// The section's name, at most eight bytes.
    pub(crate) name: &'static str,
    /// Its content.
    pub(crate) content: &'a [u8],
}

/// Places in the stub's headers.
struct Headers {
    coff: usize,
    optional: usize,
    table: usize,
    sections: usize,
    section_alignment: u32,
    file_alignment: u32,
}

/// Puts sections behind the stub. The last one may be a kernel: it gets as much memory as it says it wants.
pub(crate) fn assemble(stub: &[u8], parts: &[Part<'_>]) -> Result<Vec<u8>, &'static str> {
    let headers = Headers::of(stub).ok_or("it is not a PE32+ program")?;
    let room = word(stub, headers.optional + 60).ok_or("its headers are cut off")? as usize;
    if headers.table + SECTION * (headers.sections + parts.len()) > room {
        return Err("its headers have no room for more sections");
    }
    let (mut file_end, mut memory_end) = headers.end(stub).ok_or("its section table is damaged")?;
    if file_end > stub.len() {
        return Err("a section of it is cut off");
    }
    let mut image = stub[..file_end].to_vec();
    let mut entry = headers.table + SECTION * headers.sections;
    for part in parts {
        file_end = file_end.next_multiple_of(headers.file_alignment as usize);
        memory_end = memory_end.next_multiple_of(headers.section_alignment);
        image.resize(file_end, 0);
        image.extend_from_slice(part.content);
        let raw = part.content.len().next_multiple_of(headers.file_alignment as usize);
        let too_large = |_| "a section of it would be too large";
        let length = u32::try_from(part.content.len()).map_err(too_large)?;
        let memory = length.max(wanted_memory(part.content).unwrap_or(0));
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(entry, &[0; SECTION]);
        put(entry, part.name.as_bytes());
        put(entry + 8, &memory.to_le_bytes());
        put(entry + 12, &memory_end.to_le_bytes());
        put(entry + 16, &u32::try_from(raw).map_err(too_large)?.to_le_bytes());
        put(entry + 20, &u32::try_from(file_end).map_err(too_large)?.to_le_bytes());
        put(entry + 36, &READ_ONLY_DATA.to_le_bytes());
        entry += SECTION;
        file_end += raw;
        memory_end = memory_end.checked_add(memory).ok_or("it would be too large")?;
    }
    image.resize(file_end, 0);
    let sections = u16::try_from(headers.sections + parts.len()).map_err(|_| "it has too many sections")?;
    let memory = memory_end.next_multiple_of(headers.section_alignment);
    image[headers.coff + 2..headers.coff + 4].copy_from_slice(&sections.to_le_bytes());
    image[headers.optional + 56..headers.optional + 60].copy_from_slice(&memory.to_le_bytes());
    // No check sum: firmware ignores it, and signing would change it.
    image[headers.optional + 64..headers.optional + 68].fill(0);
    Ok(image)
}

/// The memory that a kernel with an EFI stub wants for itself (its SizeOfImage).
fn wanted_memory(content: &[u8]) -> Option<u32> {
    let headers = Headers::of(content)?;
    word(content, headers.optional + 56)
}

impl Headers {
    fn of(file: &[u8]) -> Option<Self> {
        if file.get(..2)? != b"MZ" {
            return None;
        }
        let signature = word(file, 0x3C)? as usize;
        if file.get(signature..signature.checked_add(4)?)? != b"PE\0\0" {
            return None;
        }
        let coff = signature + 4;
        let optional = coff + 20;
        let size = usize::from(half(file, coff + 16)?);
        // PE32+ with all fields that are used here.
        if half(file, optional)? != 0x20B || size < 112 {
            return None;
        }
        let alignments = (word(file, optional + 32)?, word(file, optional + 36)?);
        if !alignments.0.is_power_of_two() || !alignments.1.is_power_of_two() {
            return None;
        }
        Some(Self {
            coff,
            optional,
            table: optional + size,
            sections: usize::from(half(file, coff + 2)?),
            section_alignment: alignments.0,
            file_alignment: alignments.1,
        })
    }

    /// Where the sections end, in the file and in memory.
    fn end(&self, file: &[u8]) -> Option<(usize, u32)> {
        let (mut file_end, mut memory_end) = (0, 0);
        for n in 0..self.sections {
            let entry = self.table + SECTION * n;
            let raw = (word(file, entry + 20)? as usize).checked_add(word(file, entry + 16)? as usize)?;
            let memory = word(file, entry + 12)?.checked_add(word(file, entry + 8)?)?;
            file_end = file_end.max(raw);
            memory_end = memory_end.max(memory);
        }
        Some((file_end, memory_end))
    }
}

fn word(file: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(file.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn half(file: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(file.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with one section of 512 bytes and room for five more.
    fn stub() -> Vec<u8> {
        let mut file = vec![0; 1024];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"MZ");
        put(0x3C, &0x40u32.to_le_bytes());
        put(0x40, b"PE\0\0");
        put(0x44 + 2, &1u16.to_le_bytes());
        put(0x44 + 16, &112u16.to_le_bytes());
        let optional = 0x44 + 20;
        put(optional, &0x20Bu16.to_le_bytes());
        put(optional + 32, &4096u32.to_le_bytes());
        put(optional + 36, &512u32.to_le_bytes());
        put(optional + 56, &8192u32.to_le_bytes());
        put(optional + 60, &512u32.to_le_bytes());
        put(optional + 64, &77u32.to_le_bytes());
        let table = optional + 112;
        put(table, b".text");
        for (at, value) in [(8, 300u32), (12, 4096), (16, 512), (20, 512)] {
            put(table + at, &value.to_le_bytes());
        }
        file
    }

    fn sections(image: &[u8]) -> Vec<(String, u32, u32, u32, u32)> {
        let headers = Headers::of(image).unwrap();
        let entry = |n: usize| {
            let at = headers.table + SECTION * n;
            let name = String::from_utf8_lossy(&image[at..at + 8]).trim_end_matches('\0').to_owned();
            let field = |offset: usize| word(image, at + offset).unwrap();
            (name, field(8), field(12), field(16), field(20))
        };
        (0..headers.sections).map(entry).collect()
    }

    #[test]
    fn sections_follow_the_stubs_own() {
        let kernel = stub();
        let parts = [
            Part { name: ".cmdline", content: b"quiet" },
            Part { name: ".initrd", content: &[1; 5000] },
            Part { name: ".linux", content: &kernel },
        ];
        let image = assemble(&stub(), &parts).unwrap();
        let expected = [
            (".text".to_owned(), 300, 4096, 512, 512),
            (".cmdline".to_owned(), 5, 8192, 512, 1024),
            (".initrd".to_owned(), 5000, 12_288, 5120, 1536),
            // The kernel wants 8,192 bytes of memory, more than it has in the file.
            (".linux".to_owned(), 8192, 20_480, 1024, 6656),
        ];
        assert_eq!(sections(&image), expected);
        assert_eq!(image.len(), 6656 + 1024);
        assert_eq!(&image[1024..1029], b"quiet");
        assert_eq!(&image[6656..6658], b"MZ");
        let optional = Headers::of(&image).unwrap().optional;
        assert_eq!((word(&image, optional + 56), word(&image, optional + 64)), (Some(28_672), Some(0)));
    }

    #[test]
    fn a_stub_that_is_none_or_full_is_refused() {
        let part = || Part { name: ".x", content: b"x" };
        assert_eq!(assemble(b"MZ", &[part()]), Err("it is not a PE32+ program"));
        let parts: Vec<_> = (0..9).map(|_| part()).collect();
        assert_eq!(assemble(&stub(), &parts), Err("its headers have no room for more sections"));
        for end in 0..stub().len() {
            assert!(assemble(&stub()[..end], &[part()]).is_err(), "{end}");
        }
    }
}
