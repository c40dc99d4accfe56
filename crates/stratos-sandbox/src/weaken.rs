//! Switching off single defences, for tests only.
//!
//! An escape test is worth something only when the probe is first seen to succeed with the one defence missing that
//! it is meant to meet. The type is public only under the feature `weaken`, which no release build of the agent has;
//! it is used by `Sandbox::start_weakened` alone; every other start uses [`Weaken::default`], which weakens nothing.

/// Defences to leave out, one field each; `true` leaves it out.
#[cfg_attr(not(feature = "weaken"), expect(unreachable_pub, reason = "public under the feature only"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weaken {
    /// The process stays in the agent's PID namespace.
    pub pid_namespace: bool,
    /// The host's root stays visible, at `/tmp/host`.
    pub root_filesystem: bool,
    /// No Landlock ruleset.
    pub landlock: bool,
    /// No seccomp filter.
    pub seccomp: bool,
    /// The process keeps user 0 and the agent's capabilities.
    pub capabilities: bool,
    /// The process stays in the agent's network namespace, with the Runtime API listener there.
    pub network_namespace: bool,
    /// The function's folder can be written to: an overlay on memory, allowed by Landlock too. So can /proc, as far
    /// as the process's user and Landlock let it.
    pub read_only: bool,
    /// Set-user-ID files and device nodes count in the function's folder and in /tmp.
    pub mount_flags: bool,
    /// The entries of /proc that control the host are not covered.
    pub proc_masks: bool,
    /// Descriptors that the agent left open over exec stay open.
    pub descriptors: bool,
    /// No limit on the number of processes.
    pub nproc: bool,
    /// Executing a set-user-ID program may grant privileges.
    pub no_new_privs: bool,
    /// The process shares the agent's IPC namespace (System V shared memory, POSIX message queues).
    pub ipc: bool,
    /// The process shares the agent's host name.
    pub uts: bool,
    /// The process sees its cgroup's place in the host's tree.
    pub cgroup_namespace: bool,
    /// The end of the instance kills nothing. Its processes stay until the next sweep.
    pub end_kill: bool,
}
