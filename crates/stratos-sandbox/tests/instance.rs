//! What a process finds in an instance, and what the agent sees of it.

mod support;

use std::io::{Read, Write};

use support::{line, read_all, readable, rig, run, status_byte};

#[test]
fn a_process_finds_what_the_contract_says_and_nothing_else() {
    let Some(rig) = rig("a_process_finds_what_the_contract_says_and_nothing_else") else { return };
    // A descriptor that would leak if it were not closed: this one survives exec.
    let (leak, _other) = rustix::pipe::pipe().unwrap();
    let mut instance = rig.sandbox.start(&rig.plan("contract", "report")).unwrap();
    let status = instance.take_status();
    assert_eq!((status_byte(&status), status_byte(&status)), (b'R', b'P'));
    let mut park = std::fs::File::from(instance.take_park());
    park.write_all(b"frame").unwrap();
    drop(park);
    let output = read_all(instance.take_stdout());
    let exit = instance.wait().unwrap();
    assert_eq!((exit.code, exit.signal), (Some(0), None), "{output}");
    for (name, expected) in [
        ("fds", "0=/dev/null 1=pipe 2=pipe 3=pipe 4=pipe"),
        ("pid", "1"),
        ("cwd", "/var/task"),
        ("hostname", "function"),
        ("Umask", "0022"),
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("SigBlk", "0000000000000000"),
        ("Groups", ""),
        ("env", "HOME=/tmp"),
        ("released", "frame"),
    ] {
        let found =
            output.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {output}"));
        assert_eq!(found.trim(), expected, "{name}");
    }
    if rig.sandbox.features().cgroup_root.is_some() {
        assert_eq!(line(&output, "cgroup"), "0::/");
    }
    let writable: Vec<_> = output.lines().filter(|l| l.starts_with("mount ") && l.ends_with(" rw")).collect();
    assert_eq!(writable, ["mount /tmp rw"]);
    drop(leak);
}

#[test]
fn files_can_be_written_in_tmp_only_and_only_so_many() {
    let Some(rig) = rig("files_can_be_written_in_tmp_only_and_only_so_many") else { return };
    let mut instance = rig.sandbox.start(&rig.plan("files", "files")).unwrap();
    let (output, _) = run(&mut instance);
    for line in output.lines().filter(|line| line.starts_with("write ")) {
        assert_eq!(line.ends_with("Ok(())"), line.starts_with("write /tmp/"), "{line}");
    }
    for line in output.lines().filter(|line| line.starts_with("device ")) {
        assert!(line.ends_with("Ok(())"), "{line}");
    }
    assert_eq!(line(&output, "fill"), "Err(StorageFull)");
    assert_eq!(line(&output, "meminfo"), "true");
    if std::path::Path::new("/proc/keys").exists() {
        assert_eq!(line(&output, "keys"), "Ok(0)");
    }
}

#[test]
fn processes_are_limited() {
    let Some(rig) = rig("processes_are_limited") else { return };
    let mut plan = rig.plan("forks", "forks");
    plan.pids_max = 8;
    let mut instance = rig.sandbox.start(&plan).unwrap();
    let output = read_all(instance.take_stdout());
    assert_eq!(line(&output, "forks"), "7 WouldBlock");
}

#[test]
fn the_agent_is_reached_and_reaches_in_and_nothing_else_is_there() {
    let Some(rig) = rig("the_agent_is_reached_and_reaches_in_and_nothing_else_is_there") else { return };
    let mut instance = rig.sandbox.start(&rig.plan("call", "call")).unwrap();
    let listener = instance.take_runtime_listener();
    readable(&listener);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(false).unwrap();
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    let (output, _) = run(&mut instance);
    assert_eq!(line(&output, "out"), "NetworkUnreachable");

    let mut instance = rig.sandbox.start(&rig.plan("serve", "serve")).unwrap();
    assert_eq!(status_byte(instance.take_status()), b'P');
    let mut stream = instance.connect_port(8080).unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.write_all(b"word").unwrap();
    let mut word = [0; 4];
    stream.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"drow");
}

#[test]
fn egress_opens_one_way_out() {
    use std::net::{IpAddr, TcpListener, UdpSocket};
    let Some(rig) = rig("egress_opens_one_way_out") else { return };
    // An address of this host that is not loopback; asking for the route sends nothing.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let local = socket.connect("198.51.100.1:9").and_then(|()| socket.local_addr());
    let Ok(IpAddr::V4(local)) = local.map(|address| address.ip()) else {
        eprintln!("skipped: egress_opens_one_way_out: this host has no address but loopback");
        return;
    };
    let server = TcpListener::bind((local, 0)).unwrap();
    let address = server.local_addr().unwrap();
    let answering =
        std::thread::spawn(move || server.accept().unwrap().0.write_all(b"from outside").unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _inside = runtime.enter();
    let rule = format!("{local}/32:{}", address.port()).parse().unwrap();
    let policy = stratos_sandbox::EgressPolicy::new(vec![rule], Vec::new()).unwrap();
    let mut plan = rig.plan("out", "out");
    plan.argv = support::strings(&["/var/task/probe", "out", &address.to_string()]);
    plan.egress = Some(std::sync::Arc::new(policy));
    let mut instance = rig.sandbox.start(&plan).unwrap();
    let (output, _) = run(&mut instance);
    assert_eq!(line(&output, "answer"), "from outside");
    assert_eq!(line(&output, "closed"), "Err(ConnectionRefused)");
    assert_eq!(instance.egress_stats().unwrap().connections, 1);
    answering.join().unwrap();
}

#[test]
fn the_end_and_the_figures_are_told() {
    let Some(rig) = rig("the_end_and_the_figures_are_told") else { return };
    let instance = rig.sandbox.start(&rig.plan("exit", "exit")).unwrap();
    readable(instance.pidfd());
    let exit = instance.wait().unwrap();
    assert_eq!((exit.code, exit.signal), (Some(7), None));
    assert_eq!(instance.wait().unwrap(), exit, "a second wait answers the same");
    assert_eq!(instance.rss(), None);

    let mut instance = rig.sandbox.start(&rig.plan("memory", "memory")).unwrap();
    assert_eq!(status_byte(instance.take_status()), b'P');
    assert!(instance.rss().unwrap() > 32 << 20);
    assert!(instance.cpu_time().unwrap().as_micros() > 0);
    instance.kill();
    readable(instance.pidfd());
    let exit = instance.wait().unwrap();
    assert_eq!((exit.code, exit.signal), (None, Some(9)));
    assert!(instance.memory_peak().unwrap() > 32 << 20);
    assert!(!instance.oom_killed());
}

#[test]
fn a_failed_step_is_named() {
    let Some(rig) = rig("a_failed_step_is_named") else { return };
    let mut plan = rig.plan("missing", "exit");
    plan.argv = support::strings(&["/no/such/program"]);
    let Err(error) = rig.sandbox.start(&plan) else { panic!("a missing program was started") };
    assert_eq!(error.to_string(), "cannot execute /no/such/program");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "No such file or directory (os error 2)");

    let mut plan = rig.plan("../escape", "exit");
    let Err(error) = rig.sandbox.start(&plan) else { panic!("a path was taken as an id") };
    assert_eq!(error.to_string(), "the plan is not usable: the id is not a plain name");
    plan.id = "long".into();
    plan.hostname = "h".repeat(65);
    assert!(rig.sandbox.start(&plan).is_err());
}

/// The layers of a StratOS disk are devices, not files.
#[test]
fn an_image_on_a_block_device_is_mounted_as_one_in_a_file() {
    let Some(rig) = rig("an_image_on_a_block_device_is_mounted_as_one_in_a_file") else { return };
    let file = std::fs::File::open(rig.function.path()).unwrap();
    let device = stratos_sys::loopdev::attach(std::os::fd::AsFd::as_fd(&file)).unwrap();
    let link = rig.dir.path().join("layer-test");
    std::os::unix::fs::symlink(&device.path, &link).unwrap();
    let image = rig.sandbox.mount_image(&link).unwrap();
    let program = |root: &std::path::Path| std::fs::read(root.join("probe")).unwrap();
    assert!(program(image.mount_point()) == program(rig.function.mount_point()));
}
