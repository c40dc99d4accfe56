//! Running a program with a build tree as its root.
//!
//! The program sees the locked packages at `/`, read-only, and what was bound into them at fixed places, so that
//! nothing of the host's programs, folders, environment, umask or network gets into what it makes. It runs in
//! namespaces of its own (mounts, processes, network), which the kernel takes down with the last process in them;
//! util-linux's `unshare` and the short script below set them up. As root this needs nothing else, inside a container
//! or a chroot too; a user needs a kernel that lets users make namespaces.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Mounts the tree and what is bound into it, and starts the program. Arguments: where the root is to be mounted, the
/// tree, for each bind `ro` or `rw`, its source and its place, `--`, and what `env -i` takes.
const SCRIPT: &str = r#"
set -eu
umask 022
PATH=$PATH:/usr/sbin:/sbin
root=$1 tree=$2
shift 2
read_only() {
    # The second form is for a user's namespace, which may not drop what the host has set.
    mount -o remount,bind,ro "$1" 2>/dev/null || mount -o remount,bind,ro,nosuid,nodev "$1"
}
# The root of a chroot is no mount point, so this may fail; then all goes when the script ends.
mount --make-rprivate / 2>/dev/null || trap 'umount -l "$root"' EXIT
mount --bind "$tree" "$root"
mount --make-private "$root"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for name in null zero full random urandom; do
    : >"$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
ln -s /proc/self/fd "$root/dev/fd"
mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
while [ "$1" != -- ]; do
    mount --bind "$2" "$root$3"
    [ "$1" = rw ] || read_only "$root$3"
    shift 3
done
shift
read_only "$root"
chroot "$root" /usr/bin/env -i "$@"
"#;

/// A build tree, and what is bound into it.
#[derive(Debug, Clone)]
pub(crate) struct Inside {
    tree: PathBuf,
    root: PathBuf,
    binds: Vec<(&'static str, PathBuf, String)>,
    variables: Vec<(String, String)>,
}

impl Inside {
    /// The tree at `tree`; `root` is an empty folder to mount it on.
    pub(crate) fn new(tree: &Path, root: &Path) -> Self {
        let fixed = [
            ("PATH", "/usr/bin:/usr/sbin"),
            ("LC_ALL", "C.UTF-8"),
            ("TZ", "UTC"),
            ("HOME", "/tmp"),
            // Some time: only that it is always the same matters.
            ("SOURCE_DATE_EPOCH", "1767225600"),
        ];
        let variables = fixed.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Self { tree: tree.to_owned(), root: root.to_owned(), binds: Vec::new(), variables }
    }

    /// Binds a folder of the host read-only at a place in the tree.
    pub(crate) fn read(mut self, folder: &Path, place: &str) -> Self {
        self.binds.push(("ro", folder.to_owned(), place.to_owned()));
        self
    }

    /// Binds a folder of the host at a place in the tree, to be written to.
    pub(crate) fn write(mut self, folder: &Path, place: &str) -> Self {
        self.binds.push(("rw", folder.to_owned(), place.to_owned()));
        self
    }

    /// Sets an environment variable.
    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A command that runs a program inside, in the folder `/build`.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        // A build whose caller was killed must not go on writing where the next one works.
        command.args(["--pdeathsig", "KILL", "unshare"]);
        // The caller's own propagation is changed by the script, which knows what to do in a chroot.
        command.args(["--mount", "--propagation", "unchanged", "--pid", "--fork", "--kill-child"]);
        command.args(["--net", "--ipc"]);
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--", "/bin/sh", "-c", SCRIPT, "inside"]).arg(&self.root).arg(&self.tree);
        for (mode, from, to) in &self.binds {
            command.arg(mode).arg(from).arg(to);
        }
        command.args(["--", "--chdir=/build"]);
        command.args(self.variables.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(program);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    /// A tree that has the host's own programs bound in, and the place to mount it on.
    fn inside(folder: &Path) -> Inside {
        let tree = folder.join("tree");
        for part in ["usr", "dev", "proc", "tmp", "build/out"] {
            fs::create_dir_all(tree.join(part)).unwrap();
        }
        for part in ["root", "out"] {
            fs::create_dir(folder.join(part)).unwrap();
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), tree.join(link)).unwrap();
        }
        let inside = Inside::new(&tree, &folder.join("root")).read(Path::new("/usr"), "/usr");
        inside.write(&folder.join("out"), "/build/out").variable("CHOSEN", "a b")
    }

    #[test]
    fn a_program_sees_the_tree_alone_and_leaves_nothing_but_what_it_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let inside = inside(folder.path());
        let tried = crate::run::output(&mut inside.command("true"));
        if let Err(error) = tried.as_ref()
            && error.to_string().contains("unshare: ")
        {
            println!("skipped: this machine lets nobody but root make namespaces ({error})");
            return;
        }
        let script = "pwd; umask; echo $CHOSEN $TZ $LC_ALL $SOURCE_DATE_EPOCH; ls /; ls /dev; cat /proc/self/comm; \
                      ls /proc | grep -c '^[0-9]'; grep -c : /proc/net/dev; \
                      touch /new /usr/new 2>/dev/null || echo read-only; touch /tmp/new; echo made >/build/out/file";
        let output = crate::run::output(inside.command("sh").args(["-c", script])).unwrap();
        let expected = "/build\n0022\na b UTC C.UTF-8 1767225600\nbin\nbuild\ndev\nlib\nlib64\nproc\nsbin\ntmp\nusr\n\
                        fd\nfull\nnull\nrandom\nurandom\nzero\ncat\n4\n1\nread-only\n";
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
        assert_eq!(fs::read_to_string(folder.path().join("out/file")).unwrap(), "made\n");
        assert_eq!(fs::read_dir(folder.path().join("root")).unwrap().count(), 0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(folder.path().to_str().unwrap()), "{mounts}");
        let error =
            crate::run::output(inside.command("sh").args(["-c", "echo why >&2; exit 7"])).unwrap_err();
        assert!(error.to_string().ends_with("exit status: 7: why"), "{error}");
    }
}
