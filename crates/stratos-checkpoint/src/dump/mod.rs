//! Dumping a process that waits to be released.
//!
//! All its threads are stopped, its state is read from /proc and by system calls made in its place, and it goes on as if
//! nothing had happened. Nothing is guessed: what the format has no words for is refused by name.

mod connection;
mod descriptors;
pub mod go;
mod mappings;
mod remote;
mod threads;
mod together;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use object::read::elf::{ElfFile64, FileHeader as _};
use object::{Endianness, Object as _, ObjectSymbol as _};
use stratos_sys::pagemap::Pagemap;
use stratos_sys::ptrace::Tracee;

pub use self::connection::Connection;
use self::mappings::Maps;
use self::remote::Remote;
pub use self::together::keep_together;
use crate::image::{self, Checkpoint, FormatError, Layout, Mapping, Process, SignalAction};
use crate::machine::{Machine, monotonic_ns};

/// Most bytes of an executable that is read.
const MOST_EXECUTABLE: u64 = 512 << 20;

/// Why no image was made.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// It is in a state that an image cannot hold.
    #[error("{0}")]
    Refused(String),
    /// It does not wait to be released (yet).
    #[error("it does not wait {park}")]
    NotParked {
        /// Where it should wait.
        park: Park,
    },
    /// Looking at it failed.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// The image cannot be written.
    #[error(transparent)]
    Image(#[from] FormatError),
}

impl DumpError {
    fn refused(reason: impl Into<String>) -> Self {
        Self::Refused(reason.into())
    }
}

/// Adds what was tried to an error.
trait While<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, DumpError>;
}

impl<T> While<T> for io::Result<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, DumpError> {
        self.map_err(|source| DumpError::System { what: what(), source })
    }
}

/// What a process waits for when it is dumped, and when it goes on from the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Park {
    /// Its first thread reads its release from this descriptor, one of those that it was given.
    Release(u32),
    /// A thread waits for the answer to a request, on the only connection that it has.
    Answer(Connection),
    /// All its threads wait, for whatever it is. Only for programs of which it is known how to make their random numbers
    /// different in each instance: nothing tells them that they go on.
    Idle,
}

impl std::fmt::Display for Park {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Release(descriptor) => write!(f, "on descriptor {descriptor} to be released"),
            Self::Answer(Connection { peer, .. }) => write!(f, "for an answer from {peer}"),
            Self::Idle => f.write_str("with all its threads"),
        }
    }
}

/// What to dump.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The process as the caller numbers it; the first one of its own PID namespace.
    pub pid: i32,
    /// The descriptors `0..inherited` are those that it was given: the null device, then pipes.
    pub inherited: u32,
    /// What it waits for.
    pub park: Park,
    /// What to write down that it is.
    pub subject: &'a str,
    /// Where it sees a folder that the image cannot hold and that must be empty.
    pub scratch: &'a str,
    /// Where the caller sees the files that it sees.
    pub root: &'a Path,
}

/// What was dumped.
#[derive(Debug, Clone, Copy)]
pub struct Dumped {
    /// How long the process stood still.
    pub frozen: Duration,
    /// Bytes of its pages in the image.
    pub pages_bytes: u64,
}

/// Dumps a process into a new file. It goes on afterwards. Must not be called on a thread that others wait for: it blocks
/// for some tens of milliseconds.
///
/// # Errors
/// See [`DumpError`]; no file is left then.
pub fn dump(target: &Target<'_>, path: &Path) -> Result<Dumped, DumpError> {
    let began = Instant::now();
    let mut stopped = threads::stop_all(target.pid, target.park)?;
    let memory = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{}/mem", target.pid))
        .during(|| "open the process's memory".to_owned())?;
    let checkpoint = look(target, &mut stopped, &memory)?;
    let pages_bytes = checkpoint.page_count() * image::PAGE;
    checkpoint
        .check(pages_bytes)
        .map_err(|invalid| DumpError::refused(format!("what it looks like makes no sense: {invalid}")))?;
    image::write(path, &checkpoint, |to| copy_pages(&checkpoint, &memory, to))?;
    drop(stopped);
    Ok(Dumped { frozen: began.elapsed(), pages_bytes })
}

fn look(target: &Target<'_>, stopped: &mut [Tracee], memory: &File) -> Result<Checkpoint, DumpError> {
    let pid = target.pid;
    threads::check_restored(stopped, target.park)?;
    let connection = match target.park {
        Park::Release(descriptor) => threads::check_parked(&stopped[0], descriptor).map(|()| None)?,
        Park::Answer(connection) => {
            // It may be another one's connection.
            refuse_company(target)?;
            descriptors::check_awaited(pid, &connection, stopped, memory)?;
            Some(connection)
        }
        Park::Idle => threads::check_idle(stopped).map(|()| None)?,
    };
    refuse_company(target)?;
    let maps = Maps::read(pid)?;
    let instruction = remote::find_instruction(&maps, memory)?;
    let threads = threads::describe(pid, stopped, memory, instruction)?;
    let mut remote = Remote::new(&mut stopped[0], memory, instruction);
    refuse_timers(pid, &mut remote)?;
    let signals = signal_actions(&mut remote)?;
    let layout = layout(pid, &mut remote)?;
    let pagemap = Pagemap::open(pid).during(|| "open the process's page map".to_owned())?;
    let mut files = Vec::new();
    let mappings = maps.own(&pagemap, &mut files)?;
    let executable = executable(pid, &mut files)?;
    let program = read_executable(target.root, &files[executable as usize])?;
    let random = random_state(target.park, &program, executable, &mappings, memory)?;
    let process = Process {
        umask: threads::umask(pid)?,
        cwd: link(pid, "cwd")?,
        executable,
        auxiliary: auxiliary(pid)?,
        layout,
        signals,
    };
    Ok(Checkpoint {
        subject: target.subject.to_owned(),
        machine: Machine::current().during(|| "learn what machine this is".to_owned())?,
        monotonic_ns: monotonic_ns(),
        process,
        threads,
        reseed: reseed_function(target.root, executable, &program, &files, &mappings),
        random,
        files,
        mappings,
        kernel_mappings: maps.of_kernel(),
        descriptors: descriptors::describe(pid, target.inherited, connection)?,
    })
}

fn read(path: impl AsRef<Path>) -> Result<String, DumpError> {
    let path = path.as_ref();
    fs::read_to_string(path).during(|| format!("read {}", path.display()))
}

/// Where a link of /proc/PID leads, as the process sees it.
fn link(pid: i32, name: &str) -> Result<String, DumpError> {
    let path = PathBuf::from(format!("/proc/{pid}/{name}"));
    let target = fs::read_link(&path).during(|| format!("read {}", path.display()))?;
    let target = target.into_os_string().into_string();
    target
        .map_err(|path| DumpError::refused(format!("a path of it is not UTF-8: {}", path.to_string_lossy())))
}

/// It must be alone, and have kept nothing where only it can see it.
fn refuse_company(target: &Target<'_>) -> Result<(), DumpError> {
    let pid = target.pid;
    for task in threads::tasks(pid)? {
        let children = read(format!("/proc/{pid}/task/{task}/children"))?;
        if !children.trim().is_empty() {
            return Err(DumpError::refused(
                "it has started other processes, which would have to be restored with it",
            ));
        }
    }
    let scratch = format!("/proc/{pid}/root{}", target.scratch);
    let mut entries = fs::read_dir(&scratch).during(|| format!("list {scratch}"))?;
    match entries.next() {
        None => Ok(()),
        Some(entry) => {
            let name = entry.map(|entry| entry.file_name().to_string_lossy().into_owned());
            let name = name.unwrap_or_else(|_| "a file".to_owned());
            Err(DumpError::refused(format!(
                "its initialisation has left {}/{name}, and an instance begins with an empty {}",
                target.scratch, target.scratch
            )))
        }
    }
}

fn refuse_timers(pid: i32, remote: &mut Remote<'_>) -> Result<(), DumpError> {
    // CONFIG_CHECKPOINT_RESTORE shows them; without it there is no such file and no way to know.
    let timers = read(format!("/proc/{pid}/timers")).unwrap_or_default();
    if !timers.trim().is_empty() {
        return Err(DumpError::refused("it has timers of timer_create(2)"));
    }
    for which in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
        let scratch = remote.scratch();
        let [_, _, seconds, microseconds] =
            remote.words(libc::SYS_getitimer, [which as u64, scratch, 0, 0, 0, 0], scratch)?;
        if (seconds, microseconds) != (0, 0) {
            return Err(DumpError::refused("it has a timer of setitimer(2)"));
        }
    }
    Ok(())
}

fn signal_actions(remote: &mut Remote<'_>) -> Result<Vec<SignalAction>, DumpError> {
    let mut actions = Vec::new();
    for signal in 1..=64_u32 {
        let scratch = remote.scratch();
        let args = [u64::from(signal), 0, scratch, 8, 0, 0];
        let [handler, flags, restorer, mask] = remote.words(libc::SYS_rt_sigaction, args, scratch)?;
        if handler != 0 {
            actions.push(SignalAction { signal, handler, flags, restorer, mask });
        }
    }
    Ok(actions)
}

fn layout(pid: i32, remote: &mut Remote<'_>) -> Result<Layout, DumpError> {
    let stat = read(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything; what follows are numbers (proc_pid_stat(5)), from the third field on.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(Layout {
        start_code: field(26),
        end_code: field(27),
        start_stack: field(28),
        start_data: field(45),
        end_data: field(46),
        start_brk: field(47),
        brk: remote.call(libc::SYS_brk, [0; 6])?,
        arg_start: field(48),
        arg_end: field(49),
        env_start: field(50),
        env_end: field(51),
    })
}

fn auxiliary(pid: i32) -> Result<Vec<u64>, DumpError> {
    let path = format!("/proc/{pid}/auxv");
    let bytes = fs::read(&path).during(|| format!("read {path}"))?;
    Ok(bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect())
}

fn executable(pid: i32, files: &mut Vec<String>) -> Result<u32, DumpError> {
    let path = link(pid, "exe")?;
    Ok(mappings::file_index(&path, files))
}

fn copy_pages(checkpoint: &Checkpoint, memory: &File, to: &mut dyn io::Write) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    for mapping in &checkpoint.mappings {
        for (first, count) in &mapping.pages {
            let mut at = mapping.start + u64::from(*first) * image::PAGE;
            let mut left = u64::from(*count) * image::PAGE;
            while left > 0 {
                let part = left.min(buffer.len() as u64) as usize;
                memory.read_exact_at(&mut buffer[..part], at)?;
                to.write_all(&buffer[..part])?;
                at += part as u64;
                left -= part as u64;
            }
        }
    }
    Ok(())
}

fn read_executable(root: &Path, path: &str) -> Result<Vec<u8>, DumpError> {
    let path = root.join(path.trim_start_matches('/'));
    let file = File::open(&path).during(|| format!("open {}", path.display()))?;
    if file.metadata().during(|| format!("look at {}", path.display()))?.len() > MOST_EXECUTABLE {
        return Err(DumpError::refused("its executable is too large to be looked at"));
    }
    let mut bytes = Vec::new();
    (&file).read_to_end(&mut bytes).during(|| format!("read {}", path.display()))?;
    Ok(bytes)
}

/// Where the program keeps the state of random generators that neither it nor the kernel renews. Only Go's are known.
fn random_state(
    park: Park,
    program: &[u8],
    executable: u32,
    mappings: &[Mapping],
    memory: &File,
) -> Result<go::Ranges, DumpError> {
    match ElfFile64::<Endianness>::parse(program) {
        Ok(elf) if go::is_go(&elf) => {
            let moved = moved(&elf, program, executable, mappings);
            let moved =
                moved.ok_or_else(|| DumpError::refused("its executable is mapped in an unknown way"))?;
            let word = |address: u64| {
                let mut bytes = [0; 8];
                memory.read_exact_at(&mut bytes, address).map(|()| u64::from_le_bytes(bytes))
            };
            go::random_state(&elf, moved, word).map_err(|unknown| DumpError::refused(unknown.to_string()))
        }
        _ if park == Park::Idle => Err(DumpError::refused(
            "it does not wait to be released, and is no Go program: nobody could make its random numbers different in each \
             instance (docs/checkpoints.md tells how a program waits)",
        )),
        _ => Ok(Vec::new()),
    }
}

/// How far above the addresses in its file an executable is mapped.
fn moved(
    elf: &ElfFile64<'_, Endianness>,
    bytes: &[u8],
    executable: u32,
    mappings: &[Mapping],
) -> Option<u64> {
    use object::read::elf::ProgramHeader as _;
    let endian = elf.endian();
    let segments = elf.elf_header().program_headers(endian, bytes).ok()?;
    let loads = segments.iter().filter(|segment| segment.p_type(endian) == object::elf::PT_LOAD);
    let page = |address: u64| address / image::PAGE * image::PAGE;
    loads.into_iter().find_map(|segment| {
        let at = Some((executable, page(segment.p_offset(endian))));
        let mapping = mappings.iter().find(|mapping| mapping.file == at)?;
        Some(mapping.start.wrapping_sub(page(segment.p_vaddr(endian))))
    })
}

/// Where OpenSSL's `RAND_poll` is, if the executable or a library of that name exports it: its generators would otherwise
/// give every clone the same numbers. It needs no argument and takes its entropy from the kernel. Other files are not looked
/// at: they are a stranger's, and can be as many and as large as there is room for.
fn reseed_function(
    root: &Path,
    executable: u32,
    program: &[u8],
    files: &[String],
    mappings: &[Mapping],
) -> Option<u64> {
    const LIBRARY: &str = "libcrypto";
    let is_candidate = |index: u32, path: &str| {
        index == executable
            || Path::new(path).file_name().is_some_and(|name| name.to_string_lossy().starts_with(LIBRARY))
    };
    let candidates = (0..).zip(files).filter(|(index, path)| is_candidate(*index, path));
    candidates.into_iter().find_map(|(index, path)| {
        let exported = if index == executable {
            exported_function(program, b"RAND_poll")
        } else {
            exported_function(&fs::read(root.join(path.trim_start_matches('/'))).ok()?, b"RAND_poll")
        }?;
        // The address in the file belongs to the segment that this is a mapping of.
        mappings.iter().filter(|m| m.protection & libc::PROT_EXEC as u32 != 0).find_map(|mapping| {
            let (_, offset) = mapping.file.filter(|(file, _)| *file == index)?;
            let bytes = mapping.end - mapping.start;
            let within = exported.offset.checked_sub(offset).filter(|within| *within < bytes)?;
            Some(mapping.start + within)
        })
    })
}

/// A function that a file exports, by its offset in the file.
struct Exported {
    offset: u64,
}

fn exported_function(bytes: &[u8], name: &[u8]) -> Option<Exported> {
    let elf = ElfFile64::<Endianness>::parse(bytes).ok()?;
    let symbol = elf
        .dynamic_symbols()
        .find(|symbol| symbol.is_definition() && symbol.name_bytes().is_ok_and(|found| found == name))?;
    let address = symbol.address();
    let endian = elf.endian();
    let segments = elf.elf_header().program_headers(endian, bytes).ok()?;
    use object::read::elf::ProgramHeader as _;
    let of_it = segments.iter().find(|segment| {
        segment.p_type(endian) == object::elf::PT_LOAD
            && (segment.p_vaddr(endian)..segment.p_vaddr(endian) + segment.p_filesz(endian))
                .contains(&address)
    })?;
    Some(Exported { offset: address - of_it.p_vaddr(endian) + of_it.p_offset(endian) })
}
