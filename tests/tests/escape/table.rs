//! Every attempt, with the defences that each stop it alone.
//!
//! A defence stands in a row only if the attempt fails with it alone on and succeeds with all of the row off; the test
//! checks both, so a row can neither name too few nor too many.

use serde_json::{Value, json};
use stratos_sandbox::{InstancePlan, Weaken};

use crate::world::World;

/// How an instance is started.
pub(crate) struct Start {
    pub(crate) plan: InstancePlan,
    pub(crate) weaken: Weaken,
}

macro_rules! defences {
    ($($defence:ident $name:literal $leave_out:expr;)*) => {
        /// One thing that can be left out of an instance.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Defence {
            $($defence,)*
        }

        impl Defence {
            /// As docs/security.md names it.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$defence => $name,)*
                }
            }

            pub(crate) fn leave_out(self, start: &mut Start) {
                let leave_out: fn(&mut Start) = match self {
                    $(Self::$defence => $leave_out,)*
                };
                leave_out(start);
            }
        }
    };
}

defences! {
    Pids "PID namespace" |start| start.weaken.pid_namespace = true;
    Root "root of its own" |start| start.weaken.root_filesystem = true;
    Landlock "Landlock" |start| start.weaken.landlock = true;
    Seccomp "seccomp" |start| start.weaken.seccomp = true;
    User "user of its own, no capabilities" |start| start.weaken.capabilities = true;
    Network "network namespace" |start| start.weaken.network_namespace = true;
    ReadOnly "read-only mounts" |start| start.weaken.read_only = true;
    MountFlags "nosuid, nodev" |start| start.weaken.mount_flags = true;
    ProcMasks "covered /proc entries" |start| start.weaken.proc_masks = true;
    Descriptors "closed descriptors" |start| start.weaken.descriptors = true;
    Processes "process limit" |start| start.weaken.nproc = true;
    NoNewPrivs "no_new_privs" |start| start.weaken.no_new_privs = true;
    Ipc "IPC namespace" |start| start.weaken.ipc = true;
    Uts "UTS namespace" |start| start.weaken.uts = true;
    Cgroup "cgroup namespace" |start| start.weaken.cgroup_namespace = true;
    End "kill at the end" |start| start.weaken.end_kill = true;
    TmpSize "size of /tmp" |start| start.plan.tmp_bytes = 64 << 20;
    Environment "environment of the plan" |start| start.plan.env.push(c"LEAKED=yes".into());
}

/// What a machine must have for a row.
#[derive(Clone, Copy)]
pub(crate) enum Need {
    /// A capability of this process, by number and name.
    Capability(u32, &'static str),
    /// A file.
    File(&'static str),
    /// A setting below /proc/sys, if the kernel has it, between two values.
    Setting(&'static str, u64, u64),
    /// x86_64.
    X86,
    /// Landlock rulesets that keep signals and abstract sockets inside (ABI 6).
    LandlockScopes,
    /// cgroup v2 with cgroup.kill.
    CgroupKill,
}

/// One attempt.
pub(crate) struct Row {
    /// Its name in the output and in docs/security.md.
    pub(crate) name: &'static str,
    /// The function in `probe.py`.
    pub(crate) probe: &'static str,
    /// Its arguments; the reason when this machine cannot give them.
    pub(crate) arguments: fn(&World) -> Result<Value, String>,
    /// How it fails with everything on: an errno, or the signal that ends the process.
    pub(crate) fails: Fails,
    /// The defences that stop it.
    pub(crate) stopped_by: &'static [Defence],
    pub(crate) needs: &'static [Need],
}

/// A failure.
#[derive(Clone, Copy)]
pub(crate) enum Fails {
    /// With an errno.
    With(&'static str),
    /// The process was ended by a signal.
    Killed(i32),
    /// Nothing of the instance is left.
    Ended,
}

impl std::fmt::Display for Fails {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::With(errno) => f.write_str(errno),
            Self::Killed(signal) => write!(f, "killed by signal {signal}"),
            Self::Ended => f.write_str("ended"),
        }
    }
}

use Defence::{
    Cgroup, Descriptors, End, Environment, Ipc, Landlock, MountFlags, Network, NoNewPrivs, Pids, ProcMasks,
    Processes, ReadOnly, Root, Seccomp, TmpSize, User, Uts,
};
use Fails::{Ended, Killed, With};

const fn row(
    name: &'static str,
    probe: &'static str,
    arguments: fn(&World) -> Result<Value, String>,
    fails: Fails,
    stopped_by: &'static [Defence],
) -> Row {
    Row { name, probe, arguments, fails, stopped_by, needs: &[] }
}

impl Row {
    const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }
}

fn none(_: &World) -> Result<Value, String> {
    Ok(json!({}))
}

fn bystander(world: &World) -> Result<Value, String> {
    Ok(json!({ "pid": world.bystander.id() }))
}

const SYS_MODULE: Need = Need::Capability(16, "CAP_SYS_MODULE");
const SYS_BOOT: Need = Need::Capability(22, "CAP_SYS_BOOT");
const SYS_RESOURCE: Need = Need::Capability(24, "CAP_SYS_RESOURCE");
/// A debugger may attach to processes of its own user.
const OPEN_PTRACE: Need = Need::Setting("kernel/yama/ptrace_scope", 0, 0);
/// Its own children only.
const OPEN_PTRACE_OF_CHILDREN: Need = Need::Setting("kernel/yama/ptrace_scope", 0, 1);
/// Any user may make user namespaces: the settings of the kernel, of Debian, of Ubuntu.
const USER_NAMESPACES: &[Need] = &[
    Need::Setting("user/max_user_namespaces", 1, u64::MAX),
    Need::Setting("kernel/unprivileged_userns_clone", 1, 1),
    Need::Setting("kernel/apparmor_restrict_unprivileged_userns", 0, 0),
];
const IO_URING: Need = Need::Setting("kernel/io_uring_disabled", 0, 0);
const MODULES: Need = Need::Setting("kernel/modules_disabled", 0, 0);
const KEXEC: Need = Need::Setting("kernel/kexec_load_disabled", 0, 0);
/// A disk of the host, by its numbers.
const DISK: fn(&World) -> Result<Value, String> = |world| {
    let (_, major, minor) = world.disk()?;
    Ok(json!({ "major": major, "minor": minor }))
};

/// All of them.
pub(crate) static ROWS: &[Row] = &[
    // Processes of the host.
    row("see a host process", "see", bystander, With("ENOENT"), &[Pids]),
    row("signal a host process", "send_signal", bystander, With("ESRCH"), &[Pids, User, Landlock])
        .needs(&[Need::LandlockScopes]),
    row(
        "signal a host process of its own user",
        "send_signal",
        |_| Ok(json!({ "pid": "same user" })),
        With("ESRCH"),
        &[Pids, Landlock],
    )
    .needs(&[Need::LandlockScopes]),
    row("ptrace a process", "ptrace_child", none, With("EPERM"), &[Seccomp])
        .needs(&[OPEN_PTRACE_OF_CHILDREN]),
    row("ptrace a host process", "ptrace_other", bystander, With("EPERM"), &[Pids, Seccomp, User, Landlock]),
    row(
        "ptrace a host process of its own user",
        "ptrace_other",
        |_| Ok(json!({ "pid": "same user" })),
        With("EPERM"),
        &[Pids, Seccomp, Landlock],
    )
    .needs(&[OPEN_PTRACE]),
    row("process_vm_readv", "vm_read_child", none, With("EPERM"), &[Seccomp])
        .needs(&[OPEN_PTRACE_OF_CHILDREN]),
    row(
        "process_vm_readv of a host process",
        "vm_read_other",
        bystander,
        With("EPERM"),
        &[Pids, Seccomp, User, Landlock],
    ),
    row("/proc/PID/mem of a host process", "memory_file", bystander, With("ENOENT"), &[Pids, User, Landlock]),
    row("fork past the limit", "fork_many", |_| Ok(json!({ "count": 48 })), With("EAGAIN"), &[Processes]),
    row("a process outlives the instance", "linger", |_| Ok(json!({ "leader_exits": false })), Ended, &[End]),
    row("a process outlives PID 1", "linger", |_| Ok(json!({ "leader_exits": true })), Ended, &[Pids, End])
        .needs(&[Need::CgroupKill]),
    // Files of the host and of other functions.
    row("read a host file", "read_host", |w| Ok(w.secret_file("public")), With("ENOENT"), &[Root]),
    row(
        "read a host file of root",
        "read_host",
        |w| Ok(w.secret_file("private")),
        With("ENOENT"),
        &[Root, User],
    ),
    row(
        "read through a leaked descriptor",
        "read_leaked",
        |w| Ok(w.secret_file("public")),
        With("EBADF"),
        &[Descriptors, Landlock],
    ),
    row(
        "read another function's code",
        "read_other",
        |w| Ok(w.secret_of_other("/var/task/secret")),
        With("ENOENT"),
        &[Pids, User, Landlock],
    ),
    row(
        "read another function's /tmp",
        "read_other",
        |w| Ok(w.secret_of_other("/tmp/secret")),
        With("ENOENT"),
        &[Pids, User, Landlock],
    ),
    row("open_by_handle_at", "open_by_handle", none, With("EPERM"), &[Seccomp, User]),
    // Writing.
    row("write /var/task", "write", |_| Ok(json!({ "directory": "/var/task" })), With("EROFS"), &[ReadOnly]),
    // By way of "..", because the root itself is not looked for among what was mounted over it.
    row(
        "write /",
        "write_below_root",
        |_| Ok(json!({ "directory": "/.." })),
        With("EROFS"),
        &[User, Seccomp, Landlock],
    ),
    row(
        "write /etc",
        "write_below_root",
        |_| Ok(json!({ "directory": "/etc" })),
        With("EROFS"),
        &[User, Seccomp, Landlock],
    ),
    row(
        "write /usr",
        "write_below_root",
        |_| Ok(json!({ "directory": "/usr/bin" })),
        With("EROFS"),
        &[User, Seccomp, Landlock],
    ),
    row("write /dev", "write_device_folder", none, With("EROFS"), &[User, Seccomp, Landlock]),
    row(
        "write /proc/sys",
        "write_file",
        |_| Ok(json!({ "path": "/proc/sys/kernel/hostname" })),
        With("EROFS"),
        &[ReadOnly, User, Landlock],
    ),
    row("write a host folder", "write", |w| Ok(w.host_folder("open")), With("ENOENT"), &[Root]),
    row(
        "write a host folder of root",
        "write",
        |w| Ok(w.host_folder("closed")),
        With("ENOENT"),
        &[Root, User],
    ),
    row("write cgroup files", "write_file", World::cgroup_file, With("ENOENT"), &[Root, User]),
    row("fill /tmp with bytes", "fill_bytes", |_| Ok(json!({ "size": 2 << 20 })), With("ENOSPC"), &[TmpSize]),
    row("fill /tmp with files", "fill_files", |_| Ok(json!({ "count": 1100 })), With("ENOSPC"), &[TmpSize]),
    // Mounts.
    row("mount", "mount_tmpfs", none, With("EPERM"), &[User, Seccomp, Landlock]),
    row("fsopen, move_mount", "mount_with_descriptors", none, With("EPERM"), &[User, Seccomp, Landlock]),
    row("umount", "unmount", none, With("EPERM"), &[User, Seccomp, Landlock]),
    row("pivot_root", "pivot_root", none, With("EPERM"), &[User, Seccomp, Landlock]),
    row("chroot", "chroot", none, With("EPERM"), &[User, Seccomp]),
    // Devices and /proc.
    row("mknod of a disk", "make_node", DISK, With("EPERM"), &[Seccomp, User, Landlock]),
    row(
        "mknod of a disk, and open it",
        "use_node",
        DISK,
        With("EPERM"),
        &[Seccomp, User, Landlock, MountFlags],
    ),
    row(
        "open a host disk",
        "open_node",
        |w| Ok(json!({ "path": format!("/tmp/host{}", w.disk()?.0) })),
        With("ENOENT"),
        &[Root, User],
    ),
    row(
        "read /proc/kallsyms",
        "read_file",
        |_| Ok(json!({ "path": "/proc/kallsyms" })),
        With("ENODATA"),
        &[ProcMasks],
    )
    .needs(&[Need::File("/proc/kallsyms")]),
    row(
        "read /proc/kcore",
        "read_file",
        |_| Ok(json!({ "path": "/proc/kcore" })),
        With("ENODATA"),
        &[ProcMasks, User],
    )
    .needs(&[Need::File("/proc/kcore")]),
    row(
        "write /proc/sysrq-trigger",
        "write_file",
        |_| Ok(json!({ "path": "/proc/sysrq-trigger" })),
        With("EACCES"),
        &[ProcMasks, ReadOnly, User, Landlock],
    )
    .needs(&[Need::File("/proc/sysrq-trigger")]),
    row(
        "TIOCSTI",
        "terminal",
        |w| Ok(json!({ "descriptor": w.terminal() })),
        With("EPERM"),
        &[Descriptors, Seccomp, User],
    ),
    // Privileges and limits.
    row("setuid(0)", "become_root", none, With("EPERM"), &[Seccomp, User]),
    row(
        "set-user-ID program",
        "set_user_id",
        |_| Ok(json!({ "path": "/var/task/python-of-root" })),
        With("EPERM"),
        &[NoNewPrivs, MountFlags],
    ),
    row("give a file to root", "give_away", none, With("EPERM"), &[User]),
    row("raise a limit", "raise_limit", none, With("EPERM"), &[User]).needs(&[SYS_RESOURCE]),
    row("raise the priority", "raise_priority", none, With("EACCES"), &[User]),
    row("personality", "change_personality", none, With("EPERM"), &[Seccomp]),
    // Namespaces.
    row("unshare: user", "unshare_user", none, With("EPERM"), &[Seccomp]).needs(USER_NAMESPACES),
    row("unshare: mount", "unshare_mounts", none, With("EPERM"), &[Seccomp, User]),
    row("unshare: network", "unshare_network", none, With("EPERM"), &[Seccomp, User]),
    row("clone with a user namespace", "clone_user", none, With("EPERM"), &[Seccomp]).needs(USER_NAMESPACES),
    row("clone3 with a user namespace", "clone3_user", none, With("ENOSYS"), &[Seccomp])
        .needs(USER_NAMESPACES),
    row("setns into the host's network", "join", bystander, With("ENOENT"), &[Pids, Seccomp, User, Landlock]),
    row("share the host's IPC", "same_namespace", |_| World::namespace("ipc"), With("EXDEV"), &[Ipc]),
    row("share the host's name", "same_namespace", |_| World::namespace("uts"), With("EXDEV"), &[Uts]),
    row("see its place among cgroups", "cgroup_place", none, With("EXDEV"), &[Cgroup])
        .needs(&[Need::CgroupKill]),
    // Kernel interfaces.
    row("bpf", "load_bpf", none, With("EPERM"), &[Seccomp, User]),
    row("perf_event_open", "measure", none, With("EPERM"), &[Seccomp, User]),
    row("add_key", "add_key", none, With("EPERM"), &[Seccomp]),
    row("io_uring_setup", "io_uring", none, With("ENOSYS"), &[Seccomp]).needs(&[IO_URING]),
    row("userfaultfd", "fault_handling", none, With("EPERM"), &[Seccomp]),
    row("32-bit system calls", "other_instruction_set", none, Killed(31), &[Seccomp]).needs(&[Need::X86]),
    row("kexec_load", "load_kernel", none, With("EPERM"), &[Seccomp, User]).needs(&[SYS_BOOT, KEXEC]),
    row("reboot", "restart_machine", none, With("EPERM"), &[Seccomp, User]).needs(&[SYS_BOOT]),
    row("swapon", "add_swap", none, With("EPERM"), &[Seccomp, User]),
    row("init_module", "load_module", none, With("EPERM"), &[Seccomp, User]).needs(&[SYS_MODULE, MODULES]),
    // Network.
    row("TCP to the host's loopback", "connect", |w| w.tcp("127.0.0.1"), With("ECONNREFUSED"), &[Network]),
    row("TCP to the host's IPv6 loopback", "connect", |w| w.tcp("::1"), With("ECONNREFUSED"), &[Network]),
    row("TCP to the host's address", "connect", |w| w.tcp("v4"), With("ENETUNREACH"), &[Network]),
    row("TCP to the host's IPv6 address", "connect", |w| w.tcp("v6"), With("ENETUNREACH"), &[Network]),
    row("UDP to the host's loopback", "datagram", |w| w.udp("127.0.0.1"), With("ECONNREFUSED"), &[Network]),
    row("UDP to the host's address", "datagram", |w| w.udp("v4"), With("ENETUNREACH"), &[Network]),
    row(
        "abstract socket of the host",
        "abstract_socket",
        |w| Ok(json!({ "name": w.abstract_name })),
        With("ECONNREFUSED"),
        &[Network, Landlock],
    )
    .needs(&[Need::LandlockScopes]),
    row(
        "Unix socket of the host",
        "unix_socket",
        |w| Ok(json!({ "path": w.dir().join("socket") })),
        With("ENOENT"),
        &[Root],
    ),
    row("raw socket", "raw_socket", none, With("EPERM"), &[Seccomp, User]),
    row("packet socket", "packet_socket", none, With("EPERM"), &[Seccomp, User]),
    row("vsock socket", "vsock_socket", none, With("EAFNOSUPPORT"), &[Seccomp])
        .needs(&[Need::File("/dev/vsock")]),
    row("give itself an address", "add_address", none, With("EPERM"), &[User]),
    // What is handed over.
    row(
        "find more descriptors",
        "descriptors",
        |_| Ok(json!({ "expected": [0, 1, 2, 3, 4] })),
        With("EBADF"),
        &[Descriptors],
    ),
    row(
        "find more variables",
        "environment",
        |_| Ok(json!({ "expected": ["HOME"] })),
        With("ENOENT"),
        &[Environment],
    ),
];
