//! What the attempts are aimed at: a sandbox, and things on the host that no instance may reach.

use std::ffi::CString;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};
use stratos_sandbox::{Image, Instance, InstancePlan, Sandbox, SandboxConfig, SeccompFilter};

/// The sandbox and its targets.
pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    layer: Arc<Image>,
    function: Arc<Image>,
    other: Arc<Image>,
    /// A process of root on the host.
    pub(crate) bystander: Child,
    /// An instance of another function, and its end of the channel that keeps it.
    pub(crate) neighbour: Option<(Instance, OwnedFd)>,
    /// In every secret.
    secret: String,
    pub(crate) abstract_name: String,
    tcp: Vec<SocketAddr>,
    udp: Vec<SocketAddr>,
    /// Master and slave; the slave stays open over exec, as does the directory.
    terminal: (OwnedFd, OwnedFd),
    _open_directory: OwnedFd,
    dir: tempfile::TempDir,
}

pub(crate) fn sandbox(dir: &Path) -> Sandbox {
    let config = SandboxConfig {
        state_dir: dir.to_owned(),
        run_dir: dir.join("run"),
        require_limits: false,
        netns_pool: 2,
        cgroup: None,
        swap_percent: 0,
    };
    Sandbox::open(config).expect("the sandbox opens")
}

fn python_layer() -> PathBuf {
    let layers = stratos_tests::layers_dir();
    let manifest = layers.join("python3.13.json");
    let text = fs::read(&manifest)
        .unwrap_or_else(|e| panic!("{}: {e}; build it with `stratos layer build`", manifest.display()));
    let manifest: Value = serde_json::from_slice(&text).expect("a layer's manifest is JSON");
    layers.join(manifest["image"].as_str().expect("a layer's manifest names its image"))
}

fn image(dir: &Path, name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
    let source = dir.join(name);
    fs::create_dir(&source).unwrap();
    fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).unwrap();
    fill(&source);
    let image = dir.join(format!("{name}.erofs"));
    let made = Command::new("mkfs.erofs").arg("--quiet").arg(&image).arg(&source).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    image
}

fn put(path: &Path, contents: &[u8], mode: u32) {
    fs::write(path, contents).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// An address of this machine that others could reach; looking for the route sends nothing.
fn own_address(local: &str, far: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind(local).ok()?;
    socket.connect(far).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Answers on TCP and UDP, until the test ends.
fn listen(addresses: &[IpAddr]) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let mut tcp = Vec::new();
    let mut udp = Vec::new();
    for address in addresses {
        let Ok(listener) = TcpListener::bind((*address, 0)) else { continue };
        tcp.push(listener.local_addr().unwrap());
        std::thread::spawn(move || {
            // A caller that is gone already is no matter.
            listener.incoming().flatten().for_each(|mut stream| drop(stream.write_all(b"hello")));
        });
        let socket = UdpSocket::bind((*address, 0)).unwrap();
        udp.push(socket.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut bytes) {
                drop(socket.send_to(b"hello", from));
            }
        });
    }
    (tcp, udp)
}

fn listen_unix(listener: UnixListener) {
    std::thread::spawn(move || {
        listener.incoming().flatten().for_each(|mut stream| drop(stream.write_all(b"hello")));
    });
}

/// A process of a user that does nothing until it is killed.
pub(crate) fn sleeper(uid: u32) -> Child {
    let mut command = Command::new("sleep");
    command.arg("86400").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.uid(uid).gid(uid).spawn().expect("sleep starts")
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("stratos-escape-").tempdir().unwrap();
        let path = dir.path();
        let mut random = [0; 8];
        fs::File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
        let secret = format!("stratos-secret-{:x}", u64::from_le_bytes(random));
        // Nothing but the sandbox may keep an instance out.
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        put(&path.join("public"), secret.as_bytes(), 0o644);
        put(&path.join("private"), secret.as_bytes(), 0o600);
        for (folder, mode) in [("open", 0o777), ("closed", 0o755)] {
            fs::create_dir(path.join(folder)).unwrap();
            fs::set_permissions(path.join(folder), fs::Permissions::from_mode(mode)).unwrap();
        }
        let loopback = ["127.0.0.1", "::1"].map(|address| address.parse().unwrap());
        let own = [own_address("0.0.0.0:0", "198.51.100.1:9"), own_address("[::]:0", "[2001:db8::1]:9")]
            .into_iter();
        let addresses: Vec<_> = loopback.into_iter().chain(own.flatten()).collect();
        let (tcp, udp) = listen(&addresses);
        listen_unix(UnixListener::bind_addr(&UnixAddr::from_abstract_name(&secret).unwrap()).unwrap());
        listen_unix(UnixListener::bind(path.join("socket")).unwrap());
        fs::set_permissions(path.join("socket"), fs::Permissions::from_mode(0o777)).unwrap();
        let sandbox = sandbox(path);
        let layer = sandbox.mount_image(&python_layer()).unwrap();
        let probe = include_bytes!("probe.py");
        let function = image(path, "function", |source| {
            put(&source.join("probe.py"), probe, 0o644);
            let python = fs::read(layer.mount_point().join("usr/bin/python3.13")).unwrap();
            put(&source.join("python-of-root"), &python, 0o4755);
        });
        let other = image(path, "other", |source| {
            put(&source.join("probe.py"), probe, 0o644);
            put(&source.join("secret"), secret.as_bytes(), 0o644);
        });
        let mut world = Self {
            function: sandbox.mount_image(&function).unwrap(),
            other: sandbox.mount_image(&other).unwrap(),
            sandbox,
            layer,
            bystander: sleeper(0),
            neighbour: None,
            abstract_name: secret.clone(),
            secret,
            tcp,
            udp,
            terminal: pseudo_terminal(),
            _open_directory: rustix::fs::open("/", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
                .unwrap(),
            dir,
        };
        world.start_neighbour();
        world
    }

    fn start_neighbour(&mut self) {
        let mut plan = self.plan("neighbour");
        plan.function = Arc::clone(&self.other);
        let mut instance = self.sandbox.start(&plan).unwrap();
        let park = instance.take_park();
        crate::run::tell(&park, &json!({ "probe": "hold", "secret": self.secret }));
        crate::run::status(&mut instance);
        self.neighbour = Some((instance, park));
    }

    /// A plan that runs the probe with every defence on.
    pub(crate) fn plan(&self, id: &str) -> InstancePlan {
        let strings = |texts: &[&str]| texts.iter().map(|t| CString::new(*t).unwrap()).collect();
        InstancePlan {
            id: id.into(),
            layer: Arc::clone(&self.layer),
            function: Arc::clone(&self.function),
            argv: strings(&["/usr/bin/python3.13", "-I", "-S", "/var/task/probe.py"]),
            env: strings(&["HOME=/tmp"]),
            memory_bytes: 128 << 20,
            cpu_millis: None,
            reserved_cpus: false,
            pids_max: 32,
            tmp_bytes: 1 << 20,
            seccomp: Arc::new(SeccompFilter::for_runtime("python3.13").unwrap()),
            egress: None,
            hostname: "function".into(),
        }
    }

    /// Ends everything but the folder, whose path names the cgroup and the users.
    pub(crate) fn close(mut self) -> tempfile::TempDir {
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn secret_file(&self, name: &str) -> Value {
        json!({ "path": self.dir().join(name), "secret": self.secret })
    }

    pub(crate) fn secret_of_other(&self, path: &str) -> Value {
        let pid = self.neighbour.as_ref().map(|(instance, _)| instance.pid());
        json!({ "pid": pid, "path": path, "secret": self.secret })
    }

    /// By the place where the host's root is without a root of its own.
    pub(crate) fn host_folder(&self, name: &str) -> Value {
        json!({ "directory": format!("/tmp/host{}", self.dir().join(name).display()) })
    }

    pub(crate) fn cgroup_file(&self) -> Result<Value, String> {
        let root = self.sandbox.features().cgroup_root.as_ref().ok_or("no cgroup v2")?;
        Ok(json!({ "path": format!("/tmp/host{}/cgroup.procs", root.display()) }))
    }

    pub(crate) fn namespace(kind: &str) -> Result<Value, String> {
        let host = fs::read_link(format!("/proc/self/ns/{kind}")).map_err(|e| e.to_string())?;
        Ok(json!({ "kind": kind, "host": host }))
    }

    /// The host's descriptor of a terminal.
    pub(crate) fn terminal(&self) -> i32 {
        self.terminal.1.as_raw_fd()
    }

    /// A block device of the host that can be opened: path, major and minor number.
    pub(crate) fn disk(&self) -> Result<(String, u32, u32), String> {
        let opens = |path: &PathBuf| fs::File::open(path).is_ok();
        let is_block = |path: &PathBuf| fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device());
        let devices = fs::read_dir("/dev").map_err(|e| e.to_string())?.flatten().map(|entry| entry.path());
        let path =
            devices.filter(is_block).find(opens).ok_or("no block device in /dev that root can open")?;
        let number = fs::metadata(&path).map_err(|e| e.to_string())?.rdev();
        Ok((path.display().to_string(), rustix::fs::major(number), rustix::fs::minor(number)))
    }

    pub(crate) fn tcp(&self, address: &str) -> Result<Value, String> {
        target(&self.tcp, address)
    }

    pub(crate) fn udp(&self, address: &str) -> Result<Value, String> {
        target(&self.udp, address)
    }
}

/// A listener on an exact address, or on the machine's own of a family.
fn target(listeners: &[SocketAddr], wanted: &str) -> Result<Value, String> {
    let is_wanted = |address: &IpAddr| match wanted {
        "v4" => address.is_ipv4() && !address.is_loopback(),
        "v6" => address.is_ipv6() && !address.is_loopback(),
        exact => address.to_string() == exact,
    };
    let found = listeners.iter().find(|listener| is_wanted(&listener.ip()));
    let found = found.ok_or_else(|| format!("this machine has no address `{wanted}`"))?;
    Ok(json!({ "address": found.ip(), "port": found.port() }))
}

/// Master and slave; the slave is not this process's controlling terminal, and stays open over exec.
fn pseudo_terminal() -> (OwnedFd, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    (master, slave)
}

impl Drop for World {
    fn drop(&mut self) {
        self.neighbour = None;
        self.bystander.kill().expect("a child can be killed");
        self.bystander.wait().expect("a killed child ends");
    }
}
