//! What to run, in full: the sandbox adds no choices of its own.

use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stratos_sys::process::Exit;

use crate::egress::EgressPolicy;
use crate::image::Image;
use crate::seccomp::SeccompFilter;

/// How a node runs sandboxes.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// The agent's state directory. Only its path matters: it names the cgroup and the user IDs, so that a restarted
    /// agent finds what its predecessor left and two agents on a host stay apart. It must exist.
    pub state_dir: PathBuf,
    /// Directory for mount points. It is made if missing, and covered by a tmpfs that only the agent sees.
    pub run_dir: PathBuf,
    /// Refuse to open on a host that cannot enforce memory, CPU and process limits.
    pub require_limits: bool,
    /// Network namespaces kept ready.
    pub netns_pool: usize,
    /// Cgroup below the hierarchy's root in which instances are kept, such as `functions`. It and all that is in it
    /// belong to this node alone: what is found there at the start is ended. It stays at the end. Without a name the
    /// node makes one of its own and removes it.
    pub cgroup: Option<String>,
    /// What an instance may have in swap, besides its memory: in percent of its memory limit.
    pub swap_percent: u8,
}

/// One function instance.
pub struct InstancePlan {
    /// Name of the instance: letters, digits, `-`, `_` and `.`; unique among the running ones. It names the cgroup.
    pub id: String,
    /// The runtime layer, its root.
    pub layer: Arc<Image>,
    /// The function's files, at `/var/task`.
    pub function: Arc<Image>,
    /// The program, by its path in the instance, and its arguments. The first is both path and name.
    pub argv: Vec<CString>,
    /// Its environment, `KEY=VALUE`.
    pub env: Vec<CString>,
    /// Memory limit, bytes.
    pub memory_bytes: u64,
    /// CPU time per time, in thousandths of one CPU; `None` for no limit.
    pub cpu_millis: Option<u32>,
    /// Runs on the CPUs that are kept for such instances, where the node has them; else with all others.
    pub reserved_cpus: bool,
    /// Processes and threads.
    pub pids_max: u32,
    /// Size of `/tmp`, bytes.
    pub tmp_bytes: u64,
    /// System calls that it may make.
    pub seccomp: Arc<SeccompFilter>,
    /// Destinations that it may reach; `None` for none at all.
    pub egress: Option<Arc<EgressPolicy>>,
    /// Host name that it sees, at most 64 bytes.
    pub hostname: String,
}

/// A folder of the host shown to a job.
#[derive(Clone, Debug)]
pub struct Bind {
    /// The folder or file on the host.
    pub source: PathBuf,
    /// Where the job sees it: an absolute path that exists in the layer, or one under `/tmp`, which is made.
    pub target: String,
    /// The job may write to it. What is in it then belongs to the job's user from the start of the job on.
    pub writable: bool,
}

/// Called with each piece of a job's output as it comes.
pub type OnOutput = Box<dyn Fn(&[u8]) + Send + Sync>;

/// One build job: a program that runs to its end.
pub struct JobPlan {
    /// Name of the job, under the rules of [`InstancePlan::id`].
    pub id: String,
    /// Its root.
    pub layer: Arc<Image>,
    /// Folders of the host shown to it.
    pub binds: Vec<Bind>,
    /// The program, by its path in the job, and its arguments.
    pub argv: Vec<CString>,
    /// Its environment, `KEY=VALUE`.
    pub env: Vec<CString>,
    /// Working directory.
    pub cwd: String,
    /// Memory limit, bytes; `/tmp` is limited to the same.
    pub memory_bytes: u64,
    /// Time after which it is killed.
    pub timeout: Duration,
    /// System calls that it may make.
    pub seccomp: Arc<SeccompFilter>,
    /// Destinations that it may reach; `None` for none at all.
    pub egress: Option<Arc<EgressPolicy>>,
    /// Bytes of output kept for [`JobOutput`]: the last ones.
    pub output_limit: usize,
    /// Called with all of the output as it comes.
    pub on_output: Option<OnOutput>,
}

/// The result of a job that ran to its end.
#[derive(Clone, Debug)]
pub struct JobOutput {
    /// How it ended. A code other than 0 is a result too.
    pub exit: Exit,
    /// The end of what it printed to stdout and stderr, in the order it came.
    pub output: Vec<u8>,
    /// It was killed for exceeding its memory.
    pub oom_killed: bool,
}
