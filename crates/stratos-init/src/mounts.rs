//! The file systems that the kernel makes up: what is mounted where, how, and why.

use std::ffi::CString;
use std::io;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};

use crate::error::InitError;
use crate::files;

const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// One mount.
pub struct Mount {
    /// Kind of file system.
    pub kind: &'static str,
    /// Where.
    pub place: &'static str,
    /// How.
    pub flags: MountFlags,
    /// Options of the file system.
    pub options: &'static str,
    /// Whether the machine cannot go on without.
    pub needed: bool,
    /// What for.
    pub reason: &'static str,
}

/// Every mount, in order. Those directly below `/` move along into the verified root, with what is below them.
pub const MOUNTS: &[Mount] = &[
    Mount {
        kind: "proc",
        place: "/proc",
        flags: PLAIN,
        options: "",
        needed: true,
        reason: "processes, sysctls, the kernel's command line",
    },
    Mount {
        kind: "sysfs",
        place: "/sys",
        flags: PLAIN,
        options: "",
        needed: true,
        reason: "disks, network interfaces, firmware tables",
    },
    Mount {
        kind: "devtmpfs",
        place: "/dev",
        flags: MountFlags::NOSUID,
        options: "mode=0755,size=4m",
        needed: true,
        reason: "device nodes, made by the kernel",
    },
    Mount {
        kind: "devpts",
        place: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: "mode=0620,ptmxmode=0666",
        needed: false,
        reason: "terminals of the debug layer's programs",
    },
    Mount {
        kind: "tmpfs",
        place: "/dev/shm",
        flags: PLAIN,
        options: "mode=1777,size=16m",
        needed: false,
        reason: "POSIX shared memory of the agent's helpers; functions have their own",
    },
    Mount {
        kind: "tmpfs",
        place: "/run",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: "mode=0755,size=25%,nr_inodes=256k",
        needed: true,
        reason: "sockets, mount points, and the instances' folders, gone with the boot",
    },
    Mount {
        kind: "tmpfs",
        place: "/tmp",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: "mode=1777,size=10%,nr_inodes=64k",
        needed: true,
        reason: "small temporary files of services; large ones go to /var/tmp",
    },
    Mount {
        kind: "cgroup2",
        place: "/sys/fs/cgroup",
        flags: PLAIN,
        options: "nsdelegate,memory_recursiveprot",
        needed: true,
        reason: "limits; a protection given to a group holds for what is in it",
    },
    Mount {
        kind: "bpf",
        place: "/sys/fs/bpf",
        flags: PLAIN,
        options: "mode=0700",
        needed: false,
        reason: "BPF programs that outlive who loaded them",
    },
    Mount {
        kind: "securityfs",
        place: "/sys/kernel/security",
        flags: PLAIN,
        options: "",
        needed: false,
        reason: "which security modules are in force, for the node's report",
    },
];

/// Mounts the table. Gives what could not be mounted and is not needed.
///
/// # Errors
/// When one that is needed cannot be mounted.
pub fn mount_all() -> Result<Vec<String>, InitError> {
    let mut lacking = Vec::new();
    for entry in MOUNTS {
        match mount_one(entry) {
            Ok(()) => {}
            Err(error) if entry.needed => return Err(error),
            Err(error) => lacking.push(error.chain()),
        }
    }
    Ok(lacking)
}

fn mount_one(entry: &Mount) -> Result<(), InitError> {
    match std::fs::create_dir(entry.place) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(InitError::file("make", entry.place, error)),
    }
    let operation = || format!("mount {} on {}", entry.kind, entry.place);
    let options = CString::new(entry.options).map_err(|_| InitError::invalid(entry.place, "has a zero"))?;
    match mount(entry.kind, entry.place, entry.kind, entry.flags, options.as_c_str()) {
        // The kernel mounts /dev by itself when it is told to (CONFIG_DEVTMPFS_MOUNT).
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(errno) => Err(InitError::system(operation(), errno)),
    }
}

/// Moves the mounts directly below `/` into a new root, which has the folders for them.
///
/// # Errors
/// When one cannot be moved.
pub fn move_into(root: &str) -> Result<(), InitError> {
    for entry in MOUNTS.iter().filter(|entry| !entry.place.trim_start_matches('/').contains('/')) {
        let to = format!("{root}{}", entry.place);
        mount_move(entry.place, to.as_str())
            .map_err(|errno| InitError::system(format!("move {} to {to}", entry.place), errno))?;
    }
    Ok(())
}

/// What is mounted, the newest last: places in /proc/self/mountinfo.
///
/// # Errors
/// When /proc is not mounted.
pub fn places() -> Result<Vec<String>, InitError> {
    const MOST: usize = 4 << 20;
    Ok(parse_places(&files::read_text("/proc/self/mountinfo", MOST)?))
}

/// The fifth field of each line, with the kernel's octal escapes undone.
fn parse_places(mountinfo: &str) -> Vec<String> {
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).collect()
}

fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let code = part.get(..3).and_then(|code| u8::from_str_radix(code, 8).ok());
        match code {
            Some(code) => {
                bytes.push(code);
                bytes.extend_from_slice(part.get(3..).unwrap_or_default().as_bytes());
            }
            None => {
                bytes.push(b'\\');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_after_what_it_lies_in() {
        for (index, entry) in MOUNTS.iter().enumerate() {
            assert!(!entry.reason.is_empty());
            let above = MOUNTS.iter().position(|other| {
                entry.place.strip_prefix(other.place).is_some_and(|rest| rest.starts_with('/'))
            });
            assert!(above.is_none_or(|above| above < index), "{}", entry.place);
        }
    }

    #[test]
    fn places_are_read_with_their_escapes() {
        let mountinfo = "22 1 0:21 / / ro - erofs /dev/dm-0 ro\n\
                         23 22 0:5 / /run/a\\040b\\134 rw shared:2 - tmpfs tmpfs rw\nshort line\n";
        assert_eq!(parse_places(mountinfo), ["/", "/run/a b\\"]);
        assert_eq!(unescape("\\"), "\\");
        assert_eq!(unescape("a\\9x"), "a\\9x");
    }
}
