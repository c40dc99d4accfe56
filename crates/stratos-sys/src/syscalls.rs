//! System call names and their numbers on the architecture this is built for.
//!
//! Profiles are written once for every architecture. A name that only x86_64 has (`open`) is known
//! everywhere and has no number elsewhere, so that a typing mistake is still an error.

/// What a profile's system call name stands for here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syscall {
    /// The call has this number.
    Number(u32),
    /// The name is right, but this architecture never had the call.
    Absent,
}

/// The system call `name`, or `None` when no architecture has such a call.
pub fn find(name: &str) -> Option<Syscall> {
    let number_in = |table: &[(&str, u32)]| {
        let at = table.binary_search_by(|(entry, _)| bare(entry).cmp(name)).ok()?;
        Some(Syscall::Number(table[at].1))
    };
    number_in(COMMON)
        .or_else(|| number_in(X86_64_NUMBERS))
        .or_else(|| number_in(UNIFIED))
        .or_else(|| X86_64_NAMES.iter().any(|entry| bare(entry) == name).then_some(Syscall::Absent))
}

/// The name of the system call with this number here; `None` of one that is newer than this table.
pub fn name(number: u32) -> Option<&'static str> {
    let mut entries = [COMMON, X86_64_NUMBERS, UNIFIED].into_iter().flatten();
    entries.find(|(_, n)| *n == number).map(|(entry, _)| bare(entry))
}

/// A table entry without the constants' prefix.
fn bare(entry: &str) -> &str {
    entry.strip_prefix("SYS_").unwrap_or(entry)
}

/// Makes a table of names and numbers out of the kernel's constants.
macro_rules! numbers {
    ($($constant:ident)*) => { &[$((stringify!($constant), libc::$constant as u32)),*] };
}

/// Makes the x86_64 list twice: its names for everyone, its numbers where they mean something.
macro_rules! x86_64_only {
    ($($constant:ident)*) => {
        const X86_64_NAMES: &[&str] = &[$(stringify!($constant)),*];
        #[cfg(target_arch = "x86_64")]
        const X86_64_NUMBERS: &[(&str, u32)] = numbers!($($constant)*);
        #[cfg(not(target_arch = "x86_64"))]
        const X86_64_NUMBERS: &[(&str, u32)] = &[];
    };
}

/// Calls that x86_64, aarch64 and riscv64 all have, sorted by name.
#[rustfmt::skip]
const COMMON: &[(&str, u32)] = numbers! {
    SYS_accept SYS_accept4 SYS_acct SYS_add_key SYS_adjtimex SYS_bind SYS_bpf SYS_brk SYS_capget
    SYS_capset SYS_chdir SYS_chroot SYS_clock_adjtime SYS_clock_getres SYS_clock_gettime
    SYS_clock_nanosleep SYS_clock_settime SYS_clone SYS_clone3 SYS_close SYS_close_range SYS_connect
    SYS_copy_file_range SYS_delete_module SYS_dup SYS_dup3 SYS_epoll_create1 SYS_epoll_ctl
    SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_execve SYS_execveat SYS_exit SYS_exit_group
    SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fallocate SYS_fanotify_init SYS_fanotify_mark
    SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr
    SYS_finit_module SYS_flistxattr SYS_flock SYS_fremovexattr SYS_fsconfig SYS_fsetxattr SYS_fsmount
    SYS_fsopen SYS_fspick SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex SYS_futex_waitv
    SYS_get_mempolicy SYS_get_robust_list SYS_getcpu SYS_getcwd SYS_getdents64 SYS_getegid SYS_geteuid
    SYS_getgid SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpid SYS_getppid
    SYS_getpriority SYS_getrandom SYS_getresgid SYS_getresuid SYS_getrusage SYS_getsid SYS_getsockname
    SYS_getsockopt SYS_gettid SYS_gettimeofday SYS_getuid SYS_getxattr SYS_init_module
    SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_io_cancel SYS_io_destroy
    SYS_io_getevents SYS_io_setup SYS_io_submit SYS_io_uring_enter SYS_io_uring_register
    SYS_io_uring_setup SYS_ioctl SYS_ioprio_get SYS_ioprio_set SYS_kcmp SYS_kexec_load SYS_keyctl
    SYS_kill SYS_landlock_add_rule SYS_landlock_create_ruleset SYS_landlock_restrict_self SYS_lgetxattr
    SYS_linkat SYS_listen SYS_listxattr SYS_llistxattr SYS_lookup_dcookie SYS_lremovexattr SYS_lseek
    SYS_lsetxattr SYS_madvise SYS_mbind SYS_membarrier SYS_memfd_create SYS_memfd_secret
    SYS_migrate_pages SYS_mincore SYS_mkdirat SYS_mknodat SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap
    SYS_mount SYS_mount_setattr SYS_move_mount SYS_move_pages SYS_mprotect SYS_mq_getsetattr
    SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend SYS_mq_unlink SYS_mremap SYS_msgctl
    SYS_msgget SYS_msgrcv SYS_msgsnd SYS_msync SYS_munlock SYS_munlockall SYS_munmap
    SYS_name_to_handle_at SYS_nanosleep SYS_newfstatat SYS_nfsservctl SYS_open_by_handle_at SYS_open_tree
    SYS_openat SYS_openat2 SYS_perf_event_open SYS_personality SYS_pidfd_getfd SYS_pidfd_open
    SYS_pidfd_send_signal SYS_pipe2 SYS_pivot_root SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect
    SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2 SYS_prlimit64 SYS_process_madvise
    SYS_process_mrelease SYS_process_vm_readv SYS_process_vm_writev SYS_pselect6 SYS_ptrace SYS_pwrite64
    SYS_pwritev SYS_pwritev2 SYS_quotactl SYS_quotactl_fd SYS_read SYS_readahead SYS_readlinkat SYS_readv
    SYS_reboot SYS_recvfrom SYS_recvmmsg SYS_recvmsg SYS_remap_file_pages SYS_removexattr SYS_renameat2
    SYS_request_key SYS_restart_syscall SYS_rseq SYS_rt_sigaction SYS_rt_sigpending SYS_rt_sigprocmask
    SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait SYS_rt_tgsigqueueinfo
    SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_getaffinity SYS_sched_getattr
    SYS_sched_getparam SYS_sched_getscheduler SYS_sched_rr_get_interval SYS_sched_setaffinity
    SYS_sched_setattr SYS_sched_setparam SYS_sched_setscheduler SYS_sched_yield SYS_seccomp SYS_semctl
    SYS_semget SYS_semop SYS_semtimedop SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto
    SYS_set_mempolicy SYS_set_mempolicy_home_node SYS_set_robust_list SYS_set_tid_address
    SYS_setdomainname SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups SYS_sethostname SYS_setitimer
    SYS_setns SYS_setpgid SYS_setpriority SYS_setregid SYS_setresgid SYS_setresuid SYS_setreuid
    SYS_setsid SYS_setsockopt SYS_settimeofday SYS_setuid SYS_setxattr SYS_shmat SYS_shmctl SYS_shmdt
    SYS_shmget SYS_shutdown SYS_sigaltstack SYS_signalfd4 SYS_socket SYS_socketpair SYS_splice SYS_statfs
    SYS_statx SYS_swapoff SYS_swapon SYS_symlinkat SYS_sync SYS_syncfs SYS_sysinfo SYS_syslog SYS_tee
    SYS_tgkill SYS_timer_create SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime
    SYS_timerfd_create SYS_timerfd_gettime SYS_timerfd_settime SYS_times SYS_tkill SYS_truncate SYS_umask
    SYS_umount2 SYS_uname SYS_unlinkat SYS_unshare SYS_userfaultfd SYS_utimensat SYS_vhangup SYS_vmsplice
    SYS_wait4 SYS_waitid SYS_write SYS_writev
};

// Calls of x86_64 only (or missing on one of the others), sorted by name.
x86_64_only! {
    SYS__sysctl SYS_access SYS_afs_syscall SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat
    SYS_dup2 SYS_epoll_create SYS_epoll_ctl_old SYS_epoll_wait SYS_epoll_wait_old SYS_eventfd
    SYS_fchmodat2 SYS_fork SYS_futimesat SYS_get_thread_area SYS_getdents SYS_getpgrp SYS_getpmsg
    SYS_getrlimit SYS_inotify_init SYS_ioperm SYS_iopl SYS_kexec_file_load SYS_lchown SYS_link SYS_lstat
    SYS_mkdir SYS_mknod SYS_modify_ldt SYS_open SYS_pause SYS_pipe SYS_poll SYS_putpmsg SYS_readlink
    SYS_rename SYS_renameat SYS_rmdir SYS_security SYS_select SYS_set_thread_area SYS_setrlimit
    SYS_signalfd SYS_stat SYS_symlink SYS_sync_file_range SYS_sysfs SYS_time SYS_tuxcall SYS_unlink
    SYS_uselib SYS_ustat SYS_utime SYS_utimes SYS_vfork SYS_vserver
}

/// Calls newer than the C library's constants. From 424 on, numbers are the same on every architecture.
const UNIFIED: &[(&str, u32)] = &[
    ("cachestat", 451),
    ("file_getattr", 468),
    ("file_setattr", 469),
    ("futex_requeue", 456),
    ("futex_wait", 455),
    ("futex_wake", 454),
    ("getxattrat", 464),
    ("listmount", 458),
    ("listns", 470),
    ("listxattrat", 465),
    ("lsm_get_self_attr", 459),
    ("lsm_list_modules", 461),
    ("lsm_set_self_attr", 460),
    ("map_shadow_stack", 453),
    ("mseal", 462),
    ("open_tree_attr", 467),
    ("removexattrat", 466),
    ("setxattrat", 463),
    ("statmount", 457),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_disjoint() {
        let mut all = Vec::new();
        for table in [COMMON, X86_64_NUMBERS, UNIFIED] {
            let names: Vec<&str> = table.iter().map(|(entry, _)| bare(entry)).collect();
            assert!(names.is_sorted(), "{names:?}");
            all.extend(table.iter().map(|(_, number)| *number));
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count, "two names share a number");
    }

    #[test]
    fn numbers_have_names() {
        assert_eq!((name(435), name(470), name(9999)), (Some("clone3"), Some("listns"), None));
        let read = COMMON.iter().find(|(entry, _)| *entry == "SYS_read").unwrap().1;
        assert_eq!(name(read), Some("read"));
    }

    #[test]
    fn names_resolve() {
        assert_eq!(find("clone3"), Some(Syscall::Number(435)));
        assert_eq!(find("listns"), Some(Syscall::Number(470)));
        assert_eq!(find("raed"), None);
        assert_eq!(find("SYS_read"), None);
        #[cfg(target_arch = "x86_64")]
        assert_eq!((find("read"), find("open")), (Some(Syscall::Number(0)), Some(Syscall::Number(2))));
        #[cfg(not(target_arch = "x86_64"))]
        assert_eq!(find("open"), Some(Syscall::Absent));
    }
}
