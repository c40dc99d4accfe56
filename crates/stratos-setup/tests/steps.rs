//! Every step with a real child: what it changes, and how a failure is told. Root only.

use std::ffi::{CStr, CString};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};

use stratos_setup::abi::{
    CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS, MNT_DETACH, MS_NODEV, MS_NOSUID, MS_RDONLY, RLIMIT_CORE,
    RLIMIT_NOFILE, landlock,
};
use stratos_setup::{ArgList, BpfInstruction, CStrPtr, Op};
use stratos_sys::spawn::{SpawnError, spawn};

/// `BPF_RET | BPF_K` with `SECCOMP_RET_ALLOW`.
const ALLOW_ALL: [BpfInstruction; 1] = [BpfInstruction { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 }];

/// True when the test can run; with `CI=true` it must.
fn root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var("CI").as_deref() != Ok("true"), "{test} must run in CI: not root");
    if !root {
        eprintln!("skipped: {test}: not root");
    }
    root
}

/// Runs `ops`, then a shell with `script`; what it printed.
fn shell(namespaces: u64, ops: &[Op<'_>], script: &str) -> Result<String, SpawnError> {
    let (mut output, write) = std::io::pipe().unwrap();
    let write = rustix::io::fcntl_dupfd_cloexec(OwnedFd::from(write), 64).unwrap();
    let script = CString::new(script).unwrap();
    let argv: Vec<CStrPtr<'_>> =
        [c"sh", c"-c", &script].into_iter().map(CStrPtr::from).chain([CStrPtr::NULL]).collect();
    let envp = [CStrPtr::from(c"PATH=/usr/bin:/bin"), CStrPtr::NULL];
    let mut list =
        vec![Op::Dup { from: write.as_raw_fd(), to: 1 }, Op::Dup { from: write.as_raw_fd(), to: 2 }];
    list.extend_from_slice(ops);
    list.push(Op::CloseFrom(3));
    list.push(Op::Exec {
        path: c"/bin/sh",
        argv: ArgList::new(&argv).unwrap(),
        envp: ArgList::new(&envp).unwrap(),
    });
    let child = spawn(namespaces, None, &list)?;
    drop(write);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    stratos_sys::process::wait(&child.pidfd).unwrap();
    Ok(text.trim().to_owned())
}

fn check(namespaces: u64, ops: &[Op<'_>], script: &str, prints: &str) {
    let printed = shell(namespaces, ops, script).unwrap_or_else(|error| panic!("{script}: {error:?}"));
    assert_eq!(printed, prints, "{script}");
}

#[test]
fn each_step_does_what_it_says() {
    if !root("each_step_does_what_it_says") {
        return;
    }
    let status = |field: &str| format!("sed -n 's/^{field}:[[:space:]]*//p' /proc/self/status");
    check(CLONE_NEWPID, &[], "echo $$", "1");
    check(CLONE_NEWUTS, &[Op::SetHostname(b"named")], "cat /proc/sys/kernel/hostname", "named");
    check(
        0,
        &[Op::Unshare(CLONE_NEWUTS), Op::SetHostname(b"other")],
        "cat /proc/sys/kernel/hostname",
        "other",
    );
    check(0, &[Op::Chdir(c"/usr")], "pwd", "/usr");
    check(0, &[Op::Umask(0o027)], "umask", "0027");
    check(0, &[Op::Limit { resource: RLIMIT_NOFILE, value: 77 }], "ulimit -n; ulimit -H -n", "77\n77");
    check(0, &[Op::Limit { resource: RLIMIT_CORE, value: 0 }], "ulimit -c", "0");
    check(0, &[Op::NoNewPrivs], &status("NoNewPrivs"), "1");
    check(0, &[Op::NoNewPrivs, Op::Seccomp(&ALLOW_ALL)], &status("Seccomp"), "2");
    check(0, &[Op::DropBounding { last: 40 }], &status("CapBnd"), "0000000000000000");
    check(0, &[Op::DropGroups, Op::SetGid(7), Op::SetUid(8)], "id -u; id -g", "8\n7");
    check(0, &[Op::SetUid(8)], &status("CapEff"), "0000000000000000");
    check(0, &[Op::NewSession, Op::UnblockSignals], "kill -TERM $$; echo alive", "");
}

#[test]
fn a_root_is_swapped_and_the_old_one_goes() {
    if !root("a_root_is_swapped_and_the_old_one_goes") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let new = CString::new(dir.path().to_str().unwrap()).unwrap();
    let mount = |target, data: &'static CStr| Op::Mount {
        source: c"tmpfs",
        target,
        kind: c"tmpfs",
        flags: MS_NOSUID | MS_NODEV,
        data,
    };
    let bind = |source, target| Op::Bind { source, target, recursive: false };
    // /lib and the like are links into /usr where distributions have merged the two.
    let mut ops = vec![mount(&*new, c"mode=0755"), Op::Chdir(&new)];
    for (source, target) in [(c"/usr", c"usr"), (c"/bin", c"bin"), (c"/lib", c"lib"), (c"/lib64", c"lib64")] {
        ops.push(Op::Mkdir { path: target, mode: 0o755 });
        ops.push(bind(source, target));
    }
    ops.push(Op::Mkdir { path: c"usr", mode: 0o755 });
    ops.push(Op::Reflag { target: c"usr", flags: MS_RDONLY | MS_NOSUID });
    ops.push(Op::PivotRoot { new: c".", old: c"." });
    ops.push(Op::Unmount { target: c".", flags: MNT_DETACH });
    ops.push(Op::Chdir(c"/"));
    check(CLONE_NEWNS, &ops, "echo *; touch /usr/x 2>&1 | grep -o Read-only", "bin lib lib64 usr\nRead-only");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "mounts of the child reach nobody else");
}

#[test]
fn landlock_grants_what_the_rules_say() {
    if !root("landlock_grants_what_the_rules_say") {
        return;
    }
    let abi = stratos_sys::landlock::abi();
    if abi == 0 {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "CI has Landlock");
        eprintln!("skipped: landlock_grants_what_the_rules_say: no Landlock");
        return;
    }
    let ruleset = stratos_sys::landlock::ruleset(abi).unwrap();
    let fd = ruleset.as_raw_fd();
    let read = landlock::EXECUTE | landlock::READ_FILE | landlock::READ_DIR;
    let allow = |path| Op::LandlockAllow { ruleset: fd, path, access: read };
    let ops = [
        allow(c"/usr"),
        allow(c"/bin"),
        allow(c"/lib"),
        allow(c"/lib64"),
        allow(c"/etc/ld.so.cache"),
        Op::NoNewPrivs,
        Op::LandlockRestrict { ruleset: fd },
    ];
    // A file takes no right that only directories have.
    let Err(SpawnError::Step { index, source }) = shell(0, &ops, "true") else { panic!("taken") };
    assert_eq!((index, source.raw_os_error()), (6, Some(22)));
    let ops: Vec<_> = ops.into_iter().filter(|op| op.path() != Some(c"/etc/ld.so.cache")).collect();
    check(0, &ops, "cd /usr && ls -d bin; cat /etc/passwd 2>&1 | tail -c 18", "bin\nPermission denied");
}

#[test]
fn the_failed_step_and_its_errno_are_told() {
    if !root("the_failed_step_and_its_errno_are_told") {
        return;
    }
    for (op, errno) in [
        (Op::Chdir(c"/missing"), 2),
        (Op::Mkdir { path: c"/missing/a", mode: 0o755 }, 2),
        (Op::SetNs { fd: 1000, kind: 0 }, 9),
        (Op::Dup { from: 1000, to: 1 }, 9),
        (Op::MoveMount { fd: 1000, target: c"/" }, 9),
        (Op::Unmount { target: c"/missing", flags: 0 }, 2),
        (Op::PivotRoot { new: c"/missing", old: c"/missing" }, 2),
        (Op::Seccomp(&[]), 22),
        (Op::LandlockAllow { ruleset: 1000, path: c"/missing", access: 1 }, 2),
        (Op::SetHostname(&[b'x'; 65]), 22),
    ] {
        let Err(SpawnError::Step { index, source }) = shell(CLONE_NEWNS | CLONE_NEWUTS, &[op], "true") else {
            panic!("{op:?} did not fail");
        };
        // Two steps of the helper come first.
        assert_eq!((index, source.raw_os_error()), (2, Some(errno)), "{op:?}");
        assert!(!op.name().is_empty());
    }
}

#[test]
fn credentials_of_the_parent_stay() {
    if !root("credentials_of_the_parent_stay") {
        return;
    }
    let before = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let credentials = |status: &str| {
        // SigQ counts what is queued for the user, in every process of his.
        let kept = |line: &&str| {
            let is = |name: &str| line.starts_with(name);
            is("Uid") || is("Cap") || (is("Sig") && !is("SigQ"))
        };
        status.lines().filter(kept).map(str::to_owned).collect::<Vec<_>>()
    };
    check(
        0,
        &[Op::DropBounding { last: 40 }, Op::SetUid(8), Op::SetCaps(0), Op::UnblockSignals],
        "id -u",
        "8",
    );
    let after = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    assert_eq!(credentials(&before), credentials(&after));
}

#[test]
fn only_null_terminated_vectors_are_argument_lists() {
    let text = CStrPtr::from(c"a");
    assert!(ArgList::new(&[]).is_none());
    assert!(ArgList::new(&[text]).is_none());
    assert!(ArgList::new(&[CStrPtr::NULL, CStrPtr::NULL]).is_none());
    assert!(ArgList::new(&[text, CStrPtr::NULL]).is_some());
}
