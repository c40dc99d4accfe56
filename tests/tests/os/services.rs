//! PID 1 and what it looks after.

use std::time::{Duration, Instant};

use http::Method;
use stratos_api::ErrorCode;
use stratos_api::client::Call;
use stratos_tests::guest::PATIENCE;
use stratos_tests::{Guest, Package, Workshop};
use stratos_types::KernelChoice;

use crate::{EVENT, greets, native, restarts, status};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_is_started_again_and_functions_are_still_there() {
    let test = "a_killed_agent_is_started_again_and_functions_are_still_there";
    let Some(workshop) = Workshop::open(test, KernelChoice::Debian).await else { return };
    let mut guest = workshop.boot(workshop.with_shell(workshop.machine())).await;
    guest.deploy(&native()).await;
    greets(&guest).await;
    let agent = guest.shell("pidof stratosd").await;
    guest.shell("kill -9 $(pidof stratosd)").await;
    guest.running.answers(PATIENCE).await.expect("the agent is back");
    assert_ne!(guest.shell("pidof stratosd").await, agent);
    assert_eq!(restarts(&guest).await, 1);
    greets(&guest).await;
    // Another may just end of which it was tried to make a checkpoint.
    let begun = Instant::now();
    while guest.shell("pidof bootstrap | wc -w").await.trim() != "1" {
        assert!(begun.elapsed() < PATIENCE, "the old instance went with the old agent");
    }
}

/// By the tools of the debug layer, which is no part of the root.
#[tokio::test(flavor = "multi_thread")]
async fn the_running_root_has_no_shell_and_nothing_setuid() {
    let test = "the_running_root_has_no_shell_and_nothing_setuid";
    let Some(workshop) = Workshop::open(test, KernelChoice::Debian).await else { return };
    let mut guest = workshop.boot(workshop.with_shell(workshop.machine())).await;
    // The shell's own root is the debug layer; the node's is below it.
    let programs = guest.shell("cd /host && find . -xdev -type f -perm /111 | sort").await;
    assert_eq!(programs, "./usr/bin/stratos-init\n./usr/bin/stratosd\n");
    assert_eq!(guest.shell("find /host -xdev -perm /6000").await, "");
    let shells = guest.shell("find /host -xdev | grep -E '/([a-z]*sh|busybox)$'").await;
    assert_eq!(shells, "");
    let mounts = guest.shell("cat /proc/mounts").await;
    let root = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/host")).expect("a root");
    assert!(root.contains(" erofs ro,"), "{root}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_the_node_stays_up() {
    let test = "a_full_disk_is_told_and_the_node_stays_up";
    let Some(workshop) = Workshop::open(test, KernelChoice::Debian).await else { return };
    // The state's partition stays as small as it is in the image.
    let guest = workshop.boot(workshop.machine().disk_bytes(0)).await;
    guest.deploy(&native()).await;
    let total = status(&guest).await.state_total_kb;
    assert!(total < 256 << 10, "a small state: {total} KiB");
    let error = fill(&guest).await;
    assert_eq!(error, ErrorCode::StorageFailed);
    greets(&guest).await;
    let asynchronous = "/v1/functions/hello-native/invoke?mode=async";
    let answer = guest.call(Call::new(Method::POST, asynchronous, EVENT)).await;
    assert!(
        answer.status.is_success() || answer.error().code == ErrorCode::StorageFailed,
        "{}",
        answer.text()
    );
    assert_eq!(restarts(&guest).await, 0);
    let removed = guest.call(Call::new(Method::DELETE, "/v1/functions/ballast-0", "")).await;
    assert!(removed.status.is_success(), "{}", removed.text());
    // What is removed goes with its last instance, soon.
    let begun = Instant::now();
    while !guest
        .try_deploy(&Package::python("small", "def handler(e, c): return 1\n"))
        .await
        .status
        .is_success()
    {
        assert!(begun.elapsed() < PATIENCE, "there is room again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Deploys functions until the node refuses one, and gives the reason.
async fn fill(guest: &Guest) -> ErrorCode {
    for number in 0..64 {
        let ballast = Package::python(&format!("ballast-{number}"), "def handler(e, c): return 1\n")
            .file("ballast.bin", noise(8 << 20, number));
        let answer = guest.try_deploy(&ballast).await;
        if !answer.status.is_success() {
            return answer.error().code;
        }
    }
    panic!("the disk takes no end of functions");
}

/// Bytes that cannot be compressed (xorshift).
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed * 2 + 0x9e37_79b9_7f4a_7c15;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes / 8).flat_map(|_| next()).collect()
}
