//! Windows: for their time, every system call of some cgroups is counted and timed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libbpf_rs::{Link, MapCore as _, MapFlags, MapHandle};

use crate::CgroupId;
use crate::group::{self, Loaded};
use crate::layout::{CALL_BYTES, Call, Fields};
use crate::tracer::monotonic_ns;

/// System calls have numbers below this one.
const NUMBERS: u32 = 512;
/// Size of `struct window`.
const WINDOW_BYTES: usize = 16;

/// Why there is no window.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// The kernel does not take the programs.
    #[error("this kernel does not let system calls be traced: {reason}")]
    Refused {
        /// The kernel's reason.
        reason: String,
    },
    /// One of the cgroups has a window already.
    #[error("a window is open for this cgroup already")]
    Open,
    /// As many cgroups as can be have a window.
    #[error("too many windows are open at a time")]
    Full,
    /// The programs could not be attached, or a map not be written.
    #[error("the window cannot be opened")]
    Attach {
        /// Why.
        source: libbpf_rs::Error,
    },
}

/// The group that counts system calls.
pub(crate) struct Syscalls {
    /// While there is a window. Before the object: they go first.
    links: Vec<Link>,
    /// Windows that are open, and the cgroups in them.
    users: usize,
    open: Vec<CgroupId>,
    windows: MapHandle,
    calls: MapHandle,
    loaded: Loaded,
}

impl Syscalls {
    pub(crate) fn new(loaded: Loaded) -> Result<Self, String> {
        let (windows, calls) = (group::map(&loaded.object, "windows")?, group::map(&loaded.object, "calls")?);
        Ok(Self { links: Vec::new(), users: 0, open: Vec::new(), windows, calls, loaded })
    }

    /// One window more: the programs run from the first one on.
    fn attach(&mut self) -> Result<(), WindowError> {
        if self.users == 0 {
            self.links =
                group::attach(&self.loaded.object, &[]).map_err(|source| WindowError::Attach { source })?;
        }
        self.users += 1;
        Ok(())
    }

    /// One window less.
    fn detach(&mut self) {
        self.users -= 1;
        if self.users == 0 {
            self.links.clear();
        }
    }

    /// Begins to count a cgroup's calls.
    fn open(&mut self, cgroup: CgroupId) -> Result<(), WindowError> {
        if self.open.contains(&cgroup) {
            return Err(WindowError::Open);
        }
        let mut window = [0; WINDOW_BYTES];
        window[..8].copy_from_slice(&monotonic_ns().to_ne_bytes());
        self.windows.update(&cgroup.key(), &window, MapFlags::ANY).map_err(|source| {
            if group::is_full(&source) { WindowError::Full } else { WindowError::Attach { source } }
        })?;
        self.open.push(cgroup);
        Ok(())
    }

    /// Ends the counting of a cgroup's calls; what was counted stays.
    fn close(&mut self, cgroup: CgroupId) {
        let Some(at) = self.open.iter().position(|open| *open == cgroup) else { return };
        self.open.swap_remove(at);
        if let Err(error) = self.windows.delete(&cgroup.key()) {
            tracing::warn!(cgroup = cgroup.0, %error, "cannot close a window");
        }
    }

    fn read(&self, cgroup: CgroupId) -> SyscallTable {
        let mut calls = Vec::new();
        let mut bytes = [0; CALL_BYTES];
        for number in 0..NUMBERS {
            let found = self.calls.lookup_into(&key(cgroup, number), &mut bytes, MapFlags::ANY);
            if found.is_ok_and(|found| found) {
                calls.push(Call::read(number, &bytes));
            }
        }
        SyscallTable { calls }
    }

    fn forget(&self, cgroup: CgroupId) {
        for number in 0..NUMBERS {
            match self.calls.delete(&key(cgroup, number)) {
                Err(error) if error.kind() != libbpf_rs::ErrorKind::NotFound => {
                    tracing::warn!(cgroup = cgroup.0, %error, "cannot forget what a window has counted");
                }
                _ => {}
            }
        }
    }
}

/// `struct call_key`.
fn key(cgroup: CgroupId, number: u32) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&cgroup.key());
    key[8..12].copy_from_slice(&number.to_ne_bytes());
    key
}

/// A time in which every system call of some cgroups is counted and timed. Dropping it ends the counting and forgets
/// what was counted; with the last window, the programs are taken out of the way of all other processes.
pub struct Window {
    syscalls: Arc<Mutex<Syscalls>>,
    cgroups: Vec<CgroupId>,
}

impl Window {
    pub(crate) fn open(syscalls: Arc<Mutex<Syscalls>>, cgroups: &[CgroupId]) -> Result<Self, WindowError> {
        syscalls.lock().unwrap_or_else(PoisonError::into_inner).attach()?;
        // What is open when one fails is closed by the drop.
        let mut window = Self { syscalls, cgroups: Vec::new() };
        for cgroup in cgroups {
            window.add(*cgroup)?;
        }
        Ok(window)
    }

    fn lock(&self) -> MutexGuard<'_, Syscalls> {
        self.syscalls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the calls of one more cgroup from now on.
    ///
    /// # Errors
    /// See [`WindowError`].
    pub fn add(&mut self, cgroup: CgroupId) -> Result<(), WindowError> {
        self.lock().open(cgroup)?;
        self.cgroups.push(cgroup);
        Ok(())
    }

    /// Whether a cgroup's calls are counted.
    pub fn has(&self, cgroup: CgroupId) -> bool {
        self.cgroups.contains(&cgroup)
    }

    /// How many calls of one of its cgroups were counted so far.
    pub fn calls(&self, cgroup: CgroupId) -> Option<u64> {
        let mut window = [0; WINDOW_BYTES];
        let syscalls = self.lock();
        let found = syscalls.windows.lookup_into(&cgroup.key(), &mut window, MapFlags::ANY);
        (self.has(cgroup) && found.is_ok_and(|found| found)).then(|| Fields(&window[8..]).u64())
    }

    /// What was counted so far of one of its cgroups.
    pub fn read(&self, cgroup: CgroupId) -> SyscallTable {
        match self.has(cgroup) {
            true => self.lock().read(cgroup),
            false => SyscallTable::default(),
        }
    }

    /// Ends the counting, and gives what was counted of all its cgroups together.
    pub fn close(self) -> SyscallTable {
        let mut syscalls = self.lock();
        let mut all = SyscallTable::default();
        for cgroup in &self.cgroups {
            syscalls.close(*cgroup);
            all.add(&syscalls.read(*cgroup));
        }
        drop(syscalls);
        all
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let mut syscalls = self.lock();
        for cgroup in &self.cgroups {
            syscalls.close(*cgroup);
            syscalls.forget(*cgroup);
        }
        syscalls.detach();
    }
}

/// The system calls of a window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyscallTable {
    /// Those that were made, by number.
    pub calls: Vec<Call>,
}

impl SyscallTable {
    /// The call of this name, if it was made.
    pub fn get(&self, name: &str) -> Option<&Call> {
        self.calls.iter().find(|call| call.name == name)
    }

    /// Adds what another has.
    pub fn add(&mut self, other: &Self) {
        for call in &other.calls {
            match self.calls.iter_mut().find(|own| own.number == call.number) {
                Some(own) => {
                    own.count += call.count;
                    own.errors += call.errors;
                    own.denied += call.denied;
                    own.total_ns += call.total_ns;
                    for (own, more) in own.buckets.iter_mut().zip(call.buckets) {
                        *own += more;
                    }
                }
                None => self.calls.push(call.clone()),
            }
        }
        self.calls.sort_unstable_by_key(|call| call.number);
    }
}
