//! The programs in the kernel, and the figures of cgroups.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use libbpf_rs::btf::Btf;
use libbpf_rs::{Link, MapCore as _, MapFlags, MapHandle, Object};
use rustix::time::{ClockId, clock_gettime};

use crate::events::{self, Event, Events};
use crate::group::{self, GROUPS, Group, GroupState, Kernel, Loaded, SYSCALLS};
use crate::layout::{COUNTERS_BYTES, Counters, Dropped, Fields};
use crate::window::{Syscalls, Window, WindowError};
use crate::{CgroupId, said};

/// What is to be traced.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Folders of the v2 hierarchy below which all watched cgroups lie: their packets are counted.
    pub cgroups: Vec<PathBuf>,
}

/// What the kernel tells of cgroups. Dropping it takes all programs out of the kernel.
pub struct Tracer {
    groups: Vec<Group>,
    maps: Option<Maps>,
    pub(crate) syscalls: Option<Arc<Mutex<Syscalls>>>,
    refused_cgroups: AtomicU64,
    _loaded: Vec<Loaded>,
    _shared: Option<Object>,
}

/// The shared maps.
struct Maps {
    counters: MapHandle,
    begun: MapHandle,
    events: MapHandle,
    dropped: MapHandle,
}

/// A map that a group keeps apart, and why it may not be there.
type Found<T> = Result<T, String>;

impl Tracer {
    /// Loads and attaches every group that the kernel takes. Takes some tenths of a second; needs CAP_BPF, CAP_PERFMON
    /// and, for packets, CAP_NET_ADMIN.
    pub fn load(options: &Options) -> Self {
        match Self::prepare(options) {
            Ok((kernel, shared, maps, cgroups)) => Self::load_groups(&kernel, shared, maps, &cgroups),
            Err(reason) => {
                let refused = |written: &group::Written| Group {
                    name: written.name,
                    programs: Vec::new(),
                    state: GroupState::Refused(reason.clone()),
                };
                Self {
                    groups: GROUPS.iter().map(refused).collect(),
                    maps: None,
                    syscalls: None,
                    refused_cgroups: AtomicU64::new(0),
                    _loaded: Vec::new(),
                    _shared: None,
                }
            }
        }
    }

    /// What every group needs.
    fn prepare(options: &Options) -> Found<(Kernel<'static>, Object, Maps, Vec<File>)> {
        let kernel = said::with_reason(Btf::from_vmlinux)
            .map(Kernel)
            .map_err(|e| format!("no BTF of this kernel: {e}"))?;
        let shared = group::load_maps()?;
        let maps = Maps {
            counters: group::map(&shared, "counters")?,
            begun: group::map(&shared, "begun")?,
            events: group::map(&shared, "events")?,
            dropped: group::map(&shared, "dropped")?,
        };
        let open =
            |path: &PathBuf| File::open(path).map_err(|e| format!("cannot open {}: {e}", path.display()));
        let cgroups = options.cgroups.iter().map(open).collect::<Result<_, _>>()?;
        Ok((kernel, shared, maps, cgroups))
    }

    fn load_groups(kernel: &Kernel<'_>, shared: Object, maps: Maps, cgroups: &[File]) -> Self {
        let (mut groups, mut loaded, mut syscalls) = (Vec::new(), Vec::new(), None);
        for written in &GROUPS {
            let (programs, state) = match group::load(written, kernel, &shared, cgroups) {
                Ok(group) if written.name == SYSCALLS => {
                    let programs = group.programs.clone();
                    match Syscalls::new(group) {
                        Ok(made) => {
                            syscalls = Some(Arc::new(Mutex::new(made)));
                            (programs, GroupState::OnDemand)
                        }
                        Err(reason) => (programs, GroupState::Refused(reason)),
                    }
                }
                Ok(group) => {
                    let programs = group.programs.clone();
                    loaded.push(group);
                    (programs, GroupState::Attached)
                }
                Err(reason) => (Vec::new(), GroupState::Refused(reason)),
            };
            groups.push(Group { name: written.name, programs, state });
        }
        Self {
            groups,
            maps: Some(maps),
            syscalls,
            refused_cgroups: AtomicU64::new(0),
            _loaded: loaded,
            _shared: Some(shared),
        }
    }

    /// Every group, and whether it runs.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Whether a group's programs run now.
    pub fn is_attached(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g.name == group && g.state == GroupState::Attached)
    }

    /// Begins to count what a cgroup does; false when there is no place for it, which [`Tracer::dropped`] counts, or no
    /// eBPF. Its figures begin at 0.
    pub fn watch(&self, cgroup: CgroupId) -> bool {
        let Some(maps) = &self.maps else { return false };
        match maps.counters.update(&cgroup.key(), &[0; COUNTERS_BYTES], MapFlags::ANY) {
            Ok(()) => true,
            Err(error) => {
                if !group::is_full(&error) {
                    tracing::warn!(cgroup = cgroup.0, %error, "cannot watch a cgroup");
                }
                self.refused_cgroups.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }

    /// Stops counting and forgets the figures.
    pub fn forget(&self, cgroup: CgroupId) {
        let Some(maps) = &self.maps else { return };
        for map in [&maps.counters, &maps.begun] {
            // One that was never watched, or never worked, is in none.
            if let Err(error) = map.delete(&cgroup.key())
                && error.kind() != libbpf_rs::ErrorKind::NotFound
            {
                tracing::warn!(cgroup = cgroup.0, %error, "cannot forget a cgroup");
            }
        }
    }

    /// The figures of a cgroup; `None` when it is not watched.
    pub fn counters(&self, cgroup: CgroupId) -> Option<Counters> {
        let maps = self.maps.as_ref()?;
        let mut bytes = [0; COUNTERS_BYTES];
        let found = maps.counters.lookup_into(&cgroup.key(), &mut bytes, MapFlags::ANY);
        found.is_ok_and(|found| found).then(|| Counters::read(&bytes))
    }

    /// A piece of work begins in a watched cgroup that did nothing: what its threads have slept until now is no part of
    /// it. Gives the figures at its begin. Where other work goes on, [`Tracer::counters`] is to be asked instead: the
    /// sleep that belongs to that would be lost.
    pub fn begin(&self, cgroup: CgroupId) -> Option<Counters> {
        let maps = self.maps.as_ref()?;
        let now = monotonic_ns().to_ne_bytes();
        if let Err(error) = maps.begun.update(&cgroup.key(), &now, MapFlags::ANY) {
            tracing::debug!(cgroup = cgroup.0, %error, "the begin of work in a cgroup is not noted");
        }
        self.counters(cgroup)
    }

    /// Counts and times every system call of some cgroups until the window is dropped, at most 64 cgroups in all windows;
    /// [`Window::left_out`] tells how many found no place beside others.
    /// Blocks for some milliseconds, as does the end of the last window.
    ///
    /// # Errors
    /// See [`WindowError`].
    pub fn window(&self, cgroups: &[CgroupId]) -> Result<Window, WindowError> {
        let reason = || match self.groups.iter().find(|group| group.name == SYSCALLS) {
            Some(Group { state: GroupState::Refused(reason), .. }) => reason.clone(),
            _ => "it is not loaded".to_owned(),
        };
        let syscalls = self.syscalls.as_ref().ok_or_else(|| WindowError::Refused { reason: reason() })?;
        Window::open(Arc::clone(syscalls), cgroups)
    }

    /// Tells the events of watched cgroups, on a thread of its own, until the result is dropped. What comes while one is
    /// told waits in a ring of 256 KiB. One reader at a time: each event is given to one.
    ///
    /// # Errors
    /// When the kernel has no eBPF, or there are no threads left.
    pub fn events(&self, tell: impl FnMut(Event) + Send + 'static) -> std::io::Result<Events> {
        let maps = self.maps.as_ref().ok_or_else(|| std::io::Error::other("this kernel has no eBPF"))?;
        let map = MapHandle::try_from(&maps.events).map_err(std::io::Error::other)?;
        events::read(map, tell)
    }

    /// What found no place.
    pub fn dropped(&self) -> Dropped {
        let count = |kind: u32| {
            let value = self.maps.as_ref()?.dropped.lookup(&kind.to_ne_bytes(), MapFlags::ANY).ok()??;
            Some(Fields(&value).u64())
        };
        let count = |kind| count(kind).unwrap_or(0);
        Dropped {
            events: count(0),
            tasks: count(1),
            connects: count(2),
            syscalls: count(3),
            cgroups: self.refused_cgroups.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let links: Vec<Link> = std::mem::take(&mut self.links);
        drop(links);
    }
}

/// What `bpf_ktime_get_ns` tells.
pub(crate) fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
