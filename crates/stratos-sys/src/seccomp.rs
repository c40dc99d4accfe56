//! Seccomp filters: the instruction the kernel takes, and putting a filter on the calling thread.
//!
//! Instances get their filter between clone and exec, from the set-up interpreter. The function here is for
//! processes that confine themselves.

use std::io;

pub use stratos_setup::BpfInstruction;

/// Sets `no_new_privs` on the calling thread and puts `program` in force for it and for what it creates.
/// There is no way back. Other threads of the process stay as they are.
///
/// # Errors
/// `EINVAL` when the kernel refuses the program (empty, over 4096 instructions, a jump out of bounds).
pub fn confine_thread(program: &[BpfInstruction]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    rustix::thread::set_no_new_privs(true)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: `program` points to `len` instructions of the kernel's layout (`repr(C)`, checked below), which
    // outlive the call; the kernel copies them and never writes through the pointer.
    let failed = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const _: () = assert!(
    size_of::<BpfInstruction>() == size_of::<libc::sock_filter>()
        && align_of::<BpfInstruction>() == align_of::<libc::sock_filter>()
);
