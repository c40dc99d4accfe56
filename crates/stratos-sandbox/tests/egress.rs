//! The egress gateway with real namespaces and sockets: what is allowed answers, what is not does not.
//!
//! The "host" is a network namespace of the test's own, with two addresses that no real machine answers for, so that
//! the outcome does not depend on the machine's network.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use stratos_sandbox::egress::{Denied, EgressGateway, EgressPolicy, EgressStats, MAX_CONNECTIONS};
use stratos_sys::netlink::Netlink;
use stratos_sys::netns::NetNs;
use stratos_types::egress::{EgressRule, EgressTarget};

const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

/// Whether this may run: named when it may not, and then a failure in CI.
fn privileged(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} needs root, and CI has to run it");
        eprintln!("SKIPPED {test}: needs root for network namespaces");
    }
    root
}

/// Open files up to the hard limit, like the agent.
fn raise_descriptor_limit() {
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limits.maximum, ..limits };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
}

/// A machine with a server on every one of its addresses.
struct Host {
    runtime: tokio::runtime::Runtime,
    port: u16,
    other_port: u16,
}

impl Host {
    fn new() -> Self {
        let netns = NetNs::create().unwrap();
        netns
            .run(|| {
                let mut netlink = Netlink::open().unwrap();
                let loopback = netlink.index("lo").unwrap();
                netlink.add_address(loopback, INSIDE, 32).unwrap();
                netlink.add_address(loopback, OUTSIDE, 32).unwrap();
                // The runtime's threads inherit the namespace.
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
                Self { runtime: runtime.unwrap(), port: serve(), other_port: serve() }
            })
            .unwrap()
    }

    fn instance(&self, rules: &[&str], denied: Denied) -> Instance {
        let ports = |rule: &str| {
            rule.replace("OTHER", &self.other_port.to_string()).replace("PORT", &self.port.to_string())
        };
        let rules = rules.iter().map(|rule| match rule.strip_prefix("*:") {
            Some(_) => EgressRule { target: EgressTarget::AnyHost, ports: self.port..=self.port },
            None => ports(rule).parse().unwrap(),
        });
        let policy = Arc::new(EgressPolicy::new(rules.collect(), denied).unwrap());
        let netns = NetNs::create().unwrap();
        let gateway = EgressGateway::start(netns.as_fd(), policy, self.runtime.handle()).unwrap();
        Instance { netns, gateway }
    }
}

/// A server in the calling thread's namespace that reads to the end, then answers. Returns its port.
fn serve() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut text = String::new();
                if stream.read_to_string(&mut text).is_ok() {
                    let address = stream.local_addr().unwrap();
                    // The client may be gone; that is its test's business.
                    drop(stream.write_all(format!("{address} got {text}").as_bytes()));
                }
            });
        }
    });
    port
}

struct Instance {
    netns: NetNs,
    gateway: EgressGateway,
}

impl Instance {
    fn connect(&self, address: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
        let connect =
            || TcpStream::connect_timeout(&SocketAddr::from((address, port)), Duration::from_secs(20));
        let stream = self.netns.run(connect).unwrap()?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(stream)
    }

    /// Sends, ends the sending side, and reads the answer to its end.
    fn ask(&self, address: Ipv4Addr, port: u16) -> io::Result<String> {
        let mut stream = self.connect(address, port)?;
        let mut answer = String::new();
        stream.write_all(b"ping")?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// What the instance's DNS server says: the code and the first address.
    fn lookup(&self, name: &str, kind: u8) -> (u8, Option<Ipv4Addr>) {
        let mut query = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0".to_vec();
        for label in name.split('.') {
            query.push(label.len() as u8);
            query.extend_from_slice(label.as_bytes());
        }
        query.extend_from_slice(&[0, 0, kind, 0, 1]);
        let socket = self.netns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.send_to(&query, "198.18.0.1:53").unwrap();
        let mut answer = [0; 512];
        let len = socket.recv(&mut answer).unwrap();
        let answer = &answer[..len];
        assert_eq!(answer[..2], query[..2]);
        let address = (answer[7] == 1).then(|| {
            let bytes: [u8; 4] = answer[len - 4..].try_into().unwrap();
            bytes.into()
        });
        (answer[3] & 0xf, address)
    }

    fn stats(&self) -> EgressStats {
        self.gateway.stats()
    }
}

#[track_caller]
fn fails(result: io::Result<String>, kinds: &[ErrorKind]) {
    match result {
        Ok(answer) => panic!("answered: {answer}"),
        Err(error) => assert!(kinds.contains(&error.kind()), "{error} ({:?})", error.kind()),
    }
}

const RESET: &[ErrorKind] = &[ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::NotConnected];

#[test]
fn a_host_rule_opens_that_host_and_port_only() {
    if !privileged("a_host_rule_opens_that_host_and_port_only") {
        return;
    }
    let host = Host::new();
    let instance = host.instance(&["localhost:PORT", "10.77.0.0/16:OTHER"], denied(""));

    let (code, address) = instance.lookup("LocalHost", 1);
    let address = address.expect("an address");
    assert_eq!((code, address), (0, Ipv4Addr::new(198, 18, 1, 0)));
    let answer = instance.ask(address, host.port).unwrap();
    assert!(answer.ends_with("got ping"), "{answer}");

    assert_eq!(instance.lookup("localhost", 28), (0, None), "AAAA");
    assert_eq!(instance.lookup("example.com", 1), (3, None), "a name of no rule");
    // A port of no rule has no listener; one of another rule is refused by the gateway.
    fails(instance.ask(address, 9), &[ErrorKind::ConnectionRefused]);
    let before = instance.stats().refused;
    fails(instance.ask(address, host.other_port), RESET);
    assert_eq!(instance.stats().refused, before + 1);
    // A synthetic address that stands for nothing.
    fails(instance.ask([198, 18, 1, 1].into(), host.port), RESET);
    // The server's own address, past the name; and its port on the gateway and on the instance itself.
    fails(instance.ask(OUTSIDE, host.port), &[ErrorKind::NetworkUnreachable]);
    fails(instance.ask([198, 18, 0, 1].into(), host.port), RESET);
    fails(instance.ask(Ipv4Addr::LOCALHOST, host.port), &[ErrorKind::ConnectionRefused]);
    fails(instance.ask([1, 1, 1, 1].into(), host.port), &[ErrorKind::NetworkUnreachable]);
    assert_eq!(instance.stats().connections, 1);
}

/// The usual list but for the node's own addresses: the far side of these tests is one.
const DENIED: &str = "127.0.0.0/8,169.254.0.0/16,::1";

fn denied(list: &str) -> Denied {
    list.parse().unwrap()
}

#[test]
fn a_network_rule_opens_that_network_and_port_only() {
    if !privileged("a_network_rule_opens_that_network_and_port_only") {
        return;
    }
    let host = Host::new();
    let instance = host.instance(&["10.77.0.0/16:PORT"], denied(DENIED));
    let answer = instance.ask(INSIDE, host.port).unwrap();
    assert_eq!(answer, format!("{INSIDE}:{} got ping", host.port));
    fails(instance.ask(INSIDE, host.other_port), &[ErrorKind::ConnectionRefused]);
    fails(instance.ask(OUTSIDE, host.port), &[ErrorKind::NetworkUnreachable]);
    assert_eq!(instance.lookup("localhost", 1), (3, None));

    // Inside the network, where nobody is: the connection breaks, and is counted as failed, not refused.
    let before = instance.stats();
    fails(instance.ask([10, 77, 0, 2].into(), host.port), RESET);
    let after = instance.stats();
    assert_eq!((after.failed, after.refused), (before.failed + 1, before.refused));
}

#[test]
fn every_address_can_be_opened() {
    if !privileged("every_address_can_be_opened") {
        return;
    }
    let host = Host::new();
    let instance = host.instance(&["0.0.0.0/0:PORT", "localhost:PORT"], denied(DENIED));
    for address in [INSIDE, OUTSIDE] {
        assert_eq!(instance.ask(address, host.port).unwrap(), format!("{address}:{} got ping", host.port));
    }
    fails(instance.ask(INSIDE, host.other_port), &[ErrorKind::ConnectionRefused]);
    fails(instance.ask([169, 254, 169, 254].into(), host.port), RESET);
}

#[test]
fn denied_ranges_are_refused_after_resolution() {
    if !privileged("denied_ranges_are_refused_after_resolution") {
        return;
    }
    let host = Host::new();
    let list = denied(&format!("{DENIED},10.77.0.0/24"));
    let instance = host.instance(&["localhost:PORT", "10.77.0.0/16:PORT"], list);
    let (_, address) = instance.lookup("localhost", 1);
    fails(instance.ask(address.unwrap(), host.port), RESET);
    assert_eq!(instance.stats().refused, 1);
    fails(instance.ask(INSIDE, host.port), RESET);
    assert_eq!((instance.stats().refused, instance.stats().connections), (2, 0));

    // The usual list holds the node's own addresses, whatever they are, and these tests' far side is one of them.
    let instance = host.instance(&["0.0.0.0/0:PORT"], Denied::default());
    fails(instance.ask(OUTSIDE, host.port), RESET);
    assert_eq!((instance.stats().refused, instance.stats().connections), (1, 0));
}

#[test]
fn a_build_may_reach_any_name_but_no_bare_address() {
    if !privileged("a_build_may_reach_any_name_but_no_bare_address") {
        return;
    }
    let host = Host::new();
    let instance = host.instance(&["*:PORT"], denied(""));
    let (_, first) = instance.lookup("no-such-name.invalid", 1);
    let (_, second) = instance.lookup("localhost", 1);
    assert_ne!(first.unwrap(), second.unwrap());
    assert_eq!(instance.lookup("no-such-name.invalid", 1).1, first, "a name keeps its address");
    assert!(instance.ask(second.unwrap(), host.port).unwrap().ends_with("got ping"));
    fails(instance.ask(first.unwrap(), host.port), RESET);
    fails(instance.ask(INSIDE, host.port), &[ErrorKind::NetworkUnreachable]);
}

#[test]
fn two_instances_do_not_see_each_other() {
    if !privileged("two_instances_do_not_see_each_other") {
        return;
    }
    let host = Host::new();
    let open = host.instance(&["localhost:PORT"], denied(""));
    let other = host.instance(&["localhost:OTHER"], denied(""));
    let address = open.lookup("localhost", 1).1.unwrap();
    assert!(open.ask(address, host.port).is_ok());
    fails(other.ask(address, host.port), &[ErrorKind::ConnectionRefused]);
}

#[test]
fn connections_end_with_the_gateway() {
    if !privileged("connections_end_with_the_gateway") {
        return;
    }
    let host = Host::new();
    let instance = host.instance(&["10.77.0.0/16:PORT"], denied(""));
    let mut stream = instance.connect(INSIDE, host.port).unwrap();
    stream.write_all(b"ping").unwrap();
    // A second connection that has answered shows that the first one is being served, too.
    instance.ask(INSIDE, host.port).unwrap();
    let Instance { netns, gateway } = instance;
    drop(gateway);
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => assert_eq!(rest, b""),
        Err(error) => assert!(RESET.contains(&error.kind()), "{error}"),
    }
    // The interface goes with the last socket; the kernel does that in its own time.
    let gone = || netns.run(|| Netlink::open().unwrap().index("eth0").is_err()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !gone() {
        assert!(Instant::now() < deadline, "the instance's interface is still there");
        thread::yield_now();
    }
}

#[test]
fn many_connections_at_once_all_answer() {
    if !privileged("many_connections_at_once_all_answer") {
        return;
    }
    let host = Host::new();
    let instance = host.instance(&["10.77.0.0/16:PORT"], denied(""));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    assert!(instance.ask(INSIDE, host.port).unwrap().ends_with("got ping"));
                }
            });
        }
    });
    assert_eq!(instance.stats().connections, 200);
}

#[test]
fn connections_over_the_limit_are_reset() {
    if !privileged("connections_over_the_limit_are_reset") {
        return;
    }
    // Each connection takes four descriptors of this process, which is everyone in this test.
    raise_descriptor_limit();
    let host = Host::new();
    let instance = host.instance(&["10.77.0.0/16:PORT"], denied(""));
    let mut held: Vec<TcpStream> =
        (0..MAX_CONNECTIONS).map(|_| instance.connect(INSIDE, host.port).unwrap()).collect();
    fails(instance.ask(INSIDE, host.port), RESET);
    // One ends, and its place is free again once its far side has ended, too.
    let mut first = held.swap_remove(0);
    first.shutdown(Shutdown::Write).unwrap();
    first.read_to_end(&mut Vec::new()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while instance.ask(INSIDE, host.port).is_err() {
        assert!(Instant::now() < deadline, "the place of an ended connection is not free");
    }
}

/// Not a limit, for machines differ: prints what starting a gateway takes.
#[test]
fn a_gateway_starts_in_milliseconds() {
    if !privileged("a_gateway_starts_in_milliseconds") {
        return;
    }
    raise_descriptor_limit();
    let host = Host::new();
    let policy = |rules: &[&str]| {
        Arc::new(EgressPolicy::new(rules.iter().map(|r| r.parse().unwrap()).collect(), vec![]).unwrap())
    };
    for rules in [&["a.com"][..], &["a.com:1-64", "10.0.0.0/8:5432", "192.168.0.0/16:80"]] {
        let policy = policy(rules);
        // Kept until the end: freeing namespaces holds the lock that making them needs.
        let mut kept = Vec::new();
        let mut took = Vec::new();
        for _ in 0..30 {
            let netns = NetNs::create().unwrap();
            let start = Instant::now();
            let gateway = EgressGateway::start(netns.as_fd(), policy.clone(), host.runtime.handle()).unwrap();
            took.push(start.elapsed());
            kept.push((netns, gateway));
        }
        took.sort();
        println!("gateway for {rules:?}: p50 {:?}, p95 {:?}", took[15], took[28]);
        assert!(took[0] < Duration::from_secs(1));
    }
}
