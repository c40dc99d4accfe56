//! An image: what a process consisted of when it was checkpointed.
//!
//! Addresses and sizes are bytes in the process's own address space; signals are numbered from 1, and bit n - 1 of a mask
//! stands for signal n.

mod check;
mod format;

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use self::check::Invalid;
pub use self::format::{FormatError, Image, MOST_METADATA, write};
use crate::machine::Machine;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// All but the contents of memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// What it is a checkpoint of, in the words of whoever made it.
    pub subject: String,
    /// Where it can be restored.
    pub machine: Machine,
    /// `CLOCK_MONOTONIC` when it was made, nanoseconds.
    pub monotonic_ns: u64,
    /// What the threads share.
    pub process: Process,
    /// The threads, the first one first.
    pub threads: Vec<Thread>,
    /// Files that are mapped, as the process sees their paths.
    pub files: Vec<String>,
    /// Memory, in ascending order.
    pub mappings: Vec<Mapping>,
    /// What the kernel maps into every process.
    pub kernel_mappings: Vec<KernelMapping>,
    /// Open descriptors, in ascending order.
    pub descriptors: Vec<Descriptor>,
    /// Address of a function that gives the program's random generator new entropy (OpenSSL's `RAND_poll`).
    pub reseed: Option<u64>,
    /// Memory that is different in each instance: address, and bytes that the kernel's generator fills. State of random
    /// generators.
    #[serde(default)]
    pub random: Vec<(u64, u32)>,
}

impl Checkpoint {
    /// Reads metadata. What they say is to be checked before it is believed: [`Checkpoint::check`].
    ///
    /// # Errors
    /// When they are no JSON of this form.
    pub fn parse(metadata: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(metadata)
    }
}

/// What the threads share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Mask of permission bits.
    pub umask: u32,
    /// The working directory.
    pub cwd: String,
    /// Its executable: index in [`Checkpoint::files`].
    pub executable: u32,
    /// The auxiliary vector, as pairs of words.
    pub auxiliary: Vec<u64>,
    /// Where the kernel thinks its parts are.
    pub layout: Layout,
    /// What is done on signals: those that differ from the default.
    pub signals: Vec<SignalAction>,
}

/// Where the kernel thinks a process's parts are (`struct prctl_mm_map`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the kernel's names, documented in prctl(2), PR_SET_MM")]
pub struct Layout {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
}

/// What is done on a signal (`struct sigaction` of the kernel).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalAction {
    /// Which signal.
    pub signal: u32,
    /// Address of the handler, or 1 to ignore it.
    pub handler: u64,
    /// `SA_*` bits.
    pub flags: u64,
    /// Where a handler returns to.
    pub restorer: u64,
    /// Signals blocked meanwhile.
    pub mask: u64,
}

/// A thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thread {
    /// Its number in its own PID namespace; the first one's is 1.
    pub id: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Registers, in the order of `struct user_regs_struct`.
    pub registers: Vec<u64>,
    /// Extended state in the layout of XSAVE.
    #[serde(with = "hex")]
    pub extended: Vec<u8>,
    /// Blocked signals.
    pub mask: u64,
    /// Address that is cleared when it ends.
    pub clear_tid: u64,
    /// Head of its list of robust futexes, and the size of that.
    pub robust: (u64, u64),
    /// Its restartable sequence area: address, size, signature.
    pub rseq: Option<(u64, u32, u32)>,
    /// Stack of signal handlers: address, `SS_*` flags, size.
    pub signal_stack: (u64, u32, u64),
}

/// A mapping that is the process's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// Its first address.
    pub start: u64,
    /// The address after its last.
    pub end: u64,
    /// `PROT_*` bits.
    pub protection: u32,
    /// The file behind it: index in [`Checkpoint::files`], and offset. Nothing for anonymous memory.
    pub file: Option<(u32, u64)>,
    /// What is particular about it.
    pub traits: Traits,
    /// Pages that lie in the image, as numbers of pages from the start, in ascending order.
    pub pages: Vec<(u32, u32)>,
}

impl Mapping {
    /// Its addresses.
    pub fn range(&self) -> Range<u64> {
        self.start..self.end
    }
}

/// What is particular about a mapping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Traits {
    /// It grows downwards: a stack.
    pub grows_down: bool,
    /// It counts towards no limit of committed memory.
    pub no_reserve: bool,
    /// A child gets zeros in its place (`MADV_WIPEONFORK`).
    pub wiped_on_fork: bool,
    /// A child does not get it at all (`MADV_DONTFORK`), as V8 has it for its code.
    pub not_inherited: bool,
    /// The kernel may drop its pages, and gives none to a child (`MAP_DROPPABLE`).
    pub droppable: bool,
    /// Huge pages are wanted (`MADV_HUGEPAGE`) or not (`MADV_NOHUGEPAGE`).
    pub huge_pages: Option<bool>,
}

/// A mapping of the kernel's, such as the vDSO.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelMapping {
    /// Its name in /proc/PID/maps.
    pub name: String,
    /// Its first address.
    pub start: u64,
    /// The address after its last.
    pub end: u64,
}

/// Flags that open(2) takes again; the others are of the moment of opening (`O_CREAT`), or set by the kernel.
pub(crate) const REOPENED: i32 = libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_DIRECTORY
    | libc::O_PATH
    | libc::O_NOFOLLOW
    | libc::O_SYNC
    | libc::O_DSYNC
    | libc::O_NOATIME;

/// Whether an instance may open a file before it has given up its privileges: what is in the layer and the function is the
/// same for everybody. What is in /tmp is its own, and what the kernel shows in /proc and /sys depends on who opens it.
pub(crate) fn may_be_opened(path: &str) -> bool {
    const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
    let below =
        |folder: &str| path == folder || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    DEVICES.contains(&path) || !["/dev", "/proc", "/sys", "/tmp"].into_iter().any(below)
}

/// An open descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Descriptor {
    /// Its number.
    pub number: u32,
    /// Whether it is closed on exec.
    pub close_on_exec: bool,
    /// What it refers to.
    pub object: Object,
}

/// What a descriptor refers to. Flags are `O_*` bits without those that only matter when it is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields have the names of the calls' arguments")]
pub enum Object {
    /// One that the new process is given: a descriptor of the same number.
    Inherited,
    /// The same open file as a lower descriptor.
    Duplicate { of: u32 },
    /// A file.
    File { path: String, flags: u32, position: u64 },
    /// eventfd(2).
    EventFd { count: u64, flags: u32 },
    /// An end of a pipe whose other end is in the same process.
    Pipe {
        pipe: u32,
        flags: u32,
        #[serde(with = "hex")]
        contents: Vec<u8>,
    },
    /// epoll(7), with what is registered: descriptor, events, data.
    Epoll { entries: Vec<(u32, u32, u64)> },
    /// A TCP socket that listens.
    Listener {
        address: std::net::SocketAddr,
        backlog: u32,
        flags: u32,
        only_v6: bool,
        reuse_address: bool,
        reuse_port: bool,
    },
    /// The TCP connection on which an answer is awaited: the request was sent, and nothing of the answer has come.
    Connection {
        local: std::net::SocketAddrV4,
        peer: std::net::SocketAddrV4,
        flags: u32,
        options: ConnectionOptions,
    },
    /// One of two connected Unix sockets of the same process, with nothing on its way.
    SocketPair { pair: u32, socket_type: u32, flags: u32 },
}

/// Options of a TCP connection (tcp(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionOptions {
    /// `TCP_NODELAY`.
    pub no_delay: bool,
    /// `SO_KEEPALIVE`.
    pub keep_alive: bool,
    /// `TCP_KEEPIDLE`, seconds.
    pub keep_idle: u32,
    /// `TCP_KEEPINTVL`, seconds.
    pub keep_interval: u32,
    /// `TCP_KEEPCNT`.
    pub keep_count: u32,
    /// `TCP_USER_TIMEOUT`, milliseconds.
    pub user_timeout: u32,
}

/// Bytes as text.
mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let text =
            bytes.iter().flat_map(|byte| [byte >> 4, byte & 15].map(|nibble| DIGITS[usize::from(nibble)]));
        let text = String::from_utf8(text.collect()).expect("digits are ASCII");
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let nibble = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let pairs = text.as_bytes().chunks(2);
        pairs
            .map(|pair| match *pair {
                [high, low] => Some(nibble(high)? << 4 | nibble(low)?),
                _ => None,
            })
            .collect::<Option<_>>()
            .ok_or_else(|| D::Error::custom("not hexadecimal"))
    }
}
