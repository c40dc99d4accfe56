//! Power cuts, and what every boot has in common.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use stratos_api::node::BootRecord;
use stratos_api::path;
use stratos_tests::{Api, Guest, Package, Workshop};
use stratos_types::KernelChoice;

use crate::damage::partition;
use crate::get;

/// How often the power is cut.
const CUTS: u32 = 20;

/// A function whose answer is its version.
fn versioned(version: u32) -> Package {
    let code = format!("def handler(event, context):\n    return {version}\n");
    // Large enough for a deploy to take its time on the disk.
    Package::python("versioned", &code).file("data.bin", vec![version.to_le_bytes()[0]; 4 << 20])
}

async fn answer(node: &Api) -> u64 {
    node.invoke_ok("versioned", "{}").await.as_u64().expect("a number")
}

/// The disk is the same over all boots: what one boot deployed, or half deployed, the next one finds.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_during_a_deploy_leaves_the_old_or_the_new_version() {
    let test = "a_power_cut_during_a_deploy_leaves_the_old_or_the_new_version";
    let Some(workshop) = Workshop::open(test, KernelChoice::Debian).await else { return };
    let disk = workshop.dir().join("kept.qcow2");
    let boot = async || workshop.boot(workshop.machine().keep_disk(disk.clone())).await;
    let mut guest = boot().await;
    let begun = std::time::Instant::now();
    guest.deploy(&versioned(0)).await;
    let whole = begun.elapsed();
    let (mut old, mut news) = (0, 0);
    for cut in 1..=CUTS {
        // From the deploy's begin to about its end, and the last one right after it.
        let after = (cut < CUTS).then(|| whole * (cut - 1) / (CUTS - 2));
        cut_power_during_deploy(guest, cut, after).await;
        check_file_system(&workshop, &disk);
        guest = boot().await;
        let found = answer(&guest).await;
        assert!(found == old || found == u64::from(cut), "cut {cut}: {found} after {old}");
        news += u32::from(found == u64::from(cut));
        old = found;
    }
    assert!((1..CUTS).contains(&news), "{news} of {CUTS} deploys were complete");
    assert_eq!(old, u64::from(CUTS), "a deploy that was answered is kept");
    let boots: Vec<BootRecord> = get(&guest, path::NODE_BOOTS).await;
    same_phases(&boots);
    assert!(guest.power_off().await.success());
    check_file_system(&workshop, &disk);
}

async fn cut_power_during_deploy(guest: Guest, version: u32, after: Option<Duration>) {
    let Guest { running, .. } = guest;
    let client = running.client().expect("it has an identity");
    let package = versioned(version).archive();
    let deploy = tokio::spawn(async move {
        let call = stratos_api::client::Call::new(http::Method::POST, path::DEPLOY, package);
        let response = client.send(call).await?;
        client.collect(response).await.map(drop)
    });
    match after {
        Some(after) => tokio::time::sleep(after).await,
        None => deploy.await.expect("it does not panic").expect("it is answered"),
    }
    running.cut_power();
}

/// After what is in its journal was done, the state's file system is clean.
fn check_file_system(workshop: &Workshop, disk: &Path) {
    let state = workshop.dir().join("state.raw");
    let (at, _) = partition(&workshop.image().file("disk.img").expect("it has a disk"), "stratos-state");
    // Only the partition; e2fsck has no way of its own to find it in a disk.
    let of_disk = format!("driver=raw,offset={at},file.driver=qcow2,file.file.filename={}", disk.display());
    run(Command::new("qemu-img").args(["convert", "-O", "raw", "--image-opts", &of_disk]).arg(&state), &[0]);
    // 1: something was done that needs nobody's decision: the journal, and counts that every mount makes anew.
    run(Command::new("e2fsck").args(["-f", "-p"]).arg(&state), &[0, 1]);
    run(Command::new("e2fsck").args(["-f", "-n"]).arg(&state), &[0]);
    std::fs::remove_file(&state).expect("it was just made");
}

fn run(command: &mut Command, allowed: &[i32]) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let code = output.status.code().unwrap_or(-1);
    let said = [output.stdout, output.stderr].concat();
    assert!(allowed.contains(&code), "{command:?}: {code}\n{}", String::from_utf8_lossy(&said));
}

/// The boots that the node remembers had the same phases in the same order, none of which failed.
fn same_phases(boots: &[BootRecord]) {
    assert!(boots.len() >= 5, "{} boots", boots.len());
    let phases = |boot: &BootRecord| boot.phases.iter().map(|phase| phase.name.clone()).collect::<Vec<_>>();
    for boot in boots {
        assert_eq!(phases(boot), phases(&boots[0]), "boot {}", boot.number);
        assert!(boot.ready_us.is_some(), "boot {} became ready", boot.number);
        let failed: Vec<_> = boot.phases.iter().filter(|phase| phase.outcome == "failed").collect();
        assert!(failed.is_empty(), "boot {}: {failed:?}", boot.number);
        assert!(boot.phases.is_sorted_by_key(|phase| phase.start_us), "boot {}", boot.number);
    }
}
