//! The list of operations that turns a clone into an instance: the sandbox, read top to bottom.

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;

use stratos_setup::abi::{
    CLONE_NEWCGROUP, CLONE_NEWNET, MNT_DETACH, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, RLIMIT_CORE,
    RLIMIT_NOFILE, RLIMIT_NPROC, landlock,
};
use stratos_setup::{ArgList, BpfInstruction, CStrPtr, Op};
use stratos_sys::landlock::known_rights;

use crate::filesystem::Filesystem;
use crate::weaken::Weaken;

/// Rights on the read-only parts: everything below the root that no other rule names.
const READ: u64 = landlock::EXECUTE | landlock::READ_FILE | landlock::READ_DIR;
/// Rights on /dev beyond reading.
const DEVICE: u64 = landlock::READ_FILE | landlock::WRITE_FILE | landlock::IOCTL_DEV;
/// Rights in /tmp and on writable folders: everything but device nodes.
const WRITE: u64 = !(landlock::MAKE_CHAR | landlock::MAKE_BLOCK | landlock::IOCTL_DEV);

/// A folder of the host in the new root.
#[derive(Debug)]
pub(crate) struct Mounted {
    /// Path on the host.
    pub(crate) source: CString,
    /// Path in the instance without the leading slash, for the time before it is the root.
    pub(crate) relative: CString,
    /// Path in the instance.
    pub(crate) target: CString,
    /// Directories to make before, outermost first; relative too.
    pub(crate) parents: Vec<CString>,
    pub(crate) writable: bool,
}

/// What the list is made from. Lives in the parent for as long as the child runs the list.
pub(crate) struct Setup<'a> {
    pub(crate) filesystem: &'a Filesystem,
    pub(crate) layer: &'a CStr,
    pub(crate) function: Option<&'a CStr>,
    pub(crate) mounts: &'a [Mounted],
    pub(crate) tmp_options: &'a CStr,
    /// Options of the overlay that makes the function's folder writable, under `Weaken::read_only`.
    pub(crate) overlay_options: &'a CStr,
    pub(crate) cwd: &'a CStr,
    pub(crate) argv: &'a [CStrPtr<'a>],
    pub(crate) env: &'a [CStrPtr<'a>],
    pub(crate) hostname: &'a str,
    pub(crate) network: RawFd,
    /// Landlock ruleset and the kernel's ABI.
    pub(crate) landlock: Option<(RawFd, u32)>,
    /// Descriptors `0..` of the new process, by their numbers here, which must be at least as many.
    pub(crate) descriptors: &'a [RawFd],
    pub(crate) uid: u32,
    pub(crate) pids_max: u32,
    pub(crate) open_files: u64,
    pub(crate) last_capability: u32,
    pub(crate) seccomp: &'a [BpfInstruction],
    pub(crate) weaken: Weaken,
}

/// What turns a clone of a template into an instance, in three parts: the template's own steps lie between them.
pub(crate) struct Restored<'a> {
    /// Namespaces, root, descriptors, limits.
    pub(crate) setup: Vec<Op<'a>>,
    /// The change of user, which keeps the capabilities that are left.
    pub(crate) privileges: Vec<Op<'a>>,
    /// The system call filter.
    pub(crate) filter: Vec<Op<'a>>,
}

impl<'a> Setup<'a> {
    /// The same steps for an instance that is restored. Capabilities are given up by its threads, each for itself; the
    /// template has emptied the bounding set for all its instances.
    pub(crate) fn restored(&self) -> Restored<'a> {
        let mut setup = Vec::with_capacity(64);
        self.namespaces(&mut setup);
        self.root(&mut setup);
        self.landlock(&mut setup);
        self.place_descriptors(&mut setup);
        self.limits(&mut setup);
        let mut privileges = Vec::new();
        if !self.weaken.capabilities {
            privileges.push(Op::ClearAmbient);
            privileges.push(Op::DropGroups);
            privileges.push(Op::KeepCaps);
            privileges.push(Op::SetGid(self.uid));
            privileges.push(Op::SetUid(self.uid));
        }
        let filter = if self.weaken.seccomp { Vec::new() } else { vec![Op::Seccomp(self.seccomp)] };
        Restored { setup, privileges, filter }
    }

    /// The list, or `None` when it has no program to end with.
    pub(crate) fn operations(&self) -> Option<Vec<Op<'a>>> {
        let mut ops = Vec::with_capacity(64);
        self.namespaces(&mut ops);
        self.root(&mut ops);
        self.landlock(&mut ops);
        self.descriptors(&mut ops);
        self.limits(&mut ops);
        self.privileges(&mut ops);
        let path = self.argv_path()?;
        ops.push(Op::Exec { path, argv: ArgList::new(self.argv)?, envp: ArgList::new(self.env)? });
        Some(ops)
    }

    fn argv_path(&self) -> Option<&'a CStr> {
        self.argv.first()?.get()
    }

    /// Joins the prepared network; the rest came with the clone, but the cgroup namespace: made here it is rooted at
    /// the instance's own cgroup, which the clone has entered.
    fn namespaces(&self, ops: &mut Vec<Op<'a>>) {
        if !self.weaken.network_namespace {
            ops.push(Op::SetNs { fd: self.network, kind: CLONE_NEWNET });
        }
        if !self.weaken.cgroup_namespace {
            ops.push(Op::Unshare(CLONE_NEWCGROUP));
        }
        if !self.weaken.uts {
            ops.push(Op::SetHostname(self.hostname.as_bytes()));
        }
    }

    /// Builds the root from mounts that carry their flags (read-only, no devices, no set-user-ID) from the agent's
    /// namespace, then makes it the only filesystem there is.
    fn root(&self, ops: &mut Vec<Op<'a>>) {
        let filesystem = self.filesystem;
        ops.push(Op::Umask(0o022));
        ops.push(Op::Bind { source: self.layer, target: &filesystem.root, recursive: false });
        ops.push(Op::Chdir(&filesystem.root));
        ops.push(Op::Mount {
            source: c"proc",
            target: c"proc",
            kind: c"proc",
            flags: MS_NOSUID | MS_NODEV | MS_NOEXEC | if self.weaken.read_only { 0 } else { MS_RDONLY },
            data: c"",
        });
        for mask in filesystem.masks.iter().filter(|_| !self.weaken.proc_masks) {
            let source = if mask.directory { &filesystem.empty } else { &filesystem.null };
            ops.push(Op::Bind { source, target: mask.path, recursive: false });
        }
        ops.push(Op::Bind { source: &filesystem.dev, target: c"dev", recursive: false });
        ops.push(Op::Mount {
            source: c"tmpfs",
            target: c"tmp",
            kind: c"tmpfs",
            flags: if self.weaken.mount_flags { 0 } else { MS_NOSUID | MS_NODEV },
            data: self.tmp_options,
        });
        self.function(ops);
        for mounted in self.mounts {
            ops.extend(mounted.parents.iter().map(|path| Op::Mkdir { path, mode: 0o755 }));
            ops.push(Op::Bind { source: &mounted.source, target: &mounted.relative, recursive: false });
            let read_only = if mounted.writable { 0 } else { MS_RDONLY };
            ops.push(Op::Reflag { target: &mounted.relative, flags: MS_NOSUID | MS_NODEV | read_only });
        }
        if self.weaken.root_filesystem {
            ops.push(Op::Mkdir { path: c"tmp/host", mode: 0o755 });
            ops.push(Op::PivotRoot { new: c".", old: c"tmp/host" });
        } else {
            // The old root goes on top of the new one, and from there away.
            ops.push(Op::PivotRoot { new: c".", old: c"." });
            ops.push(Op::Unmount { target: c".", flags: MNT_DETACH });
        }
        ops.push(Op::Chdir(c"/"));
    }

    fn function(&self, ops: &mut Vec<Op<'a>>) {
        let Some(function) = self.function else {
            return;
        };
        if self.weaken.read_only {
            let scratch = &self.filesystem.scratch;
            ops.push(Op::Mount {
                source: c"tmpfs",
                target: scratch,
                kind: c"tmpfs",
                flags: 0,
                data: c"mode=0755",
            });
            ops.push(Op::Chdir(scratch));
            ops.push(Op::Umask(0));
            ops.push(Op::Mkdir { path: c"upper", mode: 0o777 });
            ops.push(Op::Mkdir { path: c"work", mode: 0o755 });
            ops.push(Op::Umask(0o022));
            ops.push(Op::Chdir(&self.filesystem.root));
            ops.push(Op::Mount {
                source: c"overlay",
                target: c"var/task",
                kind: c"overlay",
                flags: MS_NOSUID | MS_NODEV,
                data: self.overlay_options,
            });
        } else {
            ops.push(Op::Bind { source: function, target: c"var/task", recursive: false });
            if self.weaken.mount_flags {
                ops.push(Op::Reflag { target: c"var/task", flags: MS_RDONLY });
            }
        }
    }

    /// Rights go by the path a file is reached on, and the new root is at the start of each: one rule covers all that
    /// is mounted below, and nothing outside of it. Then the directory to start in, which needs no right.
    fn landlock(&self, ops: &mut Vec<Op<'a>>) {
        ops.push(Op::Chdir(self.cwd));
        ops.push(Op::NewSession);
        if !self.weaken.no_new_privs {
            ops.push(Op::NoNewPrivs);
        }
        let (Some((ruleset, abi)), false) = (self.landlock, self.weaken.landlock) else {
            return;
        };
        let known = known_rights(abi);
        let mut allow =
            |path, access: u64| ops.push(Op::LandlockAllow { ruleset, path, access: access & known });
        allow(c"/", READ);
        allow(c"/dev", DEVICE);
        allow(c"/tmp", WRITE);
        if self.weaken.read_only {
            allow(c"/var/task", WRITE);
        }
        for mounted in self.mounts.iter().filter(|mounted| mounted.writable) {
            allow(&mounted.target, WRITE);
        }
        ops.push(Op::LandlockRestrict { ruleset });
    }

    fn place_descriptors(&self, ops: &mut Vec<Op<'a>>) {
        ops.extend((0..).zip(self.descriptors).map(|(to, from)| Op::Dup { from: *from, to }));
    }

    fn descriptors(&self, ops: &mut Vec<Op<'a>>) {
        self.place_descriptors(ops);
        if !self.weaken.descriptors {
            ops.push(Op::CloseFrom(self.descriptors.len() as RawFd));
        }
    }

    fn limits(&self, ops: &mut Vec<Op<'a>>) {
        ops.push(Op::Limit { resource: RLIMIT_CORE, value: 0 });
        ops.push(Op::Limit { resource: RLIMIT_NOFILE, value: self.open_files });
        if !self.weaken.nproc {
            ops.push(Op::Limit { resource: RLIMIT_NPROC, value: u64::from(self.pids_max) });
        }
    }

    /// Gives up everything, the filter last: it need not allow what comes before it.
    fn privileges(&self, ops: &mut Vec<Op<'a>>) {
        ops.push(Op::UnblockSignals);
        if !self.weaken.capabilities {
            ops.push(Op::ClearAmbient);
            ops.push(Op::DropBounding { last: self.last_capability });
            ops.push(Op::DropGroups);
            if self.weaken.no_new_privs {
                self.user_without_no_new_privs(ops);
                return;
            }
            ops.push(Op::SetGid(self.uid));
            ops.push(Op::SetUid(self.uid));
            ops.push(Op::SetCaps(0));
        }
        if !self.weaken.seccomp {
            ops.push(Op::Seccomp(self.seccomp));
        }
    }

    /// Without no_new_privs, installing a filter takes CAP_SYS_ADMIN: it is kept over the change of user, and exec
    /// takes it away from a user other than root.
    fn user_without_no_new_privs(&self, ops: &mut Vec<Op<'a>>) {
        const CAP_SYS_ADMIN: u64 = 1 << 21;
        ops.push(Op::KeepCaps);
        ops.push(Op::SetGid(self.uid));
        ops.push(Op::SetUid(self.uid));
        if self.weaken.seccomp {
            ops.push(Op::SetCaps(0));
        } else {
            ops.push(Op::SetCaps(CAP_SYS_ADMIN));
            ops.push(Op::Seccomp(self.seccomp));
        }
    }
}
