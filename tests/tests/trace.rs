//! What the node tells of its functions by way of the kernel: figures of a known amount of work, windows, features, and
//! every cause of death under its own name.

use std::process::Command;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use stratos_api::client::Call;
use stratos_api::{KernelFigures, NodeFeatures, SyscallTrace};
use stratos_tests::{Answer, Node, NodeBuilder, Package, Session, need_root};

/// Longest wait for something that is on its way, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Does a known amount of what the event says.
const WORKER: &str = r#"
import ctypes, errno, mmap, os, socket, threading, time

libc = ctypes.CDLL(None, use_errno=True)

def handler(event, context):
    return globals()[event["do"]](event.get("n", 0))

def nothing(n):
    return n

def sleep(ms):
    time.sleep(ms / 1000)

def getppid(n):
    for _ in range(n):
        os.getppid()

def denied(n):
    for _ in range(n):
        assert libc.swapon(b"/tmp/none", 0) == -1
    return ctypes.get_errno() in (errno.ENOSYS, errno.EPERM)

def touch(bytes):
    return len(b"\x01" * bytes)

def send(bytes):
    listener = socket.create_server(("127.0.0.1", 0))
    def receive():
        with listener.accept()[0] as stream:
            buffer = bytearray(1 << 20)
            while stream.recv_into(buffer):
                pass
    reader = threading.Thread(target=receive)
    reader.start()
    with socket.create_connection(listener.getsockname()) as stream:
        stream.sendall(b"\x01" * bytes)
    reader.join()
    listener.close()

def fail(n):
    raise ValueError("as it was told")

def foreign(n):
    # getpid by the 32-bit interface of x86: push rbx; mov eax, 20; int 0x80; pop rbx; ret
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3")
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
"#;

fn worker() -> Package {
    Package::python("worker", WORKER).setting("memory = \"512MB\"\ntimeout = \"30s\"")
}

fn ask(what: &str, n: u64) -> String {
    json!({ "do": what, "n": n }).to_string()
}

/// A node whose programs are loaded, with the worker on it.
async fn node(builder: NodeBuilder) -> Node {
    let node = builder.start().await;
    let begun = Instant::now();
    while features(&node).await.tracing == "loading" {
        assert!(begun.elapsed() < PATIENCE, "the programs are not loaded:\n{}", node.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    node.deploy(&worker()).await;
    node
}

async fn features(node: &Node) -> NodeFeatures {
    let answer = node.call(Call::new(Method::GET, "/v1/node/features", "")).await;
    serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{e}: {}", answer.text()))
}

async fn trace(node: &Node, method: Method, query: &str) -> Answer {
    node.call(Call::new(method, format!("/v1/functions/worker/trace{query}"), "")).await
}

/// What the kernel counted in one invocation.
async fn counted(node: &Node, what: &str, n: u64) -> KernelFigures {
    node.invoke_ok("worker", ask(what, n)).await;
    last(node).await.expect("the kernel counts")
}

async fn last(node: &Node) -> Option<KernelFigures> {
    node.records("worker").await[0].kernel
}

async fn total_us(node: &Node) -> u64 {
    node.records("worker").await[0].phases.total_us
}

fn near(is: Option<u64>, expected: u64, percent: u64) -> bool {
    is.is_some_and(|is| is.abs_diff(expected) * 100 <= expected * percent)
}

#[tokio::test(flavor = "multi_thread")]
async fn records_tell_what_the_kernel_counted() {
    if !need_root("records_tell_what_the_kernel_counted") {
        return;
    }
    let node = node(Node::builder()).await;
    // The first one finds caches and memory of the runtime empty.
    counted(&node, "nothing", 0).await;

    let idle = counted(&node, "nothing", 0).await;
    // What it waited for this request is no part of it.
    assert!(idle.off_cpu_us <= Some(total_us(&node).await), "{idle:?}");
    assert_eq!((idle.connects, idle.processes, idle.syscalls), (Some(0), Some(0), None));

    let slept = counted(&node, "sleep", 500).await;
    let all = total_us(&node).await;
    assert!(slept.off_cpu_us.is_some_and(|us| (500_000..=all).contains(&us)), "{slept:?} of {all} us");
    assert!(slept.run_queue_us.is_some());

    const BYTES: u64 = 32 << 20;
    let sent = counted(&node, "send", BYTES).await;
    // Both ends are in the instance.
    assert!(near(sent.tx_bytes, BYTES, 2) && near(sent.rx_bytes, BYTES, 2), "{sent:?}");
    assert_eq!((sent.connects, sent.connect_failures), (Some(1), Some(0)));
    assert!(sent.connect_us.is_some());

    let before = sent.memory_peak_kb.expect("it holds what it sends");
    let touched = counted(&node, "touch", 256 << 20).await;
    let more = touched.memory_peak_kb.map(|peak| peak - before);
    // What it sent was given back before.
    assert!(near(more, (256 << 10) - (BYTES >> 10), 5), "{before} KiB, then {touched:?}");
    assert!(touched.faults > idle.faults, "{touched:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_are_told_whole_beside_other_requests() {
    if !need_root("waits_are_told_whole_beside_other_requests") {
        return;
    }
    let node = node(Node::builder()).await;
    node.deploy(&worker().setting("concurrency = 4\nmax_instances = 1")).await;
    node.invoke_ok("worker", ask("nothing", 0)).await;
    let others = async {
        for _ in 0..10 {
            node.invoke_ok("worker", ask("nothing", 0)).await;
        }
    };
    tokio::join!(node.invoke_ok("worker", ask("sleep", 1000)), others);
    let records = node.records("worker").await;
    let slept = records.iter().find(|record| record.phases.handler_us >= 1_000_000).expect("one slept");
    let waited = slept.kernel.as_ref().and_then(|kernel| kernel.off_cpu_us);
    assert!(waited.is_some_and(|us| us >= 1_000_000), "{slept:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_counts_every_system_call_exactly() {
    if !need_root("a_window_counts_every_system_call_exactly") {
        return;
    }
    let node = node(Node::builder()).await;
    assert_eq!(trace(&node, Method::GET, "").await.status, StatusCode::NOT_FOUND, "none has been open");
    assert_eq!(trace(&node, Method::DELETE, "").await.status, StatusCode::NOT_FOUND, "none is open");
    for wrong in ["?for=10m", "?for=x", "?for=0s"] {
        assert_eq!(trace(&node, Method::POST, wrong).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let work = async {
        // Once it is open, records tell.
        let begun = Instant::now();
        while counted(&node, "nothing", 0).await.syscalls.is_none() {
            assert!(begun.elapsed() < PATIENCE, "no window is opened");
        }
        assert_eq!(trace(&node, Method::POST, "").await.status, StatusCode::CONFLICT);
        let one = counted(&node, "getppid", 5000).await;
        assert!(one.syscalls.is_some_and(|calls| (5000..5500).contains(&calls)), "{one:?}");
        assert_eq!(node.invoke_ok("worker", ask("denied", 25)).await, json!(true));
        assert_eq!(trace(&node, Method::DELETE, "").await.status, StatusCode::NO_CONTENT);
    };
    let (answer, ()) = tokio::join!(trace(&node, Method::POST, "?for=1m"), work);
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let told: SyscallTrace = serde_json::from_slice(&answer.body).expect("a trace");
    let call = |name: &str| told.calls.iter().find(|call| call.name == name).expect("it was made");
    let getppid = call("getppid");
    assert_eq!((getppid.count, getppid.errors, getppid.denied), (5000, 0, 0));
    assert_eq!(getppid.buckets.iter().sum::<u64>(), 5000);
    assert!(getppid.p50_ns <= getppid.p95_ns && getppid.p95_ns <= getppid.max_ns && getppid.p50_ns > 0);
    // The function's profile does not have it.
    assert_eq!((call("swapon").denied, call("swapon").count), (25, 0));
    assert_eq!((told.trigger.as_str(), told.dropped), ("request", 0));
    assert!(told.invocations >= 3 && told.instances >= 1 && told.duration_ms < 60_000, "{told:?}");

    let again: SyscallTrace =
        serde_json::from_slice(&trace(&node, Method::GET, "").await.body).expect("a trace");
    assert_eq!(again, told, "it is kept");
    assert_eq!(counted(&node, "nothing", 0).await.syscalls, None, "no window, no count");
    assert_eq!(features(&node).await.dropped, Default::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_that_repeat_open_a_window() {
    if !need_root("errors_that_repeat_open_a_window") {
        return;
    }
    let node = node(Node::builder()).await;
    for _ in 0..3 {
        assert_eq!(node.invoke("worker", ask("fail", 0)).await.header("stratos-error"), "function_error");
    }
    let begun = Instant::now();
    while trace(&node, Method::DELETE, "").await.status != StatusCode::NO_CONTENT {
        assert!(begun.elapsed() < PATIENCE, "no window was opened");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let told: SyscallTrace = loop {
        assert!(begun.elapsed() < PATIENCE, "the window does not end");
        let answer = trace(&node, Method::GET, "").await;
        if answer.status == StatusCode::OK {
            break serde_json::from_slice(&answer.body).expect("a trace");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(told.trigger, "errors");
    // At most one a minute.
    for _ in 0..3 {
        node.invoke("worker", ask("fail", 0)).await;
    }
    assert_eq!(trace(&node, Method::DELETE, "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_ends_its_window() {
    if !need_root("a_client_that_goes_ends_its_window") {
        return;
    }
    let node = node(Node::builder()).await;
    let connection = node.begin("POST /v1/functions/worker/trace?for=5m", "");
    let begun = Instant::now();
    while counted(&node, "nothing", 0).await.syscalls.is_none() {
        assert!(begun.elapsed() < PATIENCE, "no window is opened");
    }
    drop(connection);
    while trace(&node, Method::GET, "").await.status != StatusCode::OK {
        assert!(begun.elapsed() < PATIENCE, "the window does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // However early they go, windows can be opened afterwards.
    for _ in 0..8 {
        drop(node.begin("POST /v1/functions/worker/trace?for=5m", ""));
    }
    while trace(&node, Method::POST, "?for=1ms").await.status != StatusCode::OK {
        assert!(begun.elapsed() < PATIENCE, "a window stays half open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_tracing_says_so_and_works() {
    if !need_root("a_node_without_tracing_says_so_and_works") {
        return;
    }
    let node = node(Node::builder().arg("--trace").arg("off")).await;
    let told = features(&node).await;
    assert_eq!((told.tracing.as_str(), told.groups.len()), ("off", 0));
    node.invoke_ok("worker", ask("nothing", 1)).await;
    assert_eq!(last(&node).await, None);
    let refused = trace(&node, Method::POST, "").await;
    assert_eq!(
        (refused.status, refused.header("stratos-error")),
        (StatusCode::NOT_IMPLEMENTED, "unsupported")
    );
    assert!(refused.error().message.contains("--trace off"), "{}", refused.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_features_and_windows() {
    if !need_root("the_command_line_shows_features_and_windows") {
        return;
    }
    let node = node(Node::builder()).await;
    let session = Session::new(&node);
    let told = session.json(&["node", "features"]);
    let groups: Vec<_> = told["groups"].as_array().expect("a list").iter().map(|g| &g["name"]).collect();
    assert_eq!(groups, ["lifecycle", "scheduler", "faults", "network", "syscalls"]);
    for group in told["groups"].as_array().expect("a list") {
        assert_ne!(group["state"], "refused", "this machine's kernel takes all: {group}");
    }
    let output = session.command("stratos").args(["node", "features"]).output().expect("stratos starts");
    let text = String::from_utf8(output.stdout).expect("the output is UTF-8");
    assert!(text.contains("\nscheduler  attached   tp_btf/sched_wakeup_new, "), "{text}");
    assert!(text.contains("\nsyscalls   on demand  tp_btf/sys_enter, tp_btf/sys_exit\n"), "{text}");
    session.check(
        "
$ stratos trace worker --last
! error: `worker` was not traced since the node started
! hint: `stratos trace worker` opens a window
[exit 6]
$ stratos trace worker --stop
! error: no window of `worker` is open
[exit 6]
$ stratos trace nobody --for 1s
! counting the system calls of nobody for 1s ...
! error: there is no function `nobody`
! hint: `stratos ls` lists the functions of this node; `stratos deploy` adds one
[exit 6]
",
    );
    // Ctrl-C ends the window, and what was counted is printed.
    let mut command = session.command("stratos");
    command.args(["trace", "worker", "--for", "5m", "--histogram"]);
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn();
    let child = child.expect("stratos starts");
    let begun = Instant::now();
    while counted(&node, "getppid", 1000).await.syscalls.is_none() {
        assert!(begun.elapsed() < PATIENCE, "no window is opened");
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let output = tokio::task::spawn_blocking(|| child.wait_with_output()).await.expect("no panic");
    let output = output.expect("it ends");
    let text = String::from_utf8(output.stdout).expect("the output is UTF-8");
    assert_eq!(output.status.code(), Some(0), "{text}");
    let row = text.lines().find(|line| line.starts_with("getppid ")).expect("a row");
    assert_eq!(row.split_whitespace().nth(1), Some("1000"), "{text}");
    assert!(
        text.contains("\ngetppid\n") && text.contains("  ########################################\n"),
        "{text}"
    );
    let kept: Value = session.json(&["trace", "worker", "--last"]);
    assert_eq!((&kept["function"], &kept["trigger"]), (&json!("worker"), &json!("request")));
}

/// A program that needs a library which is gone.
fn program_without_its_library() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let cc = |arguments: &[&str]| {
        let status =
            Command::new("cc").args(arguments).current_dir(folder.path()).status().expect("cc starts");
        assert!(status.success(), "cc {arguments:?}");
    };
    let write =
        |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a writable folder");
    write("gone.c", "int gone(void) { return 1; }\n");
    write("main.c", "int gone(void);\nint main(void) { return gone(); }\n");
    cc(&["-shared", "-fPIC", "-Wl,-soname,libgone.so.3", "-o", "libgone.so.3", "gone.c"]);
    cc(&["-o", "server", "main.c", "./libgone.so.3"]);
    std::fs::read(folder.path().join("server")).expect("it was just built")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_cause_of_death_has_its_own_name() {
    if !need_root("each_cause_of_death_has_its_own_name") {
        return;
    }
    let node = node(Node::builder()).await;
    node.deploy(&worker()).await;
    if cfg!(target_arch = "x86_64") {
        let answer = node.invoke("worker", ask("foreign", 0)).await;
        assert_eq!(answer.header("stratos-error"), "function_syscall_denied", "{}", answer.text());
        let says = "was killed for a system call of another architecture, which its profile forbids";
        assert!(answer.error().message.contains(says), "{}", answer.text());
        assert_eq!(node.records("worker").await[0].outcome, "function_syscall_denied");
        node.invoke_ok("worker", ask("nothing", 0)).await;
    }
    let toml = "name = \"gone\"\nruntime = \"native\"\nstart = \"./server\"\n";
    let native =
        Package::new().file("stratos.toml", toml).executable("server", program_without_its_library());
    node.deploy(&native).await;
    let import = "import ctypes\nctypes.CDLL('libgone.so.3')\ndef handler(event, context):\n    return 1\n";
    node.deploy(&Package::python("import", import)).await;
    for name in ["gone", "import"] {
        let answer = match name {
            "gone" => node.call(Call::new(Method::GET, "/f/gone/", "")).await,
            _ => node.invoke(name, "{}").await,
        };
        let got = (answer.header("stratos-error"), answer.header("stratos-blame"));
        assert_eq!(got, ("function_library_missing", "function"), "{name}: {}", answer.text());
        assert!(answer.error().message.contains("`libgone.so.3`"), "{}", answer.text());
        assert_eq!(node.records(name).await[0].outcome, "function_library_missing");
    }
}
