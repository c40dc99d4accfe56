//! The node's sandbox: what all instances share.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Resource, getrlimit};
use stratos_checkpoint::template::Template;
use stratos_sys::{landlock, mountns, process};

use crate::cgroup;
use crate::error::{JobError, MountError, OpenError, StartError};
use crate::features::{Features, ReservedCpus, erofs_reads_files, seccomp_available};
use crate::filesystem::Filesystem;
use crate::image::{Image, Images};
use crate::instance::Instance;
use crate::network::NetworkPool;
use crate::plan::{InstancePlan, JobOutput, JobPlan, SandboxConfig};
use crate::reaper::Reaper;
use crate::sweep;
use crate::uid::{NodeKey, UidPool};
use crate::weaken::Weaken;
use crate::{instance, job};

/// Open files of an instance, at most.
const OPEN_FILES: u64 = 65_536;

/// What instances refer to for as long as they live.
pub(crate) struct Node {
    pub(crate) features: Features,
    pub(crate) filesystem: Arc<Filesystem>,
    pub(crate) images: Arc<Images>,
    pub(crate) uids: Arc<UidPool>,
    pub(crate) open_files: u64,
    pub(crate) swap_percent: u8,
    pub(crate) last_capability: u32,
    // The reaper waits for the last instances when dropped, and gives back to the pool and the cgroup after it.
    pub(crate) reaper: Reaper,
    pub(crate) networks: NetworkPool,
    pub(crate) cgroups: Option<Cgroups>,
}

/// The node's cgroups: one for all instances, and where the machine keeps CPUs, one for those that ask for these.
pub(crate) struct Cgroups {
    shared: cgroup::Base,
    reserved: Result<cgroup::Reserved, String>,
    /// The shared one was made here and goes at the end.
    own: bool,
}

impl Cgroups {
    /// With a name, the cgroup of that name and `reserved` beside it; else one named after the node.
    fn open(root: &Path, name: Option<&str>, key: NodeKey) -> Result<Self, (PathBuf, io::Error)> {
        let shared = cgroup::Base::open(root, name.unwrap_or(&key.cgroup_name()))?;
        let reserved = match name {
            Some(_) => cgroup::Reserved::open(root)?,
            None => Err("this machine is not run by StratOS, which would keep CPUs for them".to_owned()),
        };
        Ok(Self { shared, reserved, own: name.is_none() })
    }

    fn sweep(&self) -> Result<usize, (PathBuf, io::Error)> {
        let swept = self.shared.sweep()?;
        Ok(swept + self.reserved.as_ref().map_or(Ok(0), |reserved| reserved.base.sweep())?)
    }

    /// Where an instance belongs.
    pub(crate) fn of(&self, reserved_cpus: bool) -> &cgroup::Base {
        match &self.reserved {
            Ok(reserved) if reserved_cpus => &reserved.base,
            _ => &self.shared,
        }
    }

    fn reserved_cpus(&self) -> ReservedCpus {
        match &self.reserved {
            Ok(reserved) => ReservedCpus::Kept(reserved.cpus.clone()),
            Err(reason) => ReservedCpus::None(reason.clone()),
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        if self.own
            && let Err(error) = self.shared.remove()
        {
            tracing::warn!(%error, "cannot remove the node's cgroup");
        }
    }
}

/// Starts instances and jobs. One per agent; share it behind an [`Arc`].
pub struct Sandbox {
    node: Arc<Node>,
}

impl Sandbox {
    /// Prepares the node and ends what a killed predecessor with the same state directory left. Only one sandbox may
    /// be open per state directory: the agent's lock on it sees to that.
    ///
    /// Call it from `main` before there are other threads: it moves the calling thread into a mount namespace of its
    /// own, which only threads started later share, and every method that mounts or starts must run on such a thread.
    ///
    /// # Errors
    /// See [`OpenError`]. With `require_limits`, a host that cannot enforce all limits is one.
    pub fn open(config: SandboxConfig) -> Result<Self, OpenError> {
        let key = NodeKey::of(&config.state_dir);
        let cgroup_root = cgroup::find_root()
            .map_err(|source| OpenError::Proc { path: "/proc/self/mountinfo".into(), source })?;
        let cgroups = cgroup_root
            .as_deref()
            .map(|root| Cgroups::open(root, config.cgroup.as_deref(), key))
            .transpose()
            .map_err(|(path, source)| OpenError::Cgroup { path, source })?;
        let features = features(&config, cgroup_root, cgroups.as_ref());
        let swept = match &cgroups {
            Some(cgroups) => cgroups.sweep().map_err(|(path, source)| OpenError::Sweep { path, source })?,
            // Only here: the ranges of two nodes on one host may be the same, their cgroups hardly are.
            None => sweep::by_user(&key.uids())
                .map_err(|source| OpenError::Sweep { path: "/proc".into(), source })?,
        };
        report_swept(swept);
        let missing = features.missing_limits();
        if config.require_limits && !missing.is_empty() {
            return Err(OpenError::LimitsMissing { missing });
        }
        process::harden().map_err(|source| OpenError::Proc { path: "/proc/self".into(), source })?;
        mountns::unshare_private().map_err(|source| OpenError::MountNamespace { source })?;
        let filesystem = Filesystem::prepare(&config.run_dir)
            .map(Arc::new)
            .map_err(|(path, source)| OpenError::RunDir { path, source })?;
        let last_capability = process::last_capability()
            .map_err(|source| OpenError::Proc { path: "/proc/sys/kernel/cap_last_cap".into(), source })?;
        let thread = |source| OpenError::Thread { source };
        let node = Node {
            images: Images::new(Arc::clone(&filesystem)),
            filesystem,
            features,
            uids: UidPool::new(key.uids()),
            // The limit cannot be raised without CAP_SYS_RESOURCE.
            open_files: getrlimit(Resource::Nofile).maximum.unwrap_or(OPEN_FILES).min(OPEN_FILES),
            last_capability,
            swap_percent: config.swap_percent,
            reaper: Reaper::start().map_err(thread)?,
            networks: NetworkPool::start(config.netns_pool).map_err(thread)?,
            cgroups,
        };
        Ok(Self { node: Arc::new(node) })
    }

    /// What the host offers.
    pub fn features(&self) -> &Features {
        &self.node.features
    }

    /// Memory that all instances together can have by the limit of the cgroup they are kept in, in bytes; `None` without
    /// such a limit.
    pub fn memory_limit(&self) -> Option<u64> {
        self.node.cgroups.as_ref()?.shared.memory_limit()
    }

    /// Folders of the cgroups (v2) below which the instances' own are.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let Some(cgroups) = &self.node.cgroups else { return Vec::new() };
        let reserved = cgroups.reserved.as_ref().ok().map(|reserved| &reserved.base);
        std::iter::once(&cgroups.shared).chain(reserved).map(|base| base.path().to_owned()).collect()
    }

    /// Mounts an EROFS image, or shares the mount that is there. It stays until the last owner drops it.
    ///
    /// # Errors
    /// See [`MountError`].
    pub fn mount_image(&self, image: &Path) -> Result<Arc<Image>, MountError> {
        self.node.images.mount(image)
    }

    /// Starts an instance. Blocks for the few milliseconds that takes.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left of the instance then.
    pub fn start(&self, plan: &InstancePlan) -> Result<Instance, StartError> {
        instance::start(&self.node, plan, None, &[], Weaken::default())
    }

    /// Restores an instance: it goes on where the checkpoint was taken that the template is made from, in a sandbox like
    /// any other. Blocks for the milliseconds that takes.
    ///
    /// `release` lies in its park pipe before it comes there, so that it goes on at once: at most [`MOST_RELEASED`] bytes.
    /// With none, it waits for what is written to that pipe.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left of the instance then.
    ///
    /// [`MOST_RELEASED`]: crate::MOST_RELEASED
    pub fn restore(
        &self,
        plan: &InstancePlan,
        template: &Template,
        release: &[u8],
    ) -> Result<Instance, StartError> {
        instance::start(&self.node, plan, Some(template), release, Weaken::default())
    }

    /// Starts an instance with some of its defences left out.
    ///
    /// # Errors
    /// As for [`Sandbox::start`].
    #[cfg(feature = "weaken")]
    pub fn start_weakened(&self, plan: &InstancePlan, weaken: Weaken) -> Result<Instance, StartError> {
        instance::start(&self.node, plan, None, &[], weaken)
    }

    /// Runs a job to its end. Blocks for all of that.
    ///
    /// # Errors
    /// See [`JobError`]. A program that ends with a code other than 0 is a result, not an error.
    pub fn run_job(&self, plan: &JobPlan) -> Result<JobOutput, JobError> {
        job::run(&self.node, plan)
    }
}

fn features(
    config: &SandboxConfig,
    cgroup_root: Option<std::path::PathBuf>,
    cgroups: Option<&Cgroups>,
) -> Features {
    let base = cgroups.map(|cgroups| &cgroups.shared);
    let unified = || ReservedCpus::None("this machine has no cgroup v2 hierarchy".to_owned());
    Features {
        reserved_cpus: cgroups.map_or_else(unified, Cgroups::reserved_cpus),
        cgroup_root,
        memory: base.is_some_and(|base| base.memory),
        cpu: base.is_some_and(|base| base.cpu),
        pids: base.is_some_and(|base| base.pids),
        cgroup_kill: base.is_some_and(|base| base.kill),
        landlock_abi: landlock::abi(),
        seccomp: seccomp_available(),
        erofs_files: erofs_reads_files(&config.state_dir),
    }
}

fn report_swept(count: usize) {
    if count > 0 {
        tracing::info!(count, "ended what a predecessor had left running");
    }
}
