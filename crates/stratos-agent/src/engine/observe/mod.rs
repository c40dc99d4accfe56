//! What the kernel tells of instances: figures of each invocation, windows of system calls, causes of death.
//!
//! The programs are loaded in the background, once the node answers, and never stand in the way of a request: until they
//! are there, or where the kernel does not take them, everything in here gives nothing.

mod denied;
mod kept;
mod window;
mod work;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use stratos_api::{DroppedCounts, KernelFigures, ProgramGroup};
use stratos_trace::{CgroupId, Counters, Events, GroupState, Options, Tracer, What};

use self::denied::Denied;
use self::kept::Kept;
use self::window::Seen;
pub(super) use self::window::Windows;
use self::work::{Request, Work};

/// The kernel as an observer of instances.
pub struct Observer {
    enabled: bool,
    loaded: OnceLock<Loaded>,
    denied: Arc<Denied>,
    kept: Kept,
    automatic: Arc<tokio::sync::Semaphore>,
}

struct Loaded {
    // Before the tracer, whose ring it reads.
    _events: Option<Events>,
    tracer: Tracer,
    /// Which figures there are.
    scheduler: bool,
    faults: bool,
    memory: bool,
    network: bool,
    lifecycle: bool,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").field("enabled", &self.enabled).finish_non_exhaustive()
    }
}

impl Observer {
    /// One that tells nothing yet; never, unless `enabled`.
    pub fn new(enabled: bool) -> Arc<Self> {
        let automatic = Arc::new(tokio::sync::Semaphore::new(window::AUTOMATIC_AT_ONCE));
        let (denied, kept) = (Arc::default(), Kept::default());
        Arc::new(Self { enabled, loaded: OnceLock::new(), denied, kept, automatic })
    }

    /// Loads the programs on a thread of its own, which gives way to all others. `cgroups`: where instances are.
    pub fn load_in_background(self: &Arc<Self>, cgroups: Vec<PathBuf>) {
        if !self.enabled {
            return;
        }
        let observer = Arc::clone(self);
        let load = move || {
            // Of this thread alone (nice(2) on Linux). Where that is not allowed it is as fast as the others.
            if let Err(error) = rustix::process::nice(19) {
                tracing::debug!(%error, "eBPF programs are loaded at the priority of everything else");
            }
            observer.load(cgroups);
        };
        if let Err(error) = std::thread::Builder::new().name("tracer".into()).spawn(load) {
            tracing::error!(%error, "no thread to load eBPF programs");
        }
    }

    fn load(&self, cgroups: Vec<PathBuf>) {
        let began = Instant::now();
        let tracer = Tracer::load(&Options { cgroups });
        for group in tracer.groups() {
            match &group.state {
                GroupState::Refused(reason) => {
                    tracing::warn!(group = group.name, %reason, "the kernel does not take a group of eBPF programs");
                }
                GroupState::Attached | GroupState::OnDemand => {}
            }
        }
        let denied = Arc::clone(&self.denied);
        let events = tracer.events(move |event| {
            if let What::Denied { number, foreign } = event.what {
                denied.tell(event.cgroup, number, foreign);
            }
        });
        let events = events.inspect_err(|error| tracing::debug!(%error, "no events of the kernel")).ok();
        let has = |program: &str| {
            tracer.groups().iter().any(|group| {
                group.state == GroupState::Attached && group.programs.iter().any(|p| p.starts_with(program))
            })
        };
        let loaded = Loaded {
            scheduler: tracer.is_attached("scheduler"),
            // Architectures without the tracepoint of faults have the rest of the group.
            faults: has("fault:"),
            memory: has("memory:"),
            network: tracer.is_attached("network"),
            lifecycle: tracer.is_attached("lifecycle"),
            _events: events,
            tracer,
        };
        self.loaded.get_or_init(|| loaded);
        tracing::info!("eBPF programs are loaded ({} ms)", began.elapsed().as_millis());
    }

    fn tracer(&self) -> Option<&Tracer> {
        self.loaded.get().map(|loaded| &loaded.tracer)
    }

    /// `ready`, `loading` or `off`; the groups; what found no place.
    pub(super) fn state(&self) -> (&'static str, Vec<ProgramGroup>, DroppedCounts) {
        let Some(tracer) = self.tracer() else {
            let state = if self.enabled { "loading" } else { "off" };
            return (state, Vec::new(), DroppedCounts::default());
        };
        let groups = tracer.groups().iter().map(|group| {
            let (state, reason) = match &group.state {
                GroupState::Attached => ("attached", None),
                GroupState::OnDemand => ("on_demand", None),
                GroupState::Refused(reason) => ("refused", Some(reason.clone())),
            };
            ProgramGroup {
                name: group.name.to_owned(),
                state: state.to_owned(),
                reason,
                programs: group.programs.clone(),
            }
        });
        let dropped = tracer.dropped();
        let dropped = DroppedCounts {
            events: dropped.events,
            tasks: dropped.tasks,
            connects: dropped.connects,
            syscalls: dropped.syscalls,
            instances: dropped.cgroups,
        };
        ("ready", groups.collect(), dropped)
    }

    /// An instance to be observed, by the number of its cgroup.
    pub(super) fn observe(self: &Arc<Self>, cgroup: Option<u64>) -> Observed {
        let observed = Observed {
            observer: Arc::clone(self),
            cgroup: cgroup.map(CgroupId),
            watched: OnceLock::new(),
            work: Work::default(),
        };
        observed.watch();
        observed
    }
}

/// One instance, as the kernel sees it. Its figures are forgotten with it.
pub(super) struct Observed {
    observer: Arc<Observer>,
    cgroup: Option<CgroupId>,
    /// Set once it is watched, or there is no place for it.
    watched: OnceLock<bool>,
    work: Work,
}

/// The figures of an instance when an invocation begins.
pub(super) struct Begin {
    counters: Counters,
    /// System calls in the open window.
    syscalls: Option<Seen>,
    /// It is worked on until this is dropped.
    _request: Request,
}

impl Observed {
    /// Watches it, if that can be done by now.
    fn watch(&self) -> Option<(&Loaded, CgroupId)> {
        let (loaded, cgroup) = (self.observer.loaded.get()?, self.cgroup?);
        self.watched.get_or_init(|| loaded.tracer.watch(cgroup)).then_some((loaded, cgroup))
    }

    /// Its cgroup.
    pub(super) fn cgroup(&self) -> Option<CgroupId> {
        self.cgroup
    }

    /// An invocation of a function with these windows begins.
    pub(super) fn begin(&self, windows: &Windows) -> Option<Begin> {
        let (loaded, cgroup) = self.watch()?;
        let syscalls = windows.admit(cgroup);
        let (request, is_first) = self.work.begin();
        let counters = match is_first {
            true => loaded.tracer.begin(cgroup),
            false => loaded.tracer.counters(cgroup),
        };
        Some(Begin { counters: counters?, syscalls, _request: request })
    }

    /// An invocation has ended: what was counted since its begin.
    pub(super) fn end(&self, begin: Begin, windows: &Windows) -> Option<KernelFigures> {
        let (loaded, cgroup) = self.watch()?;
        let counted = loaded.tracer.counters(cgroup)?.since(&begin.counters);
        let syscalls = windows.invoked(cgroup).zip(begin.syscalls);
        let syscalls = syscalls.and_then(|(now, then)| now.since(then));
        Some(figures(loaded, &counted, syscalls))
    }

    /// The name of the system call that it was killed for, if the kernel tells within a moment.
    pub(super) async fn denied(&self) -> Option<String> {
        let (loaded, cgroup) = self.watch()?;
        match loaded.lifecycle {
            true => self.observer.denied.wait(cgroup).await,
            false => None,
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        if self.watched.get() == Some(&true)
            && let (Some(tracer), Some(cgroup)) = (self.observer.tracer(), self.cgroup)
        {
            tracer.forget(cgroup);
        }
    }
}

fn figures(loaded: &Loaded, counted: &Counters, syscalls: Option<u64>) -> KernelFigures {
    let of = |there: bool, figure: u64| there.then_some(figure);
    let us = |there: bool, ns: u64| there.then_some(ns / 1000);
    KernelFigures {
        run_queue_us: us(loaded.scheduler, counted.run_queue_ns),
        off_cpu_us: us(loaded.scheduler, counted.off_cpu_ns),
        faults: of(loaded.faults, counted.faults),
        major_faults: of(loaded.faults, counted.major_faults),
        // 0: it has not changed since it is watched.
        memory_peak_kb: of(loaded.memory, counted.memory_peak_kib).filter(|kib| *kib > 0),
        rx_bytes: of(loaded.network, counted.rx_bytes),
        tx_bytes: of(loaded.network, counted.tx_bytes),
        connects: of(loaded.network, counted.connects),
        connect_failures: of(loaded.network, counted.connect_failures),
        connect_us: us(loaded.network, counted.connect_ns),
        processes: of(loaded.lifecycle, counted.processes),
        syscalls,
    }
}
