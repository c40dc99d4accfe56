//! Checkpoints in a virtual machine, with all of the kernel's cgroups and both kernels, and over a reboot.

use std::time::Duration;

use stratos_api::{ErrorCode, FunctionDetail};
use stratos_tests::{Api, Package, Workshop, functional};
use stratos_types::KernelChoice;

use crate::get;

/// Longest wait for a checkpoint: an emulated machine starts Node.js in ten seconds.
const PATIENCE: Duration = Duration::from_secs(120);

const NODE: &str = r#"
    const crypto = require('node:crypto');
    const made = crypto.randomUUID();
    let calls = 0;
    exports.handler = async (event) => {
        if (event.hold) return Buffer.alloc(event.hold << 20, 1).length;
        return { made, calls: ++calls, random: [crypto.randomUUID(), Math.random()], ms: performance.now() };
    };
"#;

const PYTHON: &str = "import secrets\nmade = secrets.token_hex(8)\n\
                      def handler(event, context):\n    return {'made': made, 'random': secrets.token_hex(8)}\n";

async fn ready(node: &Api, name: &str) {
    let begun = std::time::Instant::now();
    loop {
        let detail: FunctionDetail = get(node, &format!("/v1/functions/{name}")).await;
        match detail.checkpoint.state.as_str() {
            "ready" => return,
            "making" => assert!(begun.elapsed() < PATIENCE, "the checkpoint of {name} is not made"),
            _ => panic!("{name}: {:?}", detail.checkpoint),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Two instances at once, so that both are started.
async fn two(node: &Api, name: &str) -> [serde_json::Value; 2] {
    let (one, other) = tokio::join!(node.invoke(name, "{}"), node.invoke(name, "{}"));
    [one, other].map(|answer| {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_ne!(answer.header("stratos-start"), "fresh", "{name}");
        answer.json()
    })
}

async fn instances_go_on_from_a_checkpoint(test: &str, kernel: KernelChoice) {
    let Some(workshop) = Workshop::open(test, kernel).await else { return };
    let guest = workshop.boot(workshop.machine().memory_mib(1536)).await;
    let node = Package::new()
        .file(
            "stratos.toml",
            "name = \"node\"\nruntime = \"node24\"\nhandler = \"index.handler\"\nmemory = \"128MB\"\n",
        )
        .file("index.js", NODE)
        .setting("checkpoint = \"required\"");
    guest.deploy(&node).await;
    ready(&guest, "node").await;
    let made = two(&guest, "node").await;
    assert_eq!(made[0]["made"], made[1]["made"], "both went on from one initialisation");
    assert_ne!(made[0]["random"], made[1]["random"]);

    // The limit is the restored instance's own.
    let error = guest.invoke("node", r#"{"hold":400}"#).await.error();
    assert_eq!(error.code, ErrorCode::FunctionOutOfMemory, "{error:?}");
    assert_eq!(guest.invoke("node", "{}").await.status, 200);

    guest.deploy(&Package::python("python", PYTHON).setting("checkpoint = \"required\"")).await;
    ready(&guest, "python").await;
    let made = two(&guest, "python").await;
    assert_eq!(made[0]["made"], made[1]["made"]);

    for (name, package) in functional::packages() {
        guest.deploy(&package).await;
        ready(&guest, name).await;
        let answer = guest.invoke(name, "{}").await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("stratos-start")),
            (200, "restored"),
            "{}",
            answer.text()
        );
        functional::all_went_on(name, answer.json());
    }
    assert!(guest.power_off().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_go_on_from_a_checkpoint_with_debians_kernel() {
    let test = "instances_go_on_from_a_checkpoint_with_debians_kernel";
    instances_go_on_from_a_checkpoint(test, KernelChoice::Debian).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_go_on_from_a_checkpoint_with_the_own_kernel() {
    let test = "instances_go_on_from_a_checkpoint_with_the_own_kernel";
    instances_go_on_from_a_checkpoint(test, KernelChoice::Stratos).await;
}
