//! What the planner and the program agree on: addresses, and the shape of messages. Plain numbers and `repr(C)` only.

/// First address of the program. No executable, heap, stack or mapping of Linux lies here by itself: programs are below
/// `0x5800_0000_0000`, what the kernel places is above `0x7000_0000_0000`, and the addresses that V8 and Go choose have
/// at most 46 bits.
pub const BASE: u64 = 0x6250_0000_0000;
/// First address after all that is the program's.
pub const END: u64 = BASE + 0x1000_0000;
/// Stack of the program, below this address.
pub const STACK_TOP: u64 = BASE + 0x110_0000;
/// Bytes of that stack.
pub const STACK_BYTES: u64 = 0x1_0000;
/// Where a message is received.
pub const REQUEST: u64 = BASE + 0x200_0000;
/// Most bytes of a message.
pub const REQUEST_BYTES: u64 = 0x4_0000;
/// Stacks of restored threads, until they go on on their own.
pub const THREAD_STACKS: u64 = BASE + 0x300_0000;
/// Bytes of each.
pub const THREAD_STACK_BYTES: u64 = 0x2000;
/// What stays the same for every clone of a template.
pub const PLAN: u64 = BASE + 0x400_0000;

/// The socket to the parent.
pub const CONTROL_FD: i32 = 600;
/// In a clone: where it reports a failure, or that it is complete.
pub const REPORT_FD: i32 = 640;
/// In a clone: the descriptors that came with the message, moved here in their order; the first is [`REPORT_FD`].
pub const FIRST_FD: i32 = 640;
/// Most descriptors that come with a message (the kernel's own limit, `SCM_MAX_FD`).
pub const MOST_FDS: usize = 253;
/// Descriptors of a checkpointed process must be below this number.
pub const TARGET_FDS: i32 = 512;

/// Numbers of calls from here on are not the kernel's.
pub const PSEUDO: u32 = 0x1000_0000;
/// The value of the 32-bit word at `args[0]`.
pub const LOAD: u32 = PSEUDO;
/// Starts a thread: `clone_args` at `args[0]` of `args[1]` bytes, which goes on with the [`Thread`] at `args[2]`.
pub const THREAD: u32 = PSEUDO + 1;
/// Waits until `args[0]` threads have made their calls.
pub const AWAIT_THREADS: u32 = PSEUDO + 2;
/// Makes the `args[1]` calls at `args[0]`, with slots of their own.
pub const LIST: u32 = PSEUDO + 3;
/// Writes to each page of `args[1]` ranges what is there already, so that the process has pages of its own: at `args[0]`,
/// first address and bytes of each. All of it must be writable memory.
pub const TOUCH: u32 = PSEUDO + 4;
/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// A result must equal [`Call::expect`]; otherwise it only must not be an error.
pub const EXACT: u32 = 1;
/// An error is no failure.
pub const MAY_FAIL: u32 = 2;
/// Slots that results can be kept in.
pub const SLOTS: usize = 4;

/// One system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Call {
    /// The call's number, or one of the pseudo calls above.
    pub number: u32,
    /// [`EXACT`], [`MAY_FAIL`].
    pub flags: u32,
    /// For each argument, 0 for the value in `args`, or one more than the slot whose value it is.
    pub from: [u8; 6],
    /// 0, or one more than the slot that keeps the result.
    pub keep: u8,
    /// Unused.
    pub padding: u8,
    /// The arguments.
    pub args: [u64; 6],
    /// The result, with [`EXACT`].
    pub expect: u64,
}

impl Call {
    /// A call whose result must be no error.
    pub const fn new(number: u32, args: [u64; 6]) -> Self {
        Self { number, flags: 0, from: [0; 6], keep: 0, padding: 0, args, expect: 0 }
    }

    /// The result must be this.
    pub const fn exact(mut self, expect: u64) -> Self {
        self.flags |= EXACT;
        self.expect = expect;
        self
    }

    /// An error is no failure.
    pub const fn may_fail(mut self) -> Self {
        self.flags |= MAY_FAIL;
        self
    }

    /// The result is kept in a slot.
    pub const fn keep(mut self, slot: usize) -> Self {
        self.keep = slot as u8 + 1;
        self
    }

    /// An argument is what a slot keeps.
    pub const fn with(mut self, argument: usize, slot: usize) -> Self {
        self.from[argument] = slot as u8 + 1;
        self
    }
}

/// Make the calls and answer with a [`Reply`].
pub const RUN: u32 = 1;
/// Clone, answer with a [`Reply`] that has the clone's pid; the clone makes the calls and goes on as [`Finish`] says.
pub const CLONE: u32 = 2;

/// The head of a message, at [`REQUEST`]. The rest of the message is what it points to.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Request {
    /// [`RUN`] or [`CLONE`].
    pub kind: u32,
    /// Descriptors that come with it.
    pub fds: u32,
    /// Address of the calls.
    pub calls: u64,
    /// Their number.
    pub count: u64,
    /// Address of the clone's `clone_args`.
    pub clone_args: u64,
    /// Their size.
    pub clone_args_bytes: u64,
    /// Address of the [`Finish`].
    pub finish: u64,
}

/// How a clone goes on after its calls.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Finish {
    /// Address of the signal frame (after its return address) that holds the registers of the first thread.
    pub frame: u64,
    /// Address of a function without arguments that is called before, or 0.
    pub before: u64,
}

/// A thread of a clone beside the first.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Thread {
    /// Address of the calls that it makes itself.
    pub calls: u64,
    /// Their number.
    pub count: u64,
    /// Address of its signal frame, as in [`Finish`].
    pub frame: u64,
}

/// The answer to a message, or what a clone reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Reply {
    /// 0, or the error number of what failed.
    pub errno: i32,
    /// Index of the call that failed; [`OF_THREAD`] is added to those of threads.
    pub index: u32,
    /// Pid of the clone.
    pub pid: i64,
}

/// Marks indices of a thread's calls.
pub const OF_THREAD: u32 = 0x8000_0000;
/// Marks indices of a list within a list: the outer index is in the bits from 16 on.
pub const OF_LIST: u32 = 0x4000_0000;
/// Code that a clone ends with when it cannot be completed.
pub const FAILED: i32 = 125;
