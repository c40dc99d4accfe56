//! What must hold of metadata before anything is done with them. A checkpoint is code and registers: that it was made here
//! is shown by the folder that it lies in, which is root's alone, and its digests show that it is whole. These checks see to
//! it that a plan made from it touches nothing outside of the process that it describes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

use stratos_restorer::abi;

use super::{Checkpoint, ConnectionOptions, Descriptor, Mapping, Object, PAGE, REOPENED, may_be_opened};

/// First address that no program has: x86-64 with four levels of page tables.
const TOP: u64 = 0x7fff_ffff_f000;
const MOST_THREADS: usize = 256;
const MOST_MAPPINGS: usize = 60_000;
const MOST_FILES: usize = 2_000;
const MOST_PATH: usize = 4_095;
/// Words of `struct user_regs_struct` on x86-64.
const REGISTERS: usize = 27;
/// Bytes of the oldest part of the extended state, and the most there may be.
const EXTENDED: std::ops::RangeInclusive<usize> = 576..=16_384;
const SIGNALS: u32 = 64;
const MOST_CONTENTS: usize = 64 << 10;
const MOST_EPOLL: usize = 10_000;
const MOST_RANDOM: usize = 50_000;
const MOST_RANDOM_BYTES: u32 = 4_096;
/// What the kernel takes for `TCP_KEEPIDLE` and `TCP_KEEPINTVL`, and for `TCP_KEEPCNT`.
const KEEP_SECONDS: std::ops::RangeInclusive<u32> = 1..=32_767;
const KEEP_COUNT: std::ops::RangeInclusive<u32> = 1..=127;

/// What about metadata makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what}: {problem}")]
pub struct Invalid {
    /// The part.
    pub what: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

fn ensure(holds: bool, what: impl Fn() -> String, problem: &'static str) -> Result<(), Invalid> {
    if holds { Ok(()) } else { Err(Invalid { what: what(), problem }) }
}

impl Checkpoint {
    /// Pages that lie in the image.
    pub fn page_count(&self) -> u64 {
        let runs = self.mappings.iter().flat_map(|mapping| &mapping.pages);
        runs.map(|(_, count)| u64::from(*count)).sum()
    }

    /// Checks all that a plan relies on.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn check(&self, pages_bytes: u64) -> Result<(), Invalid> {
        self.check_mappings()?;
        let pages = || "pages".to_owned();
        ensure(self.page_count() == pages_bytes / PAGE, pages, "not as many as the mappings have")?;
        self.check_process()?;
        self.check_threads()?;
        self.check_descriptors()?;
        let code = self.reseed.is_none_or(|address| self.is_code(address));
        ensure(code, || "reseed".to_owned(), "not in code")?;
        self.check_random()
    }

    fn check_random(&self) -> Result<(), Invalid> {
        const WRITE: u32 = 2;
        ensure(self.random.len() <= MOST_RANDOM, || "random".to_owned(), "too much of it")?;
        for (start, bytes) in &self.random {
            let what = || format!("random {start:#x}");
            let end = start.checked_add(u64::from(*bytes)).unwrap_or(u64::MAX);
            let holds = |m: &&Mapping| m.start <= *start && end <= m.end && m.protection & WRITE != 0;
            ensure((1..=MOST_RANDOM_BYTES).contains(bytes), what, "its length")?;
            ensure(self.mappings.iter().any(|m| holds(&m)), what, "not in memory that is written to")?;
        }
        Ok(())
    }

    fn is_code(&self, address: u64) -> bool {
        const EXECUTE: u32 = 4;
        self.mappings.iter().any(|m| m.range().contains(&address) && m.protection & EXECUTE != 0)
    }

    fn check_mappings(&self) -> Result<(), Invalid> {
        ensure(self.mappings.len() <= MOST_MAPPINGS, || "mappings".to_owned(), "too many")?;
        ensure(self.files.len() <= MOST_FILES, || "files".to_owned(), "too many")?;
        for path in &self.files {
            check_path(path)?;
        }
        let mut all = BTreeMap::new();
        for mapping in &self.mappings {
            let what = || format!("mapping {:#x}", mapping.start);
            check_range(mapping.start, mapping.end, what)?;
            ensure(mapping.protection <= 7, what, "unknown protection")?;
            if let Some((file, offset)) = mapping.file {
                ensure((file as usize) < self.files.len(), what, "of a file that is not listed")?;
                ensure(
                    offset % PAGE == 0 && offset <= i64::MAX as u64,
                    what,
                    "its offset is not one of a page",
                )?;
            }
            let pages = (mapping.end - mapping.start) / PAGE;
            let mut next = 0;
            for (first, count) in &mapping.pages {
                let (first, count) = (u64::from(*first), u64::from(*count));
                ensure(first >= next && count > 0, what, "its pages are not in order")?;
                next = first + count;
                ensure(next <= pages, what, "it has pages beyond its end")?;
            }
            let lost = mapping.traits.wiped_on_fork || mapping.traits.droppable;
            ensure(!lost || mapping.pages.is_empty(), what, "it has pages that a clone does not get")?;
            ensure(!lost || mapping.file.is_none(), what, "a file's mapping cannot be wiped")?;
            all.insert(mapping.start, mapping.end);
        }
        ensure(all.len() == self.mappings.len(), || "mappings".to_owned(), "two begin at the same address")?;
        let sorted = self.mappings.windows(2).all(|pair| pair[0].start < pair[1].start);
        ensure(sorted, || "mappings".to_owned(), "not in ascending order")?;
        for kernel in &self.kernel_mappings {
            let what = || format!("mapping {}", kernel.name);
            check_range(kernel.start, kernel.end, what)?;
            ensure(all.insert(kernel.start, kernel.end).is_none(), what, "it covers another")?;
        }
        let mut before = 0;
        for (start, end) in all {
            ensure(before <= start, || format!("mapping {start:#x}"), "it overlaps another")?;
            before = end;
        }
        Ok(())
    }

    fn check_process(&self) -> Result<(), Invalid> {
        let process = &self.process;
        check_path(&process.cwd)?;
        let what = || "process".to_owned();
        ensure((process.executable as usize) < self.files.len(), what, "its executable is not listed")?;
        ensure(process.umask <= 0o777, what, "unknown bits in its umask")?;
        ensure(
            process.auxiliary.len() <= 64 && process.auxiliary.len().is_multiple_of(2),
            what,
            "its auxiliary vector",
        )?;
        let mut signals = BTreeSet::new();
        for action in &process.signals {
            let what = || format!("signal {}", action.signal);
            ensure((1..=SIGNALS).contains(&action.signal), what, "there is none")?;
            ensure(signals.insert(action.signal), what, "it has two actions")?;
        }
        Ok(())
    }

    fn check_threads(&self) -> Result<(), Invalid> {
        let threads = || "threads".to_owned();
        ensure((1..=MOST_THREADS).contains(&self.threads.len()), threads, "none, or too many")?;
        ensure(self.threads[0].id == 1, threads, "the first is not number 1")?;
        ensure(
            self.threads.windows(2).all(|pair| pair[0].id < pair[1].id),
            threads,
            "not in ascending order",
        )?;
        for thread in &self.threads {
            let what = || format!("thread {}", thread.id);
            // pid_max can be at most 2^22.
            ensure(thread.id <= 1 << 22, what, "its number is too large")?;
            ensure(thread.registers.len() == REGISTERS, what, "it has not all registers")?;
            let bytes = thread.extended.len();
            ensure(EXTENDED.contains(&bytes) && bytes % 8 == 0, what, "its extended state")?;
            ensure(thread.name.len() <= 15 && !thread.name.contains('\0'), what, "its name")?;
            let rseq = thread.rseq.is_none_or(|(address, bytes, _)| address < TOP && bytes <= 4096);
            ensure(
                rseq && thread.clear_tid < TOP && thread.robust.0 < TOP,
                what,
                "addresses beyond the last",
            )?;
        }
        Ok(())
    }

    /// Whether a descriptor is the connection, or a duplicate of it.
    fn is_connection(&self, number: u32) -> bool {
        let object = |number: u32| {
            let at = self.descriptors.binary_search_by_key(&number, |d| d.number).ok()?;
            Some(&self.descriptors[at].object)
        };
        match object(number) {
            Some(Object::Duplicate { of }) => matches!(object(*of), Some(Object::Connection { .. })),
            found => matches!(found, Some(Object::Connection { .. })),
        }
    }

    fn check_descriptors(&self) -> Result<(), Invalid> {
        let all = || "descriptors".to_owned();
        ensure(
            self.descriptors.windows(2).all(|p| p[0].number < p[1].number),
            all,
            "not in ascending order",
        )?;
        let known = |number: u32, below: u32| {
            number < below && self.descriptors.binary_search_by_key(&number, |d| d.number).is_ok()
        };
        let mut pairs: BTreeMap<(u32, bool), usize> = BTreeMap::new();
        let mut connections = 0;
        for descriptor in &self.descriptors {
            let what = || format!("descriptor {}", descriptor.number);
            ensure(descriptor.number < abi::TARGET_FDS.cast_unsigned(), what, "its number is too large")?;
            match &descriptor.object {
                Object::Inherited | Object::EventFd { .. } => {}
                Object::Duplicate { of } => {
                    ensure(known(*of, descriptor.number), what, "of one that is not there")?;
                }
                Object::File { path, position, flags } => {
                    check_path(path)?;
                    ensure(may_be_opened(path), what, "a file that an instance must not open for itself")?;
                    ensure(flags & !REOPENED.cast_unsigned() == 0, what, "unknown flags")?;
                    ensure(*position <= i64::MAX as u64, what, "its position")?;
                }
                Object::Pipe { pipe, contents, .. } => {
                    ensure(contents.len() <= MOST_CONTENTS, what, "too much in the pipe")?;
                    *pairs.entry((*pipe, true)).or_default() += 1;
                }
                Object::SocketPair { pair, .. } => *pairs.entry((*pair, false)).or_default() += 1,
                Object::Epoll { entries } => {
                    ensure(entries.len() <= MOST_EPOLL, what, "too much is registered")?;
                    let there = entries.iter().all(|(number, ..)| known(*number, u32::MAX));
                    ensure(there, what, "a registered descriptor is not there")?;
                    let watched = entries.iter().any(|(number, ..)| self.is_connection(*number));
                    ensure(!watched, what, "a connection is registered")?;
                }
                Object::Listener { backlog, .. } => ensure(*backlog <= 1 << 20, what, "its backlog")?,
                Object::Connection { local, peer, flags, options } => {
                    connections += 1;
                    ensure(connections == 1, what, "a second connection")?;
                    // Nothing else can be reached in an instance before its own code runs, and nothing else may.
                    let own = |address: &SocketAddrV4| address.ip().is_loopback() && address.port() != 0;
                    ensure(own(local) && own(peer), what, "not a connection within the instance")?;
                    ensure(flags & !libc::O_NONBLOCK.cast_unsigned() == 0, what, "unknown flags")?;
                    ensure(are_options(options), what, "its options")?;
                }
            }
        }
        ensure(pairs.values().all(|count| *count == 2), all, "a pipe or pair without its other end")?;
        let ends = |number: u32| {
            let end = |d: &&Descriptor| matches!(d.object, Object::Pipe { pipe, flags, .. } if pipe == number && flags & 3 == 1);
            self.descriptors.iter().filter(end).count()
        };
        let pipes = pairs.keys().filter(|(_, pipe)| *pipe);
        ensure(pipes.into_iter().all(|(number, _)| ends(*number) == 1), all, "a pipe with two equal ends")
    }
}

fn are_options(options: &ConnectionOptions) -> bool {
    let ConnectionOptions { keep_idle, keep_interval, keep_count, user_timeout, .. } = options;
    KEEP_SECONDS.contains(keep_idle)
        && KEEP_SECONDS.contains(keep_interval)
        && KEEP_COUNT.contains(keep_count)
        && i32::try_from(*user_timeout).is_ok()
}

fn check_range(start: u64, end: u64, what: impl Fn() -> String) -> Result<(), Invalid> {
    ensure(start.is_multiple_of(PAGE) && end.is_multiple_of(PAGE), &what, "it does not consist of pages")?;
    // The kernel maps nothing below this address for anybody (vm.mmap_min_addr).
    ensure(start < end && end <= TOP && start >= PAGE, &what, "it is not in a program's addresses")?;
    ensure(end <= abi::BASE || start >= abi::END, what, "it lies where the restorer is")
}

fn check_path(path: &str) -> Result<(), Invalid> {
    let plain = path.starts_with('/') && path.len() <= MOST_PATH && !path.contains('\0');
    let mut parts = path.split('/').skip(1);
    let plain = plain && (path == "/" || parts.all(|part| !matches!(part, "" | "." | "..")));
    ensure(plain, || format!("path {path:?}"), "not an absolute path")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::{KernelMapping, Layout, Process, SignalAction, Thread, Traits};
    use super::*;
    use crate::machine::Machine;

    pub(crate) fn example() -> Checkpoint {
        let mapping = |start, pages: u64, protection, file, runs: &[(u32, u32)]| Mapping {
            start,
            end: start + pages * PAGE,
            protection,
            file,
            traits: Traits::default(),
            pages: runs.to_vec(),
        };
        let descriptor = |number, object| Descriptor { number, close_on_exec: true, object };
        let thread = |id| Thread {
            id,
            name: "node".to_owned(),
            registers: vec![0; REGISTERS],
            extended: vec![0; 576],
            mask: 0,
            clear_tid: 0x1000_0010,
            robust: (0x1000_0020, 24),
            rseq: Some((0x1000_0040, 32, 0x5305_3053)),
            signal_stack: (0, 2, 0),
        };
        Checkpoint {
            subject: "hello@1".to_owned(),
            machine: Machine { kernel: "6.12 #1".to_owned(), processor: "x".to_owned() },
            monotonic_ns: 1_000,
            process: Process {
                umask: 0o22,
                cwd: "/var/task".to_owned(),
                executable: 0,
                auxiliary: vec![6, 4096, 0, 0],
                layout: Layout {
                    start_code: 0x40_0000,
                    end_code: 0x40_1000,
                    start_data: 0x40_2000,
                    end_data: 0x40_3000,
                    start_brk: 0x1000_0000,
                    brk: 0x1000_4000,
                    start_stack: 0x7ffd_0000_1000,
                    arg_start: 0x7ffd_0000_1100,
                    arg_end: 0x7ffd_0000_1200,
                    env_start: 0x7ffd_0000_1200,
                    env_end: 0x7ffd_0000_1300,
                },
                signals: vec![SignalAction {
                    signal: 13,
                    handler: 1,
                    flags: 0x0400_0000,
                    restorer: 0x40_0500,
                    mask: 0,
                }],
            },
            threads: vec![thread(1), thread(2)],
            files: vec!["/usr/bin/node".to_owned()],
            mappings: vec![
                mapping(0x40_0000, 1, 5, Some((0, 0)), &[]),
                mapping(0x40_2000, 1, 3, Some((0, 0x1000)), &[(0, 1)]),
                mapping(0x1000_0000, 4, 3, None, &[(0, 1), (2, 2)]),
                mapping(0x7ffd_0000_0000, 2, 3, None, &[(1, 1)]),
            ],
            kernel_mappings: vec![KernelMapping {
                name: "[vdso]".to_owned(),
                start: 0x7ffd_1000_0000,
                end: 0x7ffd_1000_2000,
            }],
            descriptors: vec![
                descriptor(0, Object::Inherited),
                descriptor(3, Object::Inherited),
                descriptor(5, Object::Epoll { entries: vec![(6, 1, 6)] }),
                descriptor(6, Object::Pipe { pipe: 0, flags: 0o4000, contents: vec![1] }),
                descriptor(7, Object::Pipe { pipe: 0, flags: 0o4001, contents: vec![] }),
                descriptor(8, Object::Duplicate { of: 6 }),
                descriptor(9, Object::File { path: "/dev/null".to_owned(), flags: 2, position: 0 }),
                descriptor(10, connection()),
            ],
            reseed: Some(0x40_0100),
            random: vec![(0x40_2100, 288), (0x1000_0ff0, 32)],
        }
    }

    fn connection() -> Object {
        Object::Connection {
            local: "127.0.0.1:40000".parse().unwrap(),
            peer: "127.0.0.1:9001".parse().unwrap(),
            flags: 0o4000,
            options: ConnectionOptions {
                no_delay: true,
                keep_alive: false,
                keep_idle: 7200,
                keep_interval: 75,
                keep_count: 9,
                user_timeout: 0,
            },
        }
    }

    /// Changes the connection of the example.
    fn change_connection(
        checkpoint: &mut Checkpoint,
        change: impl FnOnce(&mut SocketAddrV4, &mut u32, &mut ConnectionOptions),
    ) {
        if let Object::Connection { peer, flags, options, .. } = &mut checkpoint.descriptors[7].object {
            change(peer, flags, options);
        }
    }

    #[test]
    fn an_example_is_sound() {
        example().check(5 * PAGE).unwrap();
    }

    /// Else its mutations would be refused for what they have in common.
    #[test]
    fn what_the_fuzzer_begins_with_is_sound() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/checkpoint/small");
        let checkpoint = Checkpoint::parse(&std::fs::read(corpus).unwrap()).unwrap();
        checkpoint.check(checkpoint.page_count() * PAGE).unwrap();
    }

    #[test]
    fn what_does_not_hold_is_named() {
        type Change = fn(&mut Checkpoint);
        let cases: &[(Change, &str)] = &[
            (|c| c.mappings[1].start = 0x40_2001, "mapping 0x402001: it does not consist of pages"),
            (|c| c.mappings[1].end = 0x40_2000, "mapping 0x402000: it is not in a program's addresses"),
            (|c| c.mappings[1].end = 0x1000_1000, "mapping 0x10000000: it overlaps another"),
            (|c| c.mappings.swap(0, 1), "mappings: not in ascending order"),
            (|c| c.mappings[3].end = !4095, "mapping 0x7ffd00000000: it is not in a program's addresses"),
            (|c| c.mappings[2].pages[0] = (0, 3), "mapping 0x10000000: its pages are not in order"),
            (|c| c.mappings[2].pages[1] = (3, 2), "mapping 0x10000000: it has pages beyond its end"),
            (
                |c| c.mappings[2].traits.droppable = true,
                "mapping 0x10000000: it has pages that a clone does not get",
            ),
            (|c| c.mappings[0].file = Some((1, 0)), "mapping 0x400000: of a file that is not listed"),
            (|c| c.mappings[2].pages.truncate(1), "pages: not as many as the mappings have"),
            (
                |c| (c.kernel_mappings[0].start, c.kernel_mappings[0].end) = (0x40_0000, 0x40_1000),
                "mapping [vdso]: it covers another",
            ),
            (|c| c.files[0] = "/usr/../etc".to_owned(), "path \"/usr/../etc\": not an absolute path"),
            (|c| c.files[0] = "//proc".to_owned(), "path \"//proc\": not an absolute path"),
            (|c| c.files[0] = "/./proc".to_owned(), "path \"/./proc\": not an absolute path"),
            (|c| c.process.cwd = "tmp".to_owned(), "path \"tmp\": not an absolute path"),
            (|c| c.process.signals[0].signal = 65, "signal 65: there is none"),
            (|c| c.threads.clear(), "threads: none, or too many"),
            (|c| c.threads[1].id = 1, "threads: not in ascending order"),
            (|c| c.threads[1].registers.truncate(5), "thread 2: it has not all registers"),
            (|c| c.threads[1].extended.truncate(100), "thread 2: its extended state"),
            (
                |c| {
                    c.descriptors[6].object =
                        Object::File { path: "/proc/self/pagemap".to_owned(), flags: 0, position: 0 };
                },
                "descriptor 9: a file that an instance must not open for itself",
            ),
            (
                |c| {
                    c.descriptors[6].object =
                        Object::File { path: "/dev/null".to_owned(), flags: 0o100, position: 0 };
                },
                "descriptor 9: unknown flags",
            ),
            (|c| c.descriptors[7].number = 512, "descriptor 512: its number is too large"),
            (|c| c.descriptors[6].number = 0, "descriptors: not in ascending order"),
            (
                |c| c.descriptors[5].object = Object::Duplicate { of: 8 },
                "descriptor 8: of one that is not there",
            ),
            (
                |c| c.descriptors[2].object = Object::Epoll { entries: vec![(4, 1, 0)] },
                "descriptor 5: a registered descriptor is not there",
            ),
            (
                |c| c.descriptors[4].object = Object::Inherited,
                "descriptors: a pipe or pair without its other end",
            ),
            (
                |c| c.descriptors[4].object = Object::Pipe { pipe: 0, flags: 0, contents: vec![] },
                "descriptors: a pipe with two equal ends",
            ),
            (
                |c| change_connection(c, |peer, _, _| peer.set_ip([10, 0, 0, 1].into())),
                "descriptor 10: not a connection within the instance",
            ),
            (
                |c| change_connection(c, |peer, _, _| peer.set_port(0)),
                "descriptor 10: not a connection within the instance",
            ),
            (|c| change_connection(c, |_, flags, _| *flags = 0o2000), "descriptor 10: unknown flags"),
            (|c| change_connection(c, |_, _, options| options.keep_count = 0), "descriptor 10: its options"),
            (
                |c| change_connection(c, |_, _, options| options.user_timeout = u32::MAX),
                "descriptor 10: its options",
            ),
            (|c| c.descriptors[6].object = connection(), "descriptor 10: a second connection"),
            (
                |c| c.descriptors[2].object = Object::Epoll { entries: vec![(10, 1, 0)] },
                "descriptor 5: a connection is registered",
            ),
            (
                |c| {
                    let object = Object::Duplicate { of: 10 };
                    c.descriptors.push(Descriptor { number: 11, close_on_exec: false, object });
                    c.descriptors[2].object = Object::Epoll { entries: vec![(11, 1, 0)] };
                },
                "descriptor 5: a connection is registered",
            ),
            (|c| c.reseed = Some(0x40_2000), "reseed: not in code"),
            (|c| c.random[0].0 = 0x40_0100, "random 0x400100: not in memory that is written to"),
            (|c| c.random[0].0 = 0x40_2fff, "random 0x402fff: not in memory that is written to"),
            (|c| c.random[0].0 = u64::MAX, "random 0xffffffffffffffff: not in memory that is written to"),
            (|c| c.random[0].1 = 0, "random 0x402100: its length"),
            (|c| c.random[0].1 = 4097, "random 0x402100: its length"),
            (
                |c| {
                    c.mappings[3].start = abi::BASE;
                    c.mappings[3].end = abi::BASE + 2 * PAGE;
                },
                "mapping 0x625000000000: it lies where the restorer is",
            ),
        ];
        for (change, message) in cases {
            let mut checkpoint = example();
            change(&mut checkpoint);
            let error = checkpoint.check(5 * PAGE).expect_err(message);
            assert_eq!(error.to_string(), *message);
        }
    }
}
