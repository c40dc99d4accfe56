//! The disk image: a GUID partition table, the EFI system partition, both slots, and the state partition at the end.
//!
//! `docs/formats/disk.md` describes it. The file is sparse: what is zero takes no room.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use stratos_types::Digest;

use super::error::ImageError;
use super::gpt::{self, ALIGNMENT, Guid, Partition};
use super::profile::{ImageProfile, PartitionSpec, Role};
use super::seed::Seed;
use super::{esp, state};
use crate::error::at;

/// What goes onto a disk.
pub(crate) struct Contents<'a> {
    /// The root's file system.
    pub(crate) root: &'a Path,
    /// The root's hash tree.
    pub(crate) verity: &'a Path,
    /// The root hash.
    pub(crate) root_hash: Digest,
    /// The runtime layers.
    pub(crate) layers: &'a Path,
    /// Digest of the runtime layers' file.
    pub(crate) layers_digest: Digest,
    /// The unified kernel image.
    pub(crate) uki: &'a Path,
    /// StratOS's version.
    pub(crate) version: &'a str,
}

/// One partition, and what it is for.
struct Planned {
    role: Role,
    /// Whether it is of the slot that holds this version.
    filled: bool,
    partition: Partition,
}

/// Writes the disk image. `tools` holds `mke2fs`.
pub(crate) fn write(
    disk: &Path,
    profile: &ImageProfile,
    contents: &Contents<'_>,
    seed: Seed,
    tools: &Path,
) -> Result<(), ImageError> {
    let plan = plan(profile, contents, seed);
    let end = plan.last().map_or(ALIGNMENT, |last| last.partition.start + last.partition.size);
    let size = gpt::disk_size(end);
    let mut file = File::options().read(true).write(true).create_new(true).open(disk);
    let file = file.as_mut().map_err(|error| at("create", disk)(io::Error::from(error.kind())))?;
    file.set_len(size).map_err(at("extend", disk))?;
    let partitions: Vec<Partition> = plan.iter().map(|planned| planned.partition.clone()).collect();
    gpt::write(file, size, seed.uuid("disk"), &partitions).map_err(at("write", disk))?;
    for Planned { role, filled, partition } in &plan {
        let place = (partition.start, partition.size);
        match (role, filled) {
            (Role::Esp, _) => {
                check_size("the unified kernel image, twice,", contents.uki, 2, place.1)?;
                let volume = u32::from_be_bytes(seed.bytes("esp")[..4].try_into().expect("four of 32 bytes"));
                let places = [
                    format!("EFI/Linux/stratos_{}.efi", contents.version),
                    "EFI/BOOT/BOOTX64.EFI".to_owned(),
                ];
                esp::write(&mut *file, place, volume, contents.uki, &places)
                    .map_err(at("write the EFI partition of", disk))?;
            }
            (Role::State, _) => state::write(disk, place, seed, tools)?,
            (_, false) => {}
            (Role::Root, true) => copy("the root", contents.root, file, place)?,
            (Role::RootVerity, true) => copy("the root's hash tree", contents.verity, file, place)?,
            (Role::Layers, true) => copy("all layers together", contents.layers, file, place)?,
        }
    }
    file.sync_all().map_err(at("sync", disk))?;
    Ok(())
}

/// All partitions in their order: those before the slots, slot A, slot B, and the rest.
fn plan(profile: &ImageProfile, contents: &Contents<'_>, seed: Seed) -> Vec<Planned> {
    let has_slots = |partition: &&PartitionSpec| partition.role.has_slots();
    let slot = |filled| profile.partition.iter().filter(has_slots).map(move |spec| (spec, filled));
    let before = profile.partition.iter().take_while(|spec| !spec.role.has_slots());
    let after = profile.partition.iter().skip_while(|spec| !spec.role.has_slots());
    let after = after.filter(|spec| !spec.role.has_slots());
    let all = before.map(|spec| (spec, true)).chain(slot(true)).chain(slot(false));
    let mut start = ALIGNMENT;
    let planned = |(spec, filled): (&PartitionSpec, bool)| {
        let kind = Guid::parse(&spec.kind).expect("the description was checked");
        let (label, id) = identity(spec.role, filled, contents, seed);
        let partition = Partition { label: label.to_owned(), kind, id, start, size: profile.size(spec.role) };
        start += partition.size;
        Planned { role: spec.role, filled, partition }
    };
    all.chain(after.map(|spec| (spec, true))).map(planned).collect()
}

/// A partition's label and identity.
fn identity(role: Role, filled: bool, contents: &Contents<'_>, seed: Seed) -> (&'static str, Guid) {
    let half = |digest: Digest, second: bool| {
        let hex = digest.hex();
        Guid::parse(if second { &hex[32..] } else { &hex[..32] }).expect("half a digest is 32 hex digits")
    };
    match (role, filled) {
        (Role::Esp, _) => ("esp", seed.uuid("esp")),
        (Role::Root, true) => ("root-a", half(contents.root_hash, false)),
        (Role::RootVerity, true) => ("root-verity-a", half(contents.root_hash, true)),
        (Role::Layers, true) => ("layers-a", half(contents.layers_digest, false)),
        // What the update of a node looks for, so it is the same on all of them.
        (Role::Root, false) => ("_empty", Seed::fixed().uuid("empty root")),
        (Role::RootVerity, false) => ("_empty", Seed::fixed().uuid("empty root-verity")),
        (Role::Layers, false) => ("_empty", Seed::fixed().uuid("empty layers")),
        (Role::State, _) => ("stratos-state", seed.uuid("state")),
    }
}

fn check_size(what: &'static str, file: &Path, times: u64, room: u64) -> Result<(), ImageError> {
    let size = times * std::fs::metadata(file).map_err(at("inspect", file))?.len();
    if size > room { Err(ImageError::TooLarge { what, size, room }) } else { Ok(()) }
}

/// Copies a file into a partition, leaving out what is zero.
fn copy(what: &'static str, from: &Path, disk: &mut File, place: (u64, u64)) -> Result<(), ImageError> {
    check_size(what, from, 1, place.1)?;
    let copied = (|| {
        let mut from = File::open(from)?;
        let mut chunk = vec![0; 1 << 20];
        let mut position = place.0;
        loop {
            let length = from.read(&mut chunk)?;
            if length == 0 {
                return Ok(());
            }
            if chunk[..length].iter().any(|byte| *byte != 0) {
                disk.seek(SeekFrom::Start(position))?;
                disk.write_all(&chunk[..length])?;
            }
            position += length as u64;
        }
    })();
    Ok(copied.map_err(at("copy", from))?)
}

/// A disk with one partition that holds `image` with its hash tree: the debug layer's, which PID 1 finds by the first
/// half of its root hash.
pub(crate) fn write_single(
    disk: &Path,
    label: &str,
    kind: Guid,
    image: &Path,
    identity: Digest,
) -> Result<Digest, ImageError> {
    let mut file = File::create_new(disk).map_err(at("create", disk))?;
    let packed = super::pack::append(&mut file, ALIGNMENT, image, identity).map_err(at("write", disk))?;
    let size = packed.length.next_multiple_of(ALIGNMENT);
    let id = Guid::parse(&packed.root_hash.hex()[..32]).expect("half a digest is 32 hex digits");
    let partition = Partition { label: label.to_owned(), kind, id, start: ALIGNMENT, size };
    let total = gpt::disk_size(ALIGNMENT + size);
    file.set_len(total).map_err(at("extend", disk))?;
    gpt::write(&mut file, total, Seed::new(identity).uuid("disk"), &[partition])
        .map_err(at("write", disk))?;
    file.sync_all().map_err(at("sync", disk))?;
    Ok(packed.root_hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> ImageProfile {
        ImageProfile::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap()
    }

    #[test]
    fn partitions_are_those_of_the_format_one_behind_the_other() {
        let path = Path::new("x");
        let root_hash = Digest::from_bytes(std::array::from_fn(|n| n as u8));
        let contents = Contents {
            root: path,
            verity: path,
            root_hash,
            layers: path,
            layers_digest: Digest::from_bytes([0xAB; 32]),
            uki: path,
            version: "1",
        };
        let plan = plan(&profile(), &contents, Seed::fixed());
        let labels: Vec<_> = plan.iter().map(|planned| planned.partition.label.as_str()).collect();
        let expected =
            ["esp", "root-a", "root-verity-a", "layers-a", "_empty", "_empty", "_empty", "stratos-state"];
        assert_eq!(labels, expected);
        let mut end = ALIGNMENT;
        for planned in &plan {
            assert_eq!(planned.partition.start, end, "{}", planned.partition.label);
            assert_eq!(planned.partition.size % ALIGNMENT, 0);
            end += planned.partition.size;
        }
        let id = |n: usize| plan[n].partition.id.to_string();
        assert_eq!(id(1), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(id(2), "10111213-1415-1617-1819-1a1b1c1d1e1f");
        assert_eq!(id(3), "abababab-abab-abab-abab-abababababab");
        for (a, b) in [(1, 4), (2, 5), (3, 6)] {
            let (a, b) = (&plan[a].partition, &plan[b].partition);
            assert_eq!((a.kind, a.size), (b.kind, b.size), "both slots are alike");
        }
        let mut ids: Vec<_> = (0..plan.len()).map(id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), plan.len(), "no identity is used twice");
    }

    #[test]
    fn a_part_that_is_larger_than_its_partition_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("part");
        std::fs::write(&part, vec![1; 4097]).unwrap();
        let mut disk = tempfile::tempfile().unwrap();
        let error = copy("the root", &part, &mut disk, (0, 4096)).unwrap_err();
        assert!(
            error.to_string().starts_with("the root takes 4097 bytes, its partition has 4096;"),
            "{error}"
        );
        assert_eq!(disk.metadata().unwrap().len(), 0);
    }

    #[test]
    fn a_single_partition_holds_image_and_tree_under_its_root_hash() {
        let folder = tempfile::tempdir().unwrap();
        let (image, disk) = (folder.path().join("image"), folder.path().join("disk"));
        std::fs::write(&image, vec![3; 9000]).unwrap();
        let root = write_single(&disk, "stratos-debug", Guid([1; 16]), &image, Digest::of(b"x")).unwrap();
        let bytes = std::fs::read(&disk).unwrap();
        assert_eq!(bytes.len() as u64, 3 * ALIGNMENT);
        assert_eq!(&bytes[ALIGNMENT as usize..][..9000], &[3; 9000]);
        assert_eq!(&bytes[ALIGNMENT as usize + 12_288..][..6], b"verity");
        let stored = Guid::parse(&root.hex()[..32]).unwrap();
        assert_eq!(bytes[1024 + 20..1024 + 22], stored.0[4..6].iter().rev().copied().collect::<Vec<_>>());
    }
}
