//! Makes the calls of a list.

use core::mem::size_of;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::abi::{
    AWAIT_THREADS, Call, EXACT, FAILED, LIST, LOAD, MAY_FAIL, OF_LIST, OF_THREAD, PAGE, REPORT_FD, Reply, SLOTS,
    THREAD, TOUCH, Thread,
};
use crate::arch::{self, nr, syscall};
use crate::exit;

/// Threads that have made their calls. A clone begins with the template's value, which stays 0.
static READY: AtomicU32 = AtomicU32::new(0);
/// 1 once the threads may go on.
static RELEASED: AtomicU32 = AtomicU32::new(0);

/// `FUTEX_WAIT | FUTEX_PRIVATE_FLAG` and `FUTEX_WAKE | FUTEX_PRIVATE_FLAG`.
const WAIT: usize = 128;
const WAKE: usize = 1 | 128;

/// Makes the calls in their order, up to the first that fails.
///
/// # Safety
/// `calls` is the address of `count` calls, each of which may be made.
pub unsafe fn run(calls: u64, count: u64) -> Result<(), Reply> {
    let mut slots = [0_u64; SLOTS];
    for index in 0..count as usize {
        // SAFETY: within the list, by the caller's promise.
        let call = unsafe { &*(calls as *const Call).add(index) };
        let mut args = [0; 6];
        for (position, arg) in args.iter_mut().enumerate() {
            *arg = match call.from[position] {
                0 => call.args[position],
                slot => slots[(slot as usize - 1) % SLOTS],
            } as usize;
        }
        if call.number == LIST {
            // SAFETY: the caller's promise, which holds for lists in the list. The planner nests them once.
            if let Err(mut failure) = unsafe { run(args[0] as u64, args[1] as u64) } {
                failure.index |= OF_LIST | (index as u32) << 16;
                return Err(failure);
            }
            continue;
        }
        // SAFETY: the caller's promise.
        let result = unsafe { make(call.number, args) };
        let failed = (-4095..0).contains(&result);
        if failed && call.flags & MAY_FAIL == 0 {
            return Err(Reply { errno: -result as i32, index: index as u32, pid: 0 });
        }
        if !failed && call.flags & EXACT != 0 && result as u64 != call.expect {
            // There is no number for "less than expected"; EIO comes closest.
            return Err(Reply { errno: 5, index: index as u32, pid: result as i64 });
        }
        if call.keep != 0 {
            slots[(call.keep as usize - 1) % SLOTS] = result as u64;
        }
    }
    Ok(())
}

/// # Safety
/// As for [`run`].
unsafe fn make(number: u32, args: [usize; 6]) -> isize {
    // SAFETY: the caller's promise, for each arm.
    unsafe {
        match number {
            LOAD => (args[0] as *const u32).read() as isize,
            THREAD => arch::thread(args[0], args[1], thread, args[2]),
            AWAIT_THREADS => {
                await_threads(args[0] as u32);
                0
            }
            TOUCH => {
                touch(args[0] as *const [u64; 2], args[1]);
                0
            }
            _ => syscall(number as usize, args),
        }
    }
}

/// # Safety
/// `ranges` is the address of `count` ranges, all of writable memory. No other thread may run.
unsafe fn touch(ranges: *const [u64; 2], count: usize) {
    for index in 0..count {
        // SAFETY: within the list, by the caller's promise.
        let [address, bytes] = unsafe { ranges.add(index).read() };
        for offset in (0..bytes).step_by(PAGE as usize) {
            let byte = (address + offset) as *mut u8;
            // SAFETY: the caller's promise. Nobody else writes to it in between.
            unsafe { byte.write_volatile(byte.read_volatile()) };
        }
    }
}

fn await_threads(count: u32) {
    loop {
        let ready = READY.load(Ordering::Acquire);
        if ready >= count {
            return;
        }
        wait(&READY, ready);
    }
}

/// Lets the threads go on.
pub fn release_threads() {
    RELEASED.store(1, Ordering::Release);
    wake(&RELEASED);
}

/// A thread's way: its own calls, then on where the checkpoint was.
extern "C" fn thread(record: usize) -> ! {
    // SAFETY: the planner wrote a `Thread` there.
    let record = unsafe { &*(record as *const Thread) };
    // SAFETY: the planner made these calls for this thread.
    if let Err(mut failure) = unsafe { run(record.calls, record.count) } {
        failure.index |= OF_THREAD;
        report_failure(failure);
    }
    READY.fetch_add(1, Ordering::Release);
    wake(&READY);
    while RELEASED.load(Ordering::Acquire) == 0 {
        wait(&RELEASED, 0);
    }
    // SAFETY: the planner wrote a whole signal frame there.
    unsafe { arch::return_from_signal(record.frame as usize) }
}

/// Tells the parent which call failed, and ends.
pub fn report_failure(failure: Reply) -> ! {
    let address = &raw const failure as usize;
    // SAFETY: the reply lives over the call. When nobody reads it, the end of this process says enough.
    unsafe { syscall(nr::WRITE, [REPORT_FD as usize, address, size_of::<Reply>(), 0, 0, 0]) };
    exit(FAILED)
}

fn wait(word: &AtomicU32, value: u32) {
    // SAFETY: the word lives as long as the process. Waking for no reason is part of the interface.
    unsafe { syscall(nr::FUTEX, [word.as_ptr() as usize, WAIT, value as usize, 0, 0, 0]) };
}

fn wake(word: &AtomicU32) {
    // SAFETY: as above.
    unsafe { syscall(nr::FUTEX, [word.as_ptr() as usize, WAKE, i32::MAX as usize, 0, 0, 0]) };
}
