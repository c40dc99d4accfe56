//! The sandbox's operations as system calls.

use std::ffi::CStr;

use stratos_restorer::abi::Call;
use stratos_setup::{Op, abi};

use super::{Arena, call};

const AT_FDCWD: u64 = -100_i64 as u64;
/// Where a folder is opened that a Landlock rule is for: a number that nothing else has.
const RULE_FD: u64 = 630;

/// Adds the calls of some operations. What they point to is put into the arena.
///
/// # Panics
/// At [`Op::Exec`]: an instance that is restored executes nothing.
pub(super) fn lower(ops: &[Op<'_>], arena: &mut Arena, calls: &mut Vec<Call>) {
    for op in ops {
        one(op, arena, calls);
    }
}

fn one(op: &Op<'_>, arena: &mut Arena, calls: &mut Vec<Call>) {
    let mut text = |text: &CStr| arena.text(text);
    let prctl = |option: i32, value: u64| call(libc::SYS_prctl, [option as u64, value]);
    let made = match *op {
        Op::SetNs { fd, kind } => call(libc::SYS_setns, [fd as u64, kind]),
        Op::Unshare(kinds) => call(libc::SYS_unshare, [kinds]),
        Op::SetHostname(name) => call(libc::SYS_sethostname, [arena.put(name), name.len() as u64]),
        Op::Mount { source, target, kind, flags, data } => {
            call(libc::SYS_mount, [text(source), text(target), text(kind), flags, text(data)])
        }
        Op::Bind { source, target, recursive } => {
            let flags = abi::MS_BIND | if recursive { abi::MS_REC } else { 0 };
            call(libc::SYS_mount, [text(source), text(target), 0, flags, 0])
        }
        Op::Reflag { target, flags } => {
            call(libc::SYS_mount, [0, text(target), 0, abi::MS_BIND | abi::MS_REMOUNT | flags, 0])
        }
        Op::MoveMount { fd, target } => {
            let empty = text(c"");
            let flags = u64::from(libc::MOVE_MOUNT_F_EMPTY_PATH);
            call(libc::SYS_move_mount, [fd as u64, empty, AT_FDCWD, text(target), flags])
        }
        Op::PivotRoot { new, old } => call(libc::SYS_pivot_root, [text(new), text(old)]),
        Op::Unmount { target, flags } => call(libc::SYS_umount2, [text(target), u64::from(flags)]),
        Op::Mkdir { path, mode } => {
            // It may exist; that it is there is shown by what comes after.
            call(libc::SYS_mkdirat, [AT_FDCWD, text(path), u64::from(mode)]).may_fail()
        }
        Op::Chdir(path) => call(libc::SYS_chdir, [text(path)]),
        Op::Umask(mask) => call(libc::SYS_umask, [u64::from(mask)]),
        Op::NewSession => call(libc::SYS_setsid, []),
        Op::Dup { from, to } => call(libc::SYS_dup3, [from as u64, to as u64, 0]),
        Op::CloseFrom(first) => call(libc::SYS_close_range, [first as u64, u64::from(u32::MAX), 0]),
        Op::Limit { resource, value } => {
            let limits = arena.words(&[value, value]);
            call(libc::SYS_prlimit64, [0, u64::from(resource), limits, 0])
        }
        Op::LandlockAllow { ruleset, path, access } => {
            // The kernel declares this structure packed.
            let mut rule = access.to_le_bytes().to_vec();
            rule.extend_from_slice(&(RULE_FD as u32).to_le_bytes());
            let path = arena.text(path);
            let rule = arena.put(&rule);
            let flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
            calls.push(call(libc::SYS_openat, [AT_FDCWD, path, flags]).keep(0));
            calls.push(call(libc::SYS_dup3, [0, RULE_FD, 0]).with(0, 0));
            calls.push(call(libc::SYS_close, [0]).with(0, 0));
            calls.push(call(libc::SYS_landlock_add_rule, [ruleset as u64, 1, rule, 0]));
            call(libc::SYS_close, [RULE_FD])
        }
        Op::LandlockRestrict { ruleset } => call(libc::SYS_landlock_restrict_self, [ruleset as u64, 0]),
        Op::NoNewPrivs => call(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0]),
        Op::KeepCaps => prctl(libc::PR_SET_KEEPCAPS, 1),
        Op::ClearAmbient => call(
            libc::SYS_prctl,
            [libc::PR_CAP_AMBIENT as u64, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0, 0, 0],
        ),
        Op::DropBounding { last } => {
            calls.extend((0..=last).map(|capability| prctl(libc::PR_CAPBSET_DROP, u64::from(capability))));
            return;
        }
        Op::SetCaps(bits) => set_caps(bits, arena),
        Op::DropGroups => call(libc::SYS_setgroups, [0, 0]),
        Op::SetGid(gid) => call(libc::SYS_setresgid, [u64::from(gid); 3]),
        Op::SetUid(uid) => call(libc::SYS_setresuid, [u64::from(uid); 3]),
        Op::Seccomp(filter) => {
            let mut instructions = Vec::with_capacity(filter.len() * 8);
            for instruction in filter {
                instructions.extend_from_slice(&instruction.code.to_le_bytes());
                instructions.extend_from_slice(&[instruction.jt, instruction.jf]);
                instructions.extend_from_slice(&instruction.k.to_le_bytes());
            }
            let instructions = arena.put(&instructions);
            let program = arena.words(&[filter.len() as u64, instructions]);
            // All threads at once: each was made before it.
            let (filter, every_thread) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
            call(libc::SYS_seccomp, [u64::from(filter), every_thread, program]).exact(0)
        }
        Op::UnblockSignals => {
            let none = arena.words(&[0]);
            call(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as u64, none, 0, 8])
        }
        Op::Exec { .. } => panic!("an instance that is restored executes nothing"),
    };
    calls.push(made);
}

/// capset(2), version 3: low and high words of three sets, of which the last is always empty.
pub(super) fn set_caps(bits: u64, arena: &mut Arena) -> Call {
    const VERSION_3: u64 = 0x2008_0522;
    let header = arena.words(&[VERSION_3]);
    let (low, high) = (bits as u32, (bits >> 32) as u32);
    let words: Vec<u8> = [low, low, 0, high, high, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    call(libc::SYS_capset, [header, arena.put(&words)])
}
