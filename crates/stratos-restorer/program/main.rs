//! The freestanding program. See the crate's library for what it is and what it must never do.
#![no_std]
#![no_main]

#[path = "../src/abi.rs"]
#[allow(dead_code, reason = "the planner uses the rest")]
mod abi;
mod arch;
mod interpreter;
mod memory;

use core::mem::size_of;

use abi::{
    CLONE, CONTROL_FD, FAILED, FIRST_FD, Finish, REQUEST, REQUEST_BYTES, RUN, Reply, Request, STACK_BYTES,
    STACK_TOP,
};
use arch::{nr, syscall};

const PROT_READ: usize = 1;
const PROT_WRITE: usize = 2;
const PROT_EXEC: usize = 4;
/// `MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE`.
const NEW_AT: usize = 0x2 | 0x20 | 0x10_0000;
/// `MAP_PRIVATE | MAP_ANONYMOUS`.
const NEW: usize = 0x2 | 0x20;
/// `MREMAP_MAYMOVE | MREMAP_FIXED`.
const MOVE_TO: usize = 1 | 2;
/// First number that no descriptor of a message gets: they take the lowest free ones.
const ABOVE_RECEIVED: usize = 511;

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(FAILED)
}

/// Ends this process with all its threads.
fn exit(code: i32) -> ! {
    loop {
        // SAFETY: takes no pointers and does not return.
        unsafe { syscall(nr::EXIT_GROUP, [code as usize, 0, 0, 0, 0, 0]) };
    }
}

/// Ends the process when a call of the start failed: the parent sees the socket's end.
fn must(result: isize) -> usize {
    if (-4095..0).contains(&result) { exit(FAILED) }
    result as usize
}

/// Entered on the kernel's stack.
#[unsafe(no_mangle)]
extern "C" fn begin() -> ! {
    // SAFETY: new mappings at addresses that are this program's alone; nothing there is replaced.
    unsafe {
        let protection = PROT_READ | PROT_WRITE;
        let none = usize::MAX;
        let stack = (STACK_TOP - STACK_BYTES) as usize;
        must(syscall(nr::MMAP, [stack, STACK_BYTES as usize, protection, NEW_AT, none, 0]));
        must(syscall(nr::MMAP, [REQUEST as usize, REQUEST_BYTES as usize, protection, NEW_AT, none, 0]));
    }
    let control = CONTROL_FD as usize;
    // SAFETY: takes no pointers. Only the socket is used here; what the parent has open is none of this program's.
    unsafe {
        must(syscall(nr::CLOSE_RANGE, [0, control - 1, 0, 0, 0, 0]));
        must(syscall(nr::CLOSE_RANGE, [control + 1, u32::MAX as usize, 0, 0, 0, 0]));
    }
    leave_the_file();
    // SAFETY: the stack was mapped above, nothing is on it, and `serve` never returns.
    unsafe { arch::switch_stack(STACK_TOP as usize, serve) }
}

/// Puts a copy of the code in the place of the code. The kernel lets a process take another executable's name only when
/// nothing of its own is mapped any more (prctl(2), PR_SET_MM_EXE_FILE).
fn leave_the_file() {
    let (start, end) = (&raw const __text_start as usize, &raw const __text_end as usize);
    let bytes = end - start;
    // SAFETY: the copy has the same bytes, so that the code goes on the same once it has been moved over itself; the
    // new mapping is nobody else's.
    unsafe {
        let copy = must(syscall(nr::MMAP, [0, bytes, PROT_READ | PROT_WRITE, NEW, usize::MAX, 0]));
        memory::copy(copy as *mut u8, start as *const u8, bytes);
        must(syscall(nr::MPROTECT, [copy, bytes, PROT_READ | PROT_EXEC, 0, 0, 0]));
        must(syscall(nr::MREMAP, [copy, bytes, bytes, MOVE_TO, start, 0]));
    }
}

/// The life of a template: one message after the other, until the parent is gone.
extern "C" fn serve() -> ! {
    // Tells the parent that the program is where it belongs.
    reply(Reply::default());
    loop {
        let (request, bytes) = receive();
        match request.kind {
            RUN => {
                // SAFETY: the parent gave this process over to its lists.
                let result = unsafe { interpreter::run(request.calls, request.count) };
                close_received();
                reply(result.err().unwrap_or_default());
            }
            CLONE => {
                // SAFETY: the clone gets a copy of this memory, this stack included, and goes on here.
                let pid = unsafe {
                    syscall(
                        nr::CLONE3,
                        [request.clone_args as usize, request.clone_args_bytes as usize, 0, 0, 0, 0],
                    )
                };
                if pid == 0 {
                    become_instance(&request, bytes);
                }
                close_received();
                let errno = if pid < 0 { -pid as i32 } else { 0 };
                reply(Reply { errno, index: 0, pid: pid as i64 });
            }
            _ => exit(FAILED),
        }
    }
}

/// In the clone: makes the calls, then goes on as the process that was checkpointed.
fn become_instance(request: &Request, bytes: usize) -> ! {
    // The clone must not listen to what is meant for the template, nor keep its socket open.
    for index in 0..request.fds as usize {
        // SAFETY: takes no pointers; moves a descriptor that came with the message.
        let moved = unsafe { syscall(nr::DUP3, [index, FIRST_FD as usize + index, 0, 0, 0, 0]) };
        if moved < 0 {
            exit(FAILED);
        }
    }
    close_received();
    // SAFETY: takes no pointers.
    unsafe { syscall(nr::CLOSE, [CONTROL_FD as usize, 0, 0, 0, 0, 0]) };
    // SAFETY: this process was made for this list, which the parent planned for it.
    if let Err(failure) = unsafe { interpreter::run(request.calls, request.count) } {
        interpreter::report_failure(failure);
    }
    // SAFETY: the parent wrote a `Finish` into the message, at the address it names.
    let finish = unsafe { (request.finish as *const Finish).read() };
    // The node's own paths are in the message, and the program that goes on is a stranger's.
    // SAFETY: nothing in the message is used any more; the range is this program's own.
    unsafe { memory::clear(REQUEST as *mut u8, bytes) };
    interpreter::release_threads();
    if finish.before != 0 {
        // SAFETY: the address of a function without arguments in the restored program, whose threads, descriptors and
        // thread-local storage are all there by now.
        unsafe { core::mem::transmute::<usize, extern "C" fn() -> i32>(finish.before as usize)() };
    }
    // SAFETY: the planner wrote a whole signal frame there.
    unsafe { arch::return_from_signal(finish.frame as usize) }
}

/// Descriptors that came with a message have the lowest numbers, since nothing else is open there.
fn close_received() {
    // SAFETY: takes no pointers.
    unsafe { syscall(nr::CLOSE_RANGE, [0, ABOVE_RECEIVED, 0, 0, 0, 0]) };
}

fn reply(reply: Reply) {
    let address = &raw const reply as usize;
    // SAFETY: the reply lives over the call, which reads that many bytes of it.
    let sent = unsafe { syscall(nr::WRITE, [CONTROL_FD as usize, address, size_of::<Reply>(), 0, 0, 0]) };
    if sent != size_of::<Reply>() as isize {
        exit(0);
    }
}

#[repr(C)]
struct IoVec {
    base: usize,
    bytes: usize,
}

#[repr(C)]
struct MsgHdr {
    name: usize,
    name_bytes: u32,
    iov: usize,
    iov_count: usize,
    control: usize,
    control_bytes: usize,
    flags: i32,
}

const EINTR: isize = -4;
/// `MSG_TRUNC | MSG_CTRUNC`: more came than there is room for.
const TRUNCATED: i32 = 0x20 | 0x8;

/// Waits for a message; gives its head, and its length in bytes. Ends the process when the parent is gone.
fn receive() -> (Request, usize) {
    // Room for the most descriptors there can be, and the header before them.
    let mut control = [0_u64; 130];
    let mut iov = IoVec { base: REQUEST as usize, bytes: REQUEST_BYTES as usize };
    let mut header = MsgHdr {
        name: 0,
        name_bytes: 0,
        iov: &raw mut iov as usize,
        iov_count: 1,
        control: control.as_mut_ptr() as usize,
        control_bytes: size_of_val(&control),
        flags: 0,
    };
    let address = &raw mut header as usize;
    let received = loop {
        // SAFETY: all that the header points to lives over the call and is as large as it says.
        match unsafe { syscall(nr::RECVMSG, [CONTROL_FD as usize, address, 0, 0, 0, 0]) } {
            EINTR => {}
            result => break result,
        }
    };
    if received == 0 {
        exit(0);
    }
    if received < size_of::<Request>() as isize || header.flags & TRUNCATED != 0 {
        exit(FAILED);
    }
    // SAFETY: that many bytes were just received there, and the address is aligned.
    let request = unsafe { (REQUEST as *const Request).read() };
    (request, received as usize)
}
