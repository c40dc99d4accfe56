//! What functions reach over the network: nothing, until their `egress` rules say so, and then exactly that.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, UdpSocket};

use serde_json::{Value, json};
use stratos_tests::{Node, Package, need_root};

/// Bytes sent and echoed in each connection that is allowed.
const SIZE: u64 = 1 << 20;

const CALLER_JS: &str = r#"
    import net from 'node:net';
    export const handler = ({ host, port, size }) => new Promise((done) => {
        const started = performance.now();
        const end = (result) => done({ ...result, ms: performance.now() - started });
        let echoed = 0;
        const socket = net.connect({ host, port, timeout: 20000 }, () => socket.end(Buffer.alloc(size)));
        socket.on('data', (bytes) => { echoed += bytes.length; });
        socket.on('end', () => end({ echoed }));
        socket.on('error', (error) => end({ error: error.code }));
        socket.on('timeout', () => end({ error: 'ETIMEDOUT' }));
    });
"#;

/// Names errors of lookups as Node.js does.
const CALLER_PY: &str = r#"
import errno, socket, time

def call(host, port, size):
    try:
        with socket.create_connection((host, port), timeout=20) as made:
            made.sendall(bytes(size))
            made.shutdown(socket.SHUT_WR)
            echoed = 0
            while piece := made.recv(65536):
                echoed += len(piece)
        return {'echoed': echoed}
    except socket.gaierror as error:
        return {'error': 'EAI_AGAIN' if error.errno == socket.EAI_AGAIN else 'ENOTFOUND'}
    except OSError as error:
        return {'error': errno.errorcode.get(error.errno, str(error))}

def handler(event, context):
    started = time.monotonic()
    return {**call(**event), 'ms': (time.monotonic() - started) * 1000}
"#;

/// Two servers on every address of the machine that read to the end, then send back what they got.
struct Host {
    port: u16,
    other_port: u16,
    /// An address of the machine besides loopback.
    own: Option<IpAddr>,
}

impl Host {
    fn new() -> Self {
        let own = own_address();
        if own.is_none() {
            eprintln!("skipped: rules for networks (this machine has no address but loopback)");
        }
        Self { port: serve(), other_port: serve(), own }
    }
}

/// Looking for the route sends nothing.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn serve() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = listener.local_addr().expect("a bound socket").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                // A caller that breaks off finds out by itself.
                drop(stream.read_to_end(&mut bytes).and_then(|_| stream.write_all(&bytes)));
            });
        }
    });
    port
}

/// What a call of a function is expected to say.
enum Expected {
    Echo,
    /// One of these errors.
    Error(&'static [&'static str]),
}
use Expected::{Echo, Error};

const REFUSED: Expected = Error(&["ECONNREFUSED"]);
const UNREACHABLE: Expected = Error(&["ENETUNREACH"]);
/// Accepted and then closed: where in the exchange that shows is a matter of timing.
const RESET: Expected = Error(&["ECONNRESET", "EPIPE", "ENOTCONN"]);
const NO_SUCH_NAME: Expected = Error(&["ENOTFOUND"]);

/// Has both runtimes try each destination.
async fn check(node: &Node, rules: &[String], cases: &[(&str, u16, Expected)]) {
    let setting = if rules.is_empty() { String::new() } else { format!("egress = {rules:?}") };
    for package in [Package::node("caller-js", CALLER_JS), Package::python("caller-py", CALLER_PY)] {
        node.deploy(&package.setting(&setting)).await;
    }
    for name in ["caller-js", "caller-py"] {
        for (host, port, expected) in cases {
            let event = json!({ "host": host, "port": port, "size": SIZE });
            let told = node.invoke_ok(name, event.to_string()).await;
            let right = match expected {
                Echo => told["echoed"] == SIZE,
                Error(codes) => codes.iter().any(|code| told["error"] == *code),
            };
            let wanted = match expected {
                Echo => "an echo",
                Error(codes) => &codes.join(" or "),
            };
            assert!(right, "{name} with {rules:?} to {host}:{port}: {told}, not {wanted}\n{}", node.log());
            // Whatever is closed says so, instead of letting callers wait.
            assert!(told["ms"].as_f64().is_some_and(|ms| ms < 5000.0), "{name} to {host}:{port}: {told}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rules_nothing_is_reached() {
    if !need_root("without_rules_nothing_is_reached") {
        return;
    }
    let host = Host::new();
    let node = Node::builder().arg("--egress-denied=").start().await;
    let own = host.own.map(|own| own.to_string());
    let mut cases = vec![
        ("127.0.0.1", host.port, REFUSED),
        ("localhost", host.port, REFUSED),
        ("198.51.100.1", 443, UNREACHABLE),
        ("198.18.0.1", host.port, UNREACHABLE),
        ("2001:db8::1", 443, UNREACHABLE),
        ("169.254.169.254", 80, UNREACHABLE),
        ("example.com", 443, Error(&["EAI_AGAIN"])),
    ];
    cases.extend(own.as_deref().map(|own| (own, host.port, UNREACHABLE)));
    check(&node, &[], &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_rule_opens_that_name_and_port_only() {
    if !need_root("a_host_rule_opens_that_name_and_port_only") {
        return;
    }
    let host = Host::new();
    let node = Node::builder().arg("--egress-denied=").start().await;
    let own = host.own.map(|own| own.to_string());
    // With the dot it is looked up by DNS; without, it is the instance itself.
    let mut cases = vec![
        ("localhost.", host.port, Echo),
        ("LOCALHOST.", host.port, Echo),
        ("localhost.", host.other_port, REFUSED),
        ("localhost", host.port, REFUSED),
        ("127.0.0.1", host.port, REFUSED),
        ("example.com", host.port, NO_SUCH_NAME),
        ("sub.localhost.example.com", host.port, NO_SUCH_NAME),
        ("198.51.100.1", host.port, UNREACHABLE),
        // The gateway itself, and an address that stands for no name.
        ("198.18.0.1", host.port, RESET),
        ("198.18.1.200", host.port, RESET),
    ];
    cases.extend(own.as_deref().map(|own| (own, host.port, UNREACHABLE)));
    check(&node, &[format!("localhost:{}", host.port)], &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_rule_opens_those_addresses_and_ports_only() {
    if !need_root("a_network_rule_opens_those_addresses_and_ports_only") {
        return;
    }
    let host = Host::new();
    let Some(IpAddr::V4(own)) = host.own else { return };
    // The far side is an address of this machine, which the default list denies.
    let node = Node::builder().arg("--egress-denied=127.0.0.0/8").start().await;
    let own_text = own.to_string();
    let (low, high) = (host.port.min(host.other_port), host.port.max(host.other_port));
    let closed = ("198.51.100.1", host.port, UNREACHABLE);
    let rules = [format!("{own}/30:{}", host.port)];
    let cases = [
        (own_text.as_str(), host.port, Echo),
        (&own_text, host.other_port, REFUSED),
        ("127.0.0.1", host.port, REFUSED),
        ("localhost.", host.port, NO_SUCH_NAME),
        closed,
    ];
    check(&node, &rules, &cases).await;
    if high - low < 256 {
        let rules = [format!("{own}:{low}-{high}")];
        check(&node, &rules, &[(&own_text, host.port, Echo), (&own_text, host.other_port, Echo)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_networks_are_refused_whatever_the_rules_say() {
    if !need_root("denied_networks_are_refused_whatever_the_rules_say") {
        return;
    }
    let host = Host::new();
    let node = Node::start().await;
    let rules = [format!("localhost:{}", host.port), "169.254.169.254:80".to_owned()];
    let cases = [("localhost.", host.port, RESET), ("169.254.169.254", 80, RESET)];
    check(&node, &rules, &cases).await;
    let log = node.log();
    assert!(log.contains("no function may reach"), "the log says why: {log}");

    let Some(own) = host.own else { return };
    let node = Node::builder().arg(format!("--egress-denied=10.0.0.0/8,{own}/32")).start().await;
    let rules = [format!("{own}:{}", host.port), format!("localhost:{}", host.port)];
    let own = own.to_string();
    // A list of one's own replaces the default one.
    check(&node, &rules, &[(&own, host.port, RESET), ("localhost.", host.port, Echo)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rules_of_one_function_open_nothing_for_another() {
    if !need_root("the_rules_of_one_function_open_nothing_for_another") {
        return;
    }
    let host = Host::new();
    let node = Node::builder().arg("--egress-denied=").start().await;
    let rule = |port| format!("egress = [\"localhost:{port}\"]");
    node.deploy(&Package::node("one", CALLER_JS).setting(&rule(host.port))).await;
    node.deploy(&Package::node("two", CALLER_JS).setting(&rule(host.other_port))).await;
    let call = async |name: &str, port: u16| -> Value {
        let event = json!({ "host": "localhost.", "port": port, "size": 1 });
        node.invoke_ok(name, event.to_string()).await
    };
    for (name, open, closed) in [("one", host.port, host.other_port), ("two", host.other_port, host.port)] {
        assert_eq!(call(name, open).await["echoed"], 1, "{name}");
        assert_eq!(call(name, closed).await["error"], "ECONNREFUSED", "{name}");
    }
}
