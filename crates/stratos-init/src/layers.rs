//! Runtime layers: each one a device whose every block the kernel checks, out of one partition that holds all.

use std::path::Path;

use stratos_types::LayerManifest;

use crate::boot::Node;
use crate::disk::Device;
use crate::error::InitError;
use crate::files;
use crate::gpt;
use crate::phase::Outcome;
use crate::root;

/// Manifests of the layers, in the verified root.
const MANIFESTS: &str = "/usr/share/stratos/layers";
const MOST_LAYERS: usize = 64;
const MOST_BYTES: usize = 64 << 10;

/// Makes the devices of every layer that is in the layers partition.
///
/// # Errors
/// When a layer cannot be verified; the others are there.
pub fn set_up(node: &mut Node) -> Result<Outcome, InitError> {
    let (mut made, mut failed) = (Vec::new(), Vec::new());
    let partitions = partitions(node);
    for file in files::names(MANIFESTS, MOST_LAYERS)?.iter().filter(|name| name.ends_with(".json")) {
        let path = Path::new(MANIFESTS).join(file);
        let manifest: LayerManifest = serde_json::from_slice(&files::read(&path, MOST_BYTES)?)
            .map_err(|source| InitError::Json { path, source })?;
        if manifest.packed.is_none() {
            continue;
        }
        match set_up_one(&manifest, &partitions) {
            Ok(()) => made.push(manifest.name),
            Err(error) => failed.push(format!("{}: {}", manifest.name, error.chain())),
        }
    }
    let made = made.join(" ");
    if !failed.is_empty() {
        let failed = failed.join("; ");
        node.ability("layers", false, failed.clone());
        return Err(InitError::invalid("layers", failed));
    }
    if made.is_empty() {
        return Outcome::skipped("the root names none in a partition");
    }
    node.ability("layers", true, format!("{made}, each checked block by block"));
    Outcome::done(made)
}

/// Partitions of layers on the root's disk, the one of the root's slot first.
fn partitions(node: &Node) -> Vec<Device> {
    let Some(found) = &node.root_disk else { return Vec::new() };
    let slot = found.label.rsplit('-').next().unwrap_or_default();
    let label = format!("layers-{slot}");
    let all = found.disk.table.partitions.iter().filter(|partition| partition.kind == gpt::LAYERS);
    let (own, other): (Vec<_>, Vec<_>) = all.partition(|partition| partition.label == label);
    own.into_iter().chain(other).filter_map(|partition| found.disk.device(partition)).collect()
}

/// Makes a layer's devices from the first partition whose bytes fit its root hash.
fn set_up_one(manifest: &LayerManifest, partitions: &[Device]) -> Result<(), InitError> {
    let mut last = InitError::missing("a partition of layers");
    for partition in partitions {
        match try_one(manifest, partition) {
            Ok(()) => return Ok(()),
            Err(error) => {
                remove(&manifest.name);
                last = error;
            }
        }
    }
    Err(last)
}

fn names(layer: &str) -> [String; 2] {
    [format!("layer-{layer}"), format!("layer-{layer}-data")]
}

fn try_one(manifest: &LayerManifest, partition: &Device) -> Result<(), InitError> {
    let packed = manifest.packed.as_ref().ok_or_else(|| InitError::missing("the layer's place"))?;
    let end = packed.offset.checked_add(packed.length).filter(|end| *end <= partition.bytes);
    if end.is_none() || packed.hash_offset >= packed.length || packed.offset % 512 != 0 {
        return Err(InitError::invalid("its place", format!("lies outside of {}", partition.name)));
    }
    let superblock = root::superblock(partition, packed.offset + packed.hash_offset)?;
    if superblock.data_bytes() > packed.hash_offset {
        return Err(InitError::invalid("its verity superblock", "it is of a longer layer"));
    }
    let [verified, data] = names(&manifest.name);
    let place = format!("{} {}", partition.numbers, packed.offset / 512);
    let data = root::make(&data, "linear", packed.length, &place)?;
    let table = superblock.table(&data.numbers, &data.numbers, packed.hash_offset, &packed.root_hash);
    let verified = root::make(&verified, "verity", superblock.data_bytes(), &table)?;
    root::check_first_block(&verified).map(drop)
}

/// Removes what was made of a layer, as far as it was.
pub(crate) fn remove(layer: &str) {
    let Ok(mapper) = stratos_sys::dm::DeviceMapper::open() else { return };
    for name in names(layer) {
        if mapper.remove(&name).is_ok() {
            drop(std::fs::remove_file(Path::new("/dev/mapper").join(name)));
        }
    }
}
