//! System calls in the place of a stopped thread.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use stratos_sys::ptrace::Tracee;

use super::mappings::Maps;
use super::{DumpError, While as _};

/// Bytes below the stack pointer that a function may use without moving it (System V ABI, red zone).
const RED_ZONE: u64 = 128;
/// Bytes of scratch memory.
const SCRATCH: u64 = 256;

/// A stopped thread, as something that makes system calls.
pub(super) struct Remote<'a> {
    tracee: &'a mut Tracee,
    memory: &'a File,
    instruction: u64,
}

impl<'a> Remote<'a> {
    pub(super) fn new(tracee: &'a mut Tracee, memory: &'a File, instruction: u64) -> Self {
        Self { tracee, memory, instruction }
    }

    /// Address of memory that the thread does not use: below its stack's red zone.
    pub(super) fn scratch(&self) -> u64 {
        (self.tracee.stopped().rsp - RED_ZONE - SCRATCH) & !15
    }

    /// Makes a call, which must succeed.
    pub(super) fn call(&mut self, number: i64, args: [u64; 6]) -> Result<u64, DumpError> {
        let result = self.tracee.system_call(self.instruction, number.cast_unsigned(), args);
        let result = result.during(|| format!("make system call {number} for it"))?;
        match result {
            -4095..0 => {
                let errno = i32::try_from(-result).unwrap_or(libc::EIO);
                Err(std::io::Error::from_raw_os_error(errno))
                    .during(|| format!("make system call {number} for it"))
            }
            result => Ok(result.cast_unsigned()),
        }
    }

    /// Makes a call that writes words to an address, and reads these.
    pub(super) fn words<const N: usize>(
        &mut self,
        number: i64,
        args: [u64; 6],
        address: u64,
    ) -> Result<[u64; N], DumpError> {
        self.call(number, args)?;
        let mut bytes = [0; SCRATCH as usize];
        let bytes = &mut bytes[..N * 8];
        self.memory.read_exact_at(bytes, address).during(|| "read its memory".to_owned())?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        }
        Ok(words)
    }
}

/// Finds an instruction `syscall`: the vDSO has one wherever it asks the kernel after all.
pub(super) fn find_instruction(maps: &Maps, memory: &File) -> Result<u64, DumpError> {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    let vdso = maps.of_kernel().into_iter().find(|mapping| mapping.name == "[vdso]");
    let vdso = vdso.ok_or_else(|| DumpError::refused("it has no vDSO"))?;
    let mut code = vec![0; (vdso.end - vdso.start) as usize];
    memory.read_exact_at(&mut code, vdso.start).during(|| "read its vDSO".to_owned())?;
    let at = code.windows(2).position(|bytes| bytes == SYSCALL);
    at.map(|at| vdso.start + at as u64).ok_or_else(|| DumpError::refused("its vDSO makes no system call"))
}
