//! The groups of programs, and loading one.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _};

use libbpf_rs::btf::types::{FuncProto, Ptr, Typedef};
use libbpf_rs::btf::{Btf, ReferencesType as _};
use libbpf_rs::{Error, ErrorKind, Link, MapCore as _, MapHandle, Object, ObjectBuilder};

use crate::said;

/// An object as the compiler left it.
macro_rules! object {
    ($name:literal) => {
        include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".bpf.o"))
    };
}

/// The maps that all groups share.
pub(crate) const MAPS: &[u8] = object!("maps");
/// The group of programs that count system calls.
pub(crate) const SYSCALLS: &str = "syscalls";

/// One group of programs as it is written.
pub(crate) struct Written {
    pub(crate) name: &'static str,
    pub(crate) object: &'static [u8],
    /// Attached only while somebody asks.
    pub(crate) on_demand: bool,
}

/// All of them, in the order they are loaded.
pub(crate) const GROUPS: [Written; 5] = [
    Written { name: "lifecycle", object: object!("lifecycle"), on_demand: false },
    Written { name: "scheduler", object: object!("scheduler"), on_demand: false },
    Written { name: "faults", object: object!("faults"), on_demand: false },
    Written { name: "network", object: object!("network"), on_demand: false },
    Written { name: SYSCALLS, object: object!("syscalls"), on_demand: true },
];

/// One group of programs in the running kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name, such as `scheduler`.
    pub name: &'static str,
    /// Its programs, each with what it is attached to (`switch_tasks: tp_btf/sched_switch`).
    pub programs: Vec<String>,
    /// Whether they run.
    pub state: GroupState,
}

/// Whether a group's programs run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupState {
    /// They run.
    Attached,
    /// They are loaded, and run while a window is open.
    OnDemand,
    /// The kernel does not take them; its reason.
    Refused(String),
}

/// A group that the kernel took.
pub(crate) struct Loaded {
    pub(crate) programs: Vec<String>,
    /// Before the object: they go first.
    pub(crate) links: Vec<Link>,
    pub(crate) object: Object,
}

/// What the kernel has to attach to.
pub(crate) struct Kernel<'a>(pub(crate) Btf<'a>);

impl Kernel<'_> {
    /// Number of arguments of a tracepoint; `None` when there is no such tracepoint.
    fn arguments(&self, tracepoint: &str) -> Option<usize> {
        let definition: Typedef<'_> = self.0.type_by_name(&format!("btf_trace_{tracepoint}"))?;
        let pointer = Ptr::try_from(definition.referenced_type()).ok()?;
        let function = FuncProto::try_from(pointer.referenced_type()).ok()?;
        // The first is the caller's own data.
        Some(function.iter().count().saturating_sub(1))
    }

    /// Whether a program is for this kernel, of those that are written in more than one way or for new ones only.
    fn wants(&self, program: &str) -> bool {
        match program {
            "exit_last" => self.arguments("sched_process_exit").is_some_and(|count| count > 1),
            "exit_first" => self.arguments("sched_process_exit").is_none_or(|count| count <= 1),
            // Not on every architecture.
            "fault" => self.arguments("page_fault_user").is_some(),
            _ => true,
        }
    }
}

/// Loads the shared maps.
pub(crate) fn load_maps() -> Result<Object, String> {
    said::with_reason(|| ObjectBuilder::default().open_memory(MAPS)?.load())
}

/// Loads a group with the shared maps in place of its own, and attaches it unless that is done on demand. Programs on
/// packets are attached to `cgroups`, which have to be folders of the v2 hierarchy.
pub(crate) fn load(
    written: &Written,
    kernel: &Kernel<'_>,
    shared: &Object,
    cgroups: &[File],
) -> Result<Loaded, String> {
    said::with_reason(|| {
        let mut object = ObjectBuilder::default().open_memory(written.object)?;
        for mut map in object.maps_mut() {
            if let Some(shared) = shared.maps().find(|shared| shared.name() == map.name()) {
                map.reuse_fd(shared.as_fd())?;
            }
        }
        for mut program in object.progs_mut() {
            let wanted = program.name().to_str().is_some_and(|name| kernel.wants(name));
            program.set_autoload(wanted);
        }
        let object = object.load()?;
        let programs = object.progs().filter(|program| program.autoload());
        let programs =
            programs.map(|p| format!("{}: {}", p.name().display(), p.section().display())).collect();
        let links = if written.on_demand { Vec::new() } else { attach(&object, cgroups)? };
        Ok(Loaded { programs, links, object })
    })
}

/// Attaches every program of an object.
pub(crate) fn attach(object: &Object, cgroups: &[File]) -> Result<Vec<Link>, Error> {
    let mut links = Vec::new();
    for program in object.progs_mut().filter(|program| program.autoload()) {
        if program.section().to_str().is_some_and(|section| section.starts_with("cgroup_skb/")) {
            if cgroups.is_empty() {
                return Err(Error::from(std::io::Error::other("this machine has no cgroup v2 hierarchy")));
            }
            for cgroup in cgroups {
                links.push(program.attach_cgroup(cgroup.as_raw_fd())?);
            }
        } else {
            links.push(program.attach()?);
        }
    }
    Ok(links)
}

/// A map of an object, to be used apart from it.
pub(crate) fn map(object: &Object, name: &str) -> Result<MapHandle, String> {
    let map = object.maps().find(|map| map.name() == name);
    let map = map.ok_or_else(|| format!("the map `{name}` is missing"))?;
    MapHandle::try_from(&map).map_err(|error| format!("{error:#}"))
}

/// Whether a map was full.
pub(crate) fn is_full(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::TooBig | ErrorKind::OutOfMemory)
}
