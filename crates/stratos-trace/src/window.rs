//! Windows: for their time, every system call of some cgroups is counted and timed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libbpf_rs::{Link, MapCore as _, MapFlags, MapHandle};

use crate::CgroupId;
use crate::group::{self, Loaded};
use crate::layout::{Call, Fields};
use crate::tracer::monotonic_ns;

/// Places in the map of calls. All are asked for at once: of less, the library would take a short answer for the last.
const CALLS: u32 = 4096;
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
    maps: Arc<Maps>,
    loaded: Loaded,
}

/// What programs count into. Read without the lock: requests wait for that.
struct Maps {
    windows: MapHandle,
    calls: MapHandle,
}

impl Maps {
    /// What was counted in some cgroups, each call with its key.
    fn counted(&self, of: &[CgroupId]) -> Vec<(Vec<u8>, Call)> {
        let all = match self.calls.lookup_batch(CALLS, MapFlags::ANY, MapFlags::ANY) {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(%error, "cannot read what a window has counted");
                return Vec::new();
            }
        };
        let read = |(key, value): (Vec<u8>, Vec<u8>)| {
            let mut fields = Fields(&key);
            let (cgroup, number) = (CgroupId(fields.u64()), fields.u32());
            of.contains(&cgroup).then(|| Call::read(number, &value)).map(|call| (key, call))
        };
        all.filter_map(read).collect()
    }

    fn table(&self, of: &[CgroupId]) -> SyscallTable {
        let mut table = SyscallTable::default();
        for (_, call) in self.counted(of) {
            table.add_call(&call);
        }
        table.calls.sort_unstable_by_key(|call| call.number);
        table
    }

    fn forget(&self, of: &[CgroupId]) {
        for (key, _) in self.counted(of) {
            if let Err(error) = self.calls.delete(&key) {
                tracing::warn!(%error, "cannot forget what a window has counted");
            }
        }
    }
}

impl Syscalls {
    pub(crate) fn new(loaded: Loaded) -> Result<Self, String> {
        let (windows, calls) = (group::map(&loaded.object, "windows")?, group::map(&loaded.object, "calls")?);
        let maps = Arc::new(Maps { windows, calls });
        Ok(Self { links: Vec::new(), users: 0, open: Vec::new(), maps, loaded })
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
        self.maps.windows.update(&cgroup.key(), &window, MapFlags::ANY).map_err(|source| {
            if group::is_full(&source) { WindowError::Full } else { WindowError::Attach { source } }
        })?;
        self.open.push(cgroup);
        Ok(())
    }

    /// Another window may have the cgroup now.
    fn release(&mut self, cgroup: CgroupId) {
        self.open.retain(|open| *open != cgroup);
    }
}

/// A time in which every system call of some cgroups is counted and timed. Dropping it ends the counting and forgets
/// what was counted; with the last window, the programs are taken out of the way of all other processes.
pub struct Window {
    syscalls: Arc<Mutex<Syscalls>>,
    maps: Arc<Maps>,
    cgroups: Vec<CgroupId>,
    left_out: usize,
}

impl Window {
    pub(crate) fn open(syscalls: Arc<Mutex<Syscalls>>, cgroups: &[CgroupId]) -> Result<Self, WindowError> {
        let maps = {
            let mut syscalls = syscalls.lock().unwrap_or_else(PoisonError::into_inner);
            syscalls.attach()?;
            Arc::clone(&syscalls.maps)
        };
        // What is open when one fails is closed by the drop.
        let mut window = Self { syscalls, maps, cgroups: Vec::new(), left_out: 0 };
        for cgroup in cgroups {
            match window.add(*cgroup) {
                Ok(()) => {}
                // A part is better than nothing.
                Err(WindowError::Full) if !window.cgroups.is_empty() => window.left_out += 1,
                Err(error) => return Err(error),
            }
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

    /// Cgroups that it was opened for and that found no place in it.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Whether a cgroup's calls are counted.
    pub fn has(&self, cgroup: CgroupId) -> bool {
        self.cgroups.contains(&cgroup)
    }

    /// How many calls of one of its cgroups were counted so far.
    pub fn calls(&self, cgroup: CgroupId) -> Option<u64> {
        let mut window = [0; WINDOW_BYTES];
        let found = self.maps.windows.lookup_into(&cgroup.key(), &mut window, MapFlags::ANY);
        (self.has(cgroup) && found.is_ok_and(|found| found)).then(|| Fields(&window[8..]).u64())
    }

    /// What was counted so far of one of its cgroups.
    pub fn read(&self, cgroup: CgroupId) -> SyscallTable {
        match self.has(cgroup) {
            true => self.maps.table(&[cgroup]),
            false => SyscallTable::default(),
        }
    }

    /// Ends the counting, and gives what was counted of all its cgroups together.
    pub fn close(self) -> SyscallTable {
        self.stop();
        self.maps.table(&self.cgroups)
    }

    /// Ends the counting; what was counted stays, and its cgroups are in no other window yet.
    fn stop(&self) {
        for cgroup in &self.cgroups {
            match self.maps.windows.delete(&cgroup.key()) {
                // Stopped before.
                Err(error) if error.kind() == libbpf_rs::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(cgroup = cgroup.0, %error, "cannot close a window"),
                Ok(()) => {}
            }
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.stop();
        self.maps.forget(&self.cgroups);
        let mut syscalls = self.lock();
        for cgroup in &self.cgroups {
            syscalls.release(*cgroup);
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
            self.add_call(call);
        }
        self.calls.sort_unstable_by_key(|call| call.number);
    }

    fn add_call(&mut self, call: &Call) {
        let Some(own) = self.calls.iter_mut().find(|own| own.number == call.number) else {
            self.calls.push(call.clone());
            return;
        };
        own.count += call.count;
        own.errors += call.errors;
        own.denied += call.denied;
        own.total_ns += call.total_ns;
        for (own, more) in own.buckets.iter_mut().zip(call.buckets) {
            *own += more;
        }
    }
}
