//! What is mapped where, from /proc/PID/smaps.

use stratos_restorer::abi;
use stratos_sys::pagemap::Pagemap;

use super::{DumpError, While as _, read};
use crate::image::{KernelMapping, Mapping, PAGE, Traits};

/// One entry of smaps.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    start: u64,
    end: u64,
    protection: u32,
    shared: bool,
    offset: u64,
    inode: u64,
    name: String,
    flags: Vec<String>,
    protection_key: u32,
}

/// All mappings of a process.
pub(super) struct Maps(Vec<Entry>);

/// The index of a file in the list, where it is added when it is new.
pub(super) fn file_index(path: &str, files: &mut Vec<String>) -> u32 {
    let known = files.iter().position(|known| known == path);
    let index = known.unwrap_or_else(|| {
        files.push(path.to_owned());
        files.len() - 1
    });
    index as u32
}

impl Maps {
    pub(super) fn read(pid: i32) -> Result<Self, DumpError> {
        Self::parse(&read(format!("/proc/{pid}/smaps"))?)
    }

    fn parse(text: &str) -> Result<Self, DumpError> {
        let mut entries: Vec<Entry> = Vec::new();
        for line in text.lines() {
            if let Some(entry) = header(line) {
                entries.push(entry);
                continue;
            }
            let Some(entry) = entries.last_mut() else { continue };
            match line.split_once(':') {
                Some(("VmFlags", flags)) => {
                    entry.flags = flags.split_whitespace().map(str::to_owned).collect();
                }
                Some(("ProtectionKey", key)) => entry.protection_key = key.trim().parse().unwrap_or(u32::MAX),
                Some(_) => {}
                None => return Err(DumpError::refused(format!("a line of smaps is not understood: {line}"))),
            }
        }
        // What a restorer has left in a clone is not the program's.
        entries.retain(|entry| entry.end <= abi::BASE || entry.start >= abi::END);
        Ok(Self(entries))
    }

    /// The kernel's: the vDSO and its data.
    pub(super) fn of_kernel(&self) -> Vec<KernelMapping> {
        let kernel = self.0.iter().filter(|entry| entry.is_of_kernel() && entry.name != "[vsyscall]");
        kernel.map(|e| KernelMapping { name: e.name.clone(), start: e.start, end: e.end }).collect()
    }

    /// The process's own, with the pages that only it has.
    pub(super) fn own(&self, pagemap: &Pagemap, files: &mut Vec<String>) -> Result<Vec<Mapping>, DumpError> {
        self.0
            .iter()
            .filter(|entry| !entry.is_of_kernel())
            .map(|entry| entry.mapping(pagemap, files))
            .collect()
    }
}

/// `start-end perms offset device inode name`.
fn header(line: &str) -> Option<Entry> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = (hexadecimal(start)?, hexadecimal(end)?);
    let permissions = fields.next()?.as_bytes();
    let offset = hexadecimal(fields.next()?)?;
    let inode = fields.nth(1)?.parse().ok()?;
    let name = fields.next().unwrap_or_default().trim_start().to_owned();
    let protection = permissions.iter().zip([1, 2, 4]).filter(|(byte, _)| **byte != b'-');
    Some(Entry {
        start,
        end,
        protection: protection.map(|(_, bit)| bit).sum(),
        shared: permissions.get(3) == Some(&b's'),
        offset,
        inode,
        name,
        flags: Vec::new(),
        protection_key: 0,
    })
}

impl Entry {
    fn is_of_kernel(&self) -> bool {
        self.name == "[vdso]" || self.name == "[vsyscall]" || self.name.starts_with("[vvar")
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|known| known == flag)
    }

    fn refuse(&self, what: &str) -> DumpError {
        let name = if self.name.is_empty() { "without a name" } else { &self.name };
        DumpError::refused(format!("its memory at {:#x} ({name}) {what}", self.start))
    }

    fn mapping(&self, pagemap: &Pagemap, files: &mut Vec<String>) -> Result<Mapping, DumpError> {
        self.check()?;
        let file = (self.inode != 0).then(|| (file_index(&self.name, files), self.offset));
        let traits = Traits {
            grows_down: self.has("gd"),
            no_reserve: self.has("nr") && !self.has("dp"),
            wiped_on_fork: self.has("wf") && !self.has("dp"),
            not_inherited: self.has("dc"),
            droppable: self.has("dp"),
            huge_pages: if self.has("hg") { Some(true) } else { self.has("nh").then_some(false) },
        };
        let lost = traits.wiped_on_fork || traits.droppable;
        let pages = if lost || self.shared { Vec::new() } else { self.pages(pagemap)? };
        Ok(Mapping { start: self.start, end: self.end, protection: self.protection, file, traits, pages })
    }

    fn check(&self) -> Result<(), DumpError> {
        let writable_shared = self.shared && (self.protection & 2 != 0 || self.inode == 0);
        // A file that nobody can write to looks the same, shared or not; but for that it must be a plain file.
        if writable_shared {
            return Err(self.refuse("is shared with others"));
        }
        if self.inode != 0 && (self.name.ends_with(" (deleted)") || !self.name.starts_with('/')) {
            return Err(self.refuse("is a file that has no name any more"));
        }
        if self.inode != 0 && (self.name.starts_with("/dev/") || self.name.starts_with("/tmp/")) {
            return Err(self.refuse("is of a file that an instance does not have"));
        }
        if self.protection_key != 0 {
            return Err(self.refuse("has a protection key"));
        }
        // See proc_pid_smaps(5).
        let kinds = [
            ("lo", "is locked"),
            ("ht", "consists of huge pages of hugetlbfs"),
            ("um", "is watched by userfaultfd"),
            ("uw", "is watched by userfaultfd"),
            ("ss", "is a shadow stack"),
            ("io", "belongs to a device"),
        ];
        match kinds.iter().find(|(flag, _)| self.has(flag)) {
            Some((_, what)) => Err(self.refuse(what)),
            None => Ok(()),
        }
    }

    fn pages(&self, pagemap: &Pagemap) -> Result<Vec<(u32, u32)>, DumpError> {
        let own = match pagemap.own(self.start..self.end) {
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                return Err(DumpError::refused(
                    "this kernel cannot tell which pages are its own (Linux 6.7 can)",
                ));
            }
            own => own.during(|| "read its page map".to_owned())?,
        };
        let number = |address: u64| ((address - self.start) / PAGE) as u32;
        Ok(own
            .into_iter()
            .map(|range| (number(range.start), number(range.end) - number(range.start)))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00400000-00401000 r-xp 00001000 fe:00 42                         /usr/bin/node
Size:                  4 kB
VmFlags: rd ex mr mw me sd
7f0000000000-7f0000001000 rw-p 00000000 00:00 0
ProtectionKey:         0
VmFlags: rd wr mr mw me ac sd
7f0000002000-7f0000003000 r--s 00000000 fe:00 43                 /usr/lib/gconv-modules.cache
VmFlags: rd mr me ms sd
7ffd00000000-7ffd00002000 rw-p 00000000 00:00 0                          [stack]
VmFlags: rd wr mr mw me gd ac
7ffd10000000-7ffd10002000 r-xp 00000000 00:00 0                          [vdso]
VmFlags: rd ex mr mw me de sd
";

    #[test]
    fn smaps_are_read_as_the_kernel_writes_them() {
        let maps = Maps::parse(SMAPS).unwrap();
        let names: Vec<_> = maps.0.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["/usr/bin/node", "", "/usr/lib/gconv-modules.cache", "[stack]", "[vdso]"]);
        assert_eq!((maps.0[0].protection, maps.0[0].offset, maps.0[0].inode), (5, 0x1000, 42));
        assert!(maps.0[2].shared && maps.0[2].check().is_ok());
        assert!(maps.0[3].has("gd"));
        let vdso =
            KernelMapping { name: "[vdso]".to_owned(), start: 0x7ffd_1000_0000, end: 0x7ffd_1000_2000 };
        assert_eq!(maps.of_kernel(), [vdso]);
    }

    #[test]
    fn what_cannot_be_restored_is_named() {
        for (line, flags, message) in [
            ("1000-2000 rw-s 0 00:01 5 /dev/zero (deleted)", "rd wr sh", "is shared with others"),
            (
                "1000-2000 r-xp 0 fe:00 5 /opt/lib.so (deleted)",
                "rd ex",
                "is a file that has no name any more",
            ),
            ("1000-2000 r-xp 0 fe:00 5 /tmp/lib.so", "rd ex", "is of a file that an instance does not have"),
            ("1000-2000 rw-p 0 00:00 0 ", "rd wr lo", "is locked"),
        ] {
            let maps = Maps::parse(&format!("{line}\nVmFlags: {flags}\n")).unwrap();
            let error = maps.0[0].check().unwrap_err().to_string();
            assert!(error.ends_with(message), "{error}");
        }
    }
}
