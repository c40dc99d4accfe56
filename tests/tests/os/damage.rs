//! One flipped bit: refused, or read as an error, never executed.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use stratos_api::Blame;
use stratos_tests::{Package, Workshop, guest::PATIENCE};
use stratos_types::{KernelChoice, LayerManifest};
use stratos_vm::VmError;

use crate::{greets, native};

/// Where a partition is on a GPT disk with sectors of 512 bytes (UEFI 2.10, "GPT Partition Entry Array"): bytes from the
/// start, and length.
pub(crate) fn partition(disk: &Path, label: &str) -> (u64, u64) {
    let file = std::fs::File::open(disk).expect("a disk");
    let mut entries = vec![0; 128 * 128];
    file.read_exact_at(&mut entries, 2 * 512).expect("a partition table");
    let entry = entries.chunks_exact(128).find(|entry| {
        let name: Vec<u16> = entry[56..].chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]])).collect();
        String::from_utf16_lossy(&name).trim_end_matches('\0') == label
    });
    let entry = entry.unwrap_or_else(|| panic!("no partition {label}"));
    let sector = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
    (sector(32) * 512, (sector(40) + 1 - sector(32)) * 512)
}

/// A copy of the image's disk.
fn copy(workshop: &Workshop, name: &str) -> PathBuf {
    let (from, to) = (workshop.image().file("disk.img").expect("it has a disk"), workshop.dir().join(name));
    let status = Command::new("cp").arg("--sparse=always").args([&from, &to]).status();
    assert!(status.expect("cp starts").success(), "the disk is copied");
    to
}

fn flip_bit(disk: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(disk).expect("a disk");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 4], at).expect("a byte");
}

/// The root's file system begins with a block that the boot reads first of all.
#[tokio::test(flavor = "multi_thread")]
async fn a_root_with_a_flipped_bit_is_refused() {
    let test = "a_root_with_a_flipped_bit_is_refused";
    let Some(workshop) = Workshop::open(test, KernelChoice::Debian).await else { return };
    let disk = copy(&workshop, "damaged.img");
    flip_bit(&disk, partition(&disk, "root-a").0 + 1024 + 40);
    let machine = workshop.machine().disk(disk).kernel_option("stratos.fatal=poweroff");
    let error = workshop.try_boot(machine).await.err().expect("it does not boot");
    let VmError::Ended { source, .. } = &error else {
        panic!("{error}: {:?}", std::error::Error::source(&error))
    };
    let console = source.to_string();
    assert!(console.contains("stratos: cannot go on"), "{console}");
    assert!(console.contains("verity") || console.contains("damaged"), "{console}");
}

/// Somewhere in its files, a bit that only who reads it meets.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_block_of_the_root_is_read_as_an_error() {
    let test = "a_damaged_block_of_the_root_is_read_as_an_error";
    let Some(workshop) = Workshop::open(test, KernelChoice::Debian).await else { return };
    let disk = copy(&workshop, "damaged.img");
    let bytes =
        std::fs::metadata(workshop.image().file("root.erofs").expect("a root")).expect("a file").len();
    flip_bit(&disk, partition(&disk, "root-a").0 + bytes * 3 / 4);
    let mut guest = workshop.boot_to_shell(workshop.machine().disk(disk)).await;
    let said = guest.shell("find /host -xdev -type f -exec cat {} + 2>&1 >/dev/null").await;
    assert!(said.contains("cat: read error: Input/output error"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_layer_is_not_executed_and_the_others_go_on() {
    let test = "a_damaged_layer_is_not_executed_and_the_others_go_on";
    let Some(workshop) = Workshop::open(test, KernelChoice::Debian).await else { return };
    let disk = copy(&workshop, "damaged.img");
    flip_bit(&disk, partition(&disk, "layers-a").0 + in_python(&workshop));
    let guest = workshop.boot(workshop.machine().disk(disk)).await;
    guest.deploy(&native()).await;
    greets(&guest).await;
    let answer = guest.try_deploy(&Package::folder("examples/hello-python")).await;
    let answer = if answer.status.is_success() { guest.invoke("hello-python", "{}").await } else { answer };
    assert_eq!(answer.error().blame, Blame::Platform, "{}", answer.text());
    greets(&guest).await;
    let corrupted = |line: &stratos_vm::ConsoleLine| line.text.contains("is corrupted").then_some(());
    guest.running.wait_for("the kernel's complaint", 0, PATIENCE, corrupted).await.expect("verity complains");
}

/// Where the layer `python3.13` holds the first page of its interpreter, bytes from the start of the layers.
fn in_python(workshop: &Workshop) -> u64 {
    let manifest = stratos_tests::layers_dir().join("python3.13.json");
    let manifest: LayerManifest =
        serde_json::from_slice(&std::fs::read(manifest).expect("the layer is built")).expect("a manifest");
    let layer = std::fs::read(stratos_tests::layers_dir().join(manifest.image)).expect("the layer's image");
    let pack = std::fs::File::open(workshop.image().file("layers.pack").expect("layers")).expect("a file");
    let layer_at = (0..).step_by(1 << 20).find(|at| {
        let mut begin = vec![0; 8192];
        pack.read_exact_at(&mut begin, *at).expect("the pack holds the layer");
        layer.starts_with(&begin)
    });
    // A name that the interpreter exports, and before it the page that a program file begins with.
    let name = b"Py_InitializeFromConfig\0";
    let name_at = layer.windows(name.len()).position(|window| window == name).expect("the interpreter");
    let mut pages = (0..=name_at / 4096).rev().map(|page| page * 4096);
    let program_at = pages.find(|page| layer[*page..].starts_with(b"\x7fELF")).expect("a program");
    layer_at.expect("a place") + program_at as u64 + 0x20
}
