//! Stopping the threads of another process, reading their state, and making system calls in their place: ptrace(2).
//!
//! A [`Tracee`] belongs to the thread that seized it; the kernel refuses requests of any other. Dropping it lets the
//! thread go on where it was, with the registers it was stopped with.

use std::ffi::c_void;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;

use libc::{c_int, pid_t};

/// The registers of a thread, as the kernel hands them out.
pub type Registers = libc::user_regs_struct;

const PTRACE_GETSIGMASK: c_int = 0x420a;
const PTRACE_GET_RSEQ_CONFIGURATION: c_int = 0x420f;
const PTRACE_EVENT_STOP: c_int = 128;
const PTRACE_O_SUSPEND_SECCOMP: c_int = 1 << 21;
const NT_X86_XSTATE: usize = 0x202;
/// Largest extended state that the kernel may hand out; 11 KiB with AMX.
const MOST_XSTATE: usize = 64 << 10;
/// `orig_rax` of a thread that is in no system call: nothing is restarted when it goes on.
const NO_CALL: u64 = u64::MAX;

/// The restartable sequence area that a thread has registered (rseq(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rseq {
    /// Address of the area; 0 when there is none.
    pub pointer: u64,
    /// Its size in bytes.
    pub size: u32,
    /// The signature before abort handlers.
    pub signature: u32,
    /// Flags of the registration.
    pub flags: u32,
    padding: u32,
}

/// A seized thread, stopped.
#[derive(Debug)]
pub struct Tracee {
    tid: pid_t,
    /// What it had when it was stopped; put back before it goes on.
    stopped: Registers,
    changed: bool,
    /// Requests must come from the thread that seized it.
    not_send: PhantomData<*const ()>,
}

impl Tracee {
    /// Seizes a thread and stops it. While it is seized, its seccomp filter is suspended (where the kernel can do that),
    /// and it is killed when the calling process ends.
    ///
    /// # Errors
    /// `ESRCH` when it has ended, `EPERM` when it may not be traced or is already; `EBUSY` when a signal was about to
    /// reach it, which still does.
    pub fn seize(tid: pid_t) -> io::Result<Self> {
        let kill = libc::PTRACE_O_EXITKILL;
        let suspended = (kill | PTRACE_O_SUSPEND_SECCOMP) as usize;
        let seized = request(libc::PTRACE_SEIZE as c_int, tid, 0, suspended);
        if let Err(error) = seized {
            // Without the option (CONFIG_CHECKPOINT_RESTORE), or when this process is under a filter itself.
            let fallback = matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM));
            if !fallback {
                return Err(error);
            }
            request(libc::PTRACE_SEIZE as c_int, tid, 0, kill as usize)?;
        }
        // SAFETY: all-zero bytes are a value of this plain struct of integers.
        let stopped = unsafe { MaybeUninit::zeroed().assume_init() };
        let mut tracee = Self { tid, stopped, changed: false, not_send: PhantomData };
        request(libc::PTRACE_INTERRUPT as c_int, tid, 0, 0)?;
        tracee.await_interrupt()?;
        tracee.stopped = tracee.registers()?;
        Ok(tracee)
    }

    /// Its number, as the caller sees it.
    pub fn tid(&self) -> pid_t {
        self.tid
    }

    /// The registers that it was stopped with.
    pub fn stopped(&self) -> &Registers {
        &self.stopped
    }

    /// Waits for the stop that PTRACE_INTERRUPT asks for.
    fn await_interrupt(&self) -> io::Result<()> {
        let status = self.wait()?;
        if !libc::WIFSTOPPED(status) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        if status >> 16 == PTRACE_EVENT_STOP {
            return Ok(());
        }
        // Another stop came first: a signal on its way to the thread. It must not be lost, so it is passed on.
        let signal = libc::WSTOPSIG(status) as usize;
        request(libc::PTRACE_DETACH as c_int, self.tid, 0, signal)?;
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }

    fn wait(&self) -> io::Result<c_int> {
        let mut status = 0;
        loop {
            // SAFETY: `status` lives over the call.
            let waited = unsafe { libc::waitpid(self.tid, &raw mut status, libc::__WALL) };
            match waited {
                -1 => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
                _ => return Ok(status),
            }
        }
    }

    fn registers(&self) -> io::Result<Registers> {
        let mut registers = MaybeUninit::<Registers>::uninit();
        request(libc::PTRACE_GETREGS as c_int, self.tid, 0, registers.as_mut_ptr() as usize)?;
        // SAFETY: the call succeeded and wrote all of it.
        Ok(unsafe { registers.assume_init() })
    }

    fn set_registers(&mut self, registers: &Registers) -> io::Result<()> {
        self.changed = true;
        request(libc::PTRACE_SETREGS as c_int, self.tid, 0, ptr::from_ref(registers) as usize).map(drop)
    }

    /// Its extended state (floating point and vector registers), in the layout of XSAVE.
    ///
    /// # Errors
    /// When the kernel does not know that register set.
    pub fn extended_state(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0_u8; MOST_XSTATE];
        let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast::<c_void>(), iov_len: bytes.len() };
        request(libc::PTRACE_GETREGSET as c_int, self.tid, NT_X86_XSTATE, &raw mut iov as usize)?;
        bytes.truncate(iov.iov_len);
        Ok(bytes)
    }

    /// The signals that it blocks: bit n - 1 for signal n.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal_mask(&self) -> io::Result<u64> {
        let mut mask = 0_u64;
        request(PTRACE_GETSIGMASK, self.tid, size_of::<u64>(), &raw mut mask as usize)?;
        Ok(mask)
    }

    /// Its registered restartable sequence area; all zero when there is none.
    ///
    /// # Errors
    /// When the kernel cannot tell (before 5.13).
    pub fn rseq(&self) -> io::Result<Rseq> {
        let mut rseq = Rseq::default();
        request(PTRACE_GET_RSEQ_CONFIGURATION, self.tid, size_of::<Rseq>(), &raw mut rseq as usize)?;
        Ok(rseq)
    }

    /// Makes a system call in the thread's place, by its instruction `syscall` at the address `instruction`. Pointers are
    /// addresses of the thread's own memory. A result in `-4095..0` is a negated errno.
    ///
    /// # Errors
    /// When the thread does not come back from that one instruction.
    pub fn system_call(&mut self, instruction: u64, number: u64, args: [u64; 6]) -> io::Result<i64> {
        let mut registers = self.stopped;
        registers.rip = instruction;
        registers.rax = number;
        registers.orig_rax = NO_CALL;
        [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = args;
        self.set_registers(&registers)?;
        request(libc::PTRACE_SINGLESTEP as c_int, self.tid, 0, 0)?;
        let status = self.wait()?;
        if !libc::WIFSTOPPED(status) || libc::WSTOPSIG(status) != libc::SIGTRAP {
            return Err(io::Error::other(format!("a system call made for a thread ended in {status:#x}")));
        }
        Ok(self.registers()?.rax.cast_signed())
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        // Both fail only when the thread has ended, and then there is nothing to put back.
        if self.changed {
            let stopped = ptr::from_ref(&self.stopped) as usize;
            drop(request(libc::PTRACE_SETREGS as c_int, self.tid, 0, stopped));
        }
        drop(request(libc::PTRACE_DETACH as c_int, self.tid, 0, 0));
    }
}

/// Makes one request. The arguments are what ptrace(2) says of each: the callers above pass addresses of values that live
/// over the call and are as large as the kernel writes.
fn request(request: c_int, tid: pid_t, address: usize, data: usize) -> io::Result<i64> {
    // SAFETY: only this module calls it, as said above; a request on a thread that is not ours is refused by the kernel.
    let result = unsafe { libc::ptrace(request as libc::c_uint, tid, address, data) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    fn sleeper() -> Child {
        let mut command = Command::new("sleep");
        let child = command.arg("1000").stdin(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        child
    }

    /// Finds the bytes `0f 05` in the code of the process.
    fn instruction(pid: u32) -> u64 {
        use std::os::unix::fs::FileExt as _;
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
        for line in maps.lines().filter(|line| line.contains("r-xp")) {
            let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let address = |text| u64::from_str_radix(text, 16).unwrap();
            let (start, end) = (address(start), address(end));
            let mut bytes = vec![0; (end - start) as usize];
            if memory.read_exact_at(&mut bytes, start).is_ok()
                && let Some(at) = bytes.windows(2).position(|pair| pair == [0x0f, 0x05])
            {
                return start + at as u64;
            }
        }
        panic!("no system call instruction");
    }

    #[test]
    fn a_stopped_thread_makes_calls_and_goes_on() {
        let mut child = sleeper();
        let pid = child.id();
        let at = instruction(pid);
        {
            let mut tracee = Tracee::seize(pid.cast_signed()).unwrap();
            assert_eq!(tracee.tid(), pid.cast_signed());
            let getpid = libc::SYS_getpid as u64;
            assert_eq!(tracee.system_call(at, getpid, [0; 6]).unwrap(), i64::from(pid));
            let close = libc::SYS_close as u64;
            let bad = tracee.system_call(at, close, [9999, 0, 0, 0, 0, 0]).unwrap();
            assert_eq!(bad, -i64::from(libc::EBADF));
            assert!(tracee.extended_state().unwrap().len() >= 512);
            assert_eq!(tracee.signal_mask().unwrap(), 0);
            // In clock_nanosleep when it was stopped.
            assert_eq!(tracee.stopped().orig_rax, libc::SYS_clock_nanosleep as u64);
        }
        std::thread::sleep(Duration::from_millis(50));
        assert!(child.try_wait().unwrap().is_none(), "it still sleeps");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_thread_that_is_not_there_is_an_error() {
        let mut child = sleeper();
        let pid = child.id().cast_signed();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Tracee::seize(pid).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
